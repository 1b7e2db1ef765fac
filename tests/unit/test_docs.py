"""The documentation: links resolve, marked examples run, hooks and commands are documented, recipes load.

A Python block runs when the line above its fence is `<!-- run -->`; the blocks of a page share one namespace, in order.
`<!-- run: NAME.py -->` saves the block as a single-file plugin, which must load and which later blocks may import.
"""

from __future__ import annotations

import re
import sys
import urllib.parse
from pathlib import Path

import attrs
import click
import pytest

from gentle_core import api, hookspecs
from gentle_core.batch import BuildContext, ItemIndex, LossOut, ParamGroups, Rows
from gentle_core.cli import gentle
from gentle_core.plugins import discover
from gentle_core.recipe import load_recipe
from gentle_core.specs import KINDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("plugins/*/README.md")), *sorted(DOCS.rglob("*.md"))]

RUN = re.compile(r"<!-- run(?:: (?P<file>[\w.]+))? -->\s*\n```python\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<text>.*)$", re.MULTILINE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = (match["text"] for match in HEADING.finditer(FENCED.sub("", page.read_text())))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for match in LINK.finditer(FENCED.sub("", page.read_text())):
        target = urllib.parse.urlsplit(match["target"])
        if target.scheme or target.netloc:
            continue
        there = (page.parent / urllib.parse.unquote(target.path)).resolve() if target.path else page
        if not there.exists() or (target.fragment and target.fragment not in anchors(there)):
            broken.append(match["target"])
    assert not broken, f"{name(page)}: {', '.join(broken)}"


def test_every_page_is_on_the_map() -> None:
    targets = [match["target"] for match in LINK.finditer((DOCS / "index.md").read_text())]
    linked = {(DOCS / target).resolve() for target in targets}
    missing = [name(page) for page in DOCS.rglob("*.md") if page != DOCS / "index.md" and page not in linked]
    assert not missing, f"docs/index.md does not list {', '.join(missing)}"


@pytest.mark.parametrize("page", [page for page in PAGES if RUN.search(page.read_text())], ids=name)
def test_marked_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    namespace: dict[str, object] = {"__name__": "example"}
    text = page.read_text()
    try:
        for match in RUN.finditer(text):
            if match["file"]:
                (tmp_path / match["file"]).write_text(match["code"])
                assert not discover(enabled=False, files=[tmp_path / match["file"]]).problems
            else:
                # Empty lines in front: a traceback then gives the line of the page.
                lines = text[: match.start("code")].count("\n")
                exec(compile("\n" * lines + match["code"], str(page), "exec"), namespace)
    finally:
        for module in set(sys.modules) - before:
            if str(getattr(sys.modules[module], "__file__", None) or "").startswith(str(tmp_path)):
                del sys.modules[module]


def test_there_are_marked_examples() -> None:
    """A marker that no longer matches would switch the test above off silently."""
    marked = {name(page): len(RUN.findall(page.read_text())) for page in PAGES if "<!-- run" in page.read_text()}
    assert {page: (DOCS.parent / page).read_text().count("<!-- run") for page in marked} == marked
    assert sum(marked.values()) >= 5


def reference() -> str:
    return "\n".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))


def test_every_hook_is_in_the_reference() -> None:
    hooks = [hook for hook in vars(hookspecs) if hook.startswith("gentle_")]
    assert len(hooks) >= 6
    text = reference()
    assert not [hook for hook in hooks if f"`{hook}`" not in text]


def test_every_name_and_field_of_the_plugin_interface_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "plugin-interface.md").read_text()
    text = reference()
    assert not [name for name in api.__all__ if not re.search(rf"\b{name}\b", text)]
    for kind, spec in KINDS.items():
        fields = [field.name for field in attrs.fields(spec)]
        assert not [f for f in fields if f"`{f}`" not in page], kind
    for described in (BuildContext, Rows, LossOut, ParamGroups, ItemIndex):
        fields = [field.name for field in attrs.fields(described)]
        assert not [f for f in fields if not re.search(rf"\b{f}\b", page)], described


def test_every_command_is_in_the_reference() -> None:
    text = reference()
    context = click.Context(gentle)
    commands = gentle.list_commands(context)
    assert "run" in commands
    for command in list(commands):
        group = gentle.get_command(context, command)
        if isinstance(group, click.Group):
            commands += [f"{command} {part}" for part in group.list_commands(context)]
    missing = [command for command in commands if not re.search(rf"`gentle {command}\b", text)]
    assert not missing, f"docs/reference does not mention gentle {', '.join(missing)}"


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.toml")), ids=name)
def test_recipes_load(recipe: Path) -> None:
    resolved = load_recipe(recipe)
    assert load_recipe(resolved.to_toml() + "\n").recipe == resolved.recipe
