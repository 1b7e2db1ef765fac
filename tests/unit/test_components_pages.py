"""The pages of reference about components are those that the installed plugins' specs give."""

from __future__ import annotations

from pathlib import Path

import pytest

from gentle_core.cli import invoke
from gentle_core.cli.plugin_page import plugin_page
from gentle_core.errors import ComponentError
from gentle_core.plugins import discover

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/reference/components"
CATALOG = discover()
OURS = {path.name.replace("_", "-") for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists()}


def test_every_plugin_has_a_page() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {"core", *OURS}


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_page_is_up_to_date(page: Path) -> None:
    if page.stem not in {plugin.owner for plugin in CATALOG.plugins if plugin.components}:
        pytest.skip(f"gentle-{page.stem} is not installed")
    command = f"gentle plugins info {page.stem} --markdown > {page.relative_to(ROOT)}"
    assert page.read_text(encoding="utf-8") == plugin_page(CATALOG, page.stem), f"write it again: {command}"


def test_page_says_what_the_specs_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plugins", "info", "protein", "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "### `protein/esm2`" in out and "- reads: `protein-sequence`\n- licence: MIT\n- cite: Lin et al." in out
    assert "| `train` | integer | `0` | how many chains of the split to use; 0 for all." in out
    assert "| `path` | path |  | folder of PDB or mmCIF files" in out
    with pytest.raises(ComponentError, match="there is no plugin 'protien' — did you mean 'protein'"):
        plugin_page(CATALOG, "protien")
