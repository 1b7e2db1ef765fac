"""The pages of reference that a script writes are up to date, and say what the program and the specs say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import click
import pytest

from gentle_core.cli import gentle, invoke
from gentle_core.cli.plugin_page import plugin_page
from gentle_core.errors import ComponentError
from gentle_core.plugins import discover

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "write_reference.py"


def write_reference() -> Any:
    spec = importlib.util.spec_from_file_location("write_reference", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES: dict[Path, str] = write_reference().pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_up_to_date(page: Path) -> None:
    assert page.exists() and page.read_text(encoding="utf-8") == PAGES[page], "run python docs/write_reference.py"


def test_every_plugin_of_ours_has_a_page() -> None:
    ours = {path.parent.name.replace("_", "-") for path in (ROOT / "plugins").glob("*/pyproject.toml")}
    assert {page.stem for page in (ROOT / "docs/reference/components").glob("*.md")} == {"core", *ours}


def commands(group: click.Group = gentle) -> list[click.Command]:
    context = click.Context(group)
    found = [group.get_command(context, name) for name in group.list_commands(context)]
    return [c for one in found for c in (commands(one) if isinstance(one, click.Group) else [one]) if c is not None]


def test_every_option_of_every_command_is_explained() -> None:
    text = PAGES[ROOT / "docs/reference/commands.md"]
    for command in commands():
        assert command.help, command.name
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{command.name} {option.opts[0]} has no help"
                assert f"`{option.opts[0]}`" in text


def test_component_page_says_what_the_specs_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plugins", "info", "protein", "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "### `protein/esm2`" in out and "- reads: `protein-sequence`\n- licence: MIT\n- cite: Lin et al." in out
    assert "| `train` | integer | `0` | how many chains of the split to use; 0 for all." in out
    assert "| `path` | path |  | folder of PDB or mmCIF files" in out
    with pytest.raises(ComponentError, match="there is no plugin 'protien' — did you mean 'protein'"):
        plugin_page(discover(), "protien")
