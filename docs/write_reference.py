"""Write the pages of reference that follow from the code: commands, and the components of our own plugins.

python docs/write_reference.py
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from gentle_core.cli import gentle
from gentle_core.cli.plugin_page import plugin_page
from gentle_core.plugins import discover
from gentle_core.testing.bench import Bench
from gentle_core.testing.cases import CHECKS

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
KINDS = {
    "plugin": "A whole plugin", "component": "A component of any kind", "modality": "Modalities", "encoder": "Encoders",
    "augmentation": "Augmentations", "loss": "Losses", "dataset": "Datasets", "task": "Tasks",
}  # fmt: skip
CHECKS_HEAD = """\
# The checks of the conformance kit

Written by `python docs/write_reference.py`. [The conformance kit](conformance.md) says how to run them and where their
inputs come from. In `expected_failures` and `--expect` a check is `component:check`, as in `cnn:padding`. The quick
ones build nothing and load no torch.
"""
HEAD = """\
# Commands

Written by `python docs/write_reference.py` from the program itself; `gentle COMMAND --help` says the same. Errors are
one line (or a line a problem), a traceback comes with `-v` only; [exit codes](exit-codes.md) are listed apart.
"""


def pages() -> dict[Path, str]:
    """Every generated page, as far as its plugin is installed."""
    catalog = discover()
    owners = ["core", *sorted(p.name.replace("_", "-") for p in (ROOT / "plugins").iterdir() if p.is_dir())]
    there = {plugin.owner for plugin in catalog.plugins if plugin.components}
    found = {
        REFERENCE / "components" / f"{owner}.md": plugin_page(catalog, owner) for owner in owners if owner in there
    }
    written = {"commands.md": commands_page(), "conformance-checks.md": checks_page()}
    return found | {REFERENCE / name: text for name, text in written.items()}


def checks_page() -> str:
    """The checks of the conformance kit, by what they look at."""
    Bench("core", catalog=discover(enabled=False)).cases()  # makes them all
    lines = [CHECKS_HEAD]
    for kind, title in KINDS.items():
        lines += [f"## {title}\n", "| check | what it proves |", "|---|---|"]
        rows = [f"| `{c.name}`{' (quick)' if c.quick else ''} | {c.proves} |" for c in CHECKS if c.kind == kind]
        lines += [*(row.replace("<", "&lt;") for row in rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def commands_page() -> str:
    """All commands with their arguments and options."""
    lines = [HEAD]
    for names, command in _commands(gentle, ("gentle",)):
        if isinstance(command, click.Group):
            continue
        lines.append(f"## {' '.join(names)}\n")
        lines.append(f"`{' '.join((*names, *_arguments(command)))}`\n")
        lines.append(_text(command.help or "") + "\n")
        rows = [_option(parameter) for parameter in command.params if isinstance(parameter, click.Option)]
        if rows:
            lines += ["| option | |", "|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _commands(group: click.Group, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*names, name))


def _arguments(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            name = (parameter.name or "").upper() + ("…" if parameter.nargs == -1 else "")
            yield name if parameter.required else f"[{name}]"


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" {option.make_metavar(click.Context(click.Command('x')))}"
    text = " ".join((option.help or "").split()).replace("|", "\\|").replace("<", "&lt;")
    default = option.default
    if not option.is_flag and isinstance(default, (str, int, float)) and str(default):
        text += f" Default: `{default}`."
    return f"| {names}{value.replace('|', ', ')} | {text} |"


def _text(help_text: str) -> str:
    """A command's help; what click keeps as it stands (after a \\b) becomes code."""
    parts = []
    for part in help_text.split("\n\n"):
        first, _, rest = part.partition("\n")
        parts.append(f"```\n{textwrap.dedent(rest).strip()}\n```" if first.strip() == "\b" else " ".join(part.split()))
    return "\n\n".join(parts)


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
