"""Fixtures that the unit tests share."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_numbers = itertools.count()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Pretend to install a distribution: `install("gentle-audio", code, plugins={"audio": "{module}"})`.

    The code becomes a module of a fresh name, "{module}" in entry points and code stands for it; the name is returned.
    """
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def _install(
        name: str,
        code: str,
        *,
        plugins: dict[str, str] | None = None,
        encoders: dict[str, str] | None = None,
        version: str = "1.0",
        entry_points: str | None = None,
    ) -> str:
        module = f"fake_plugin_{next(_numbers)}"
        modules.append(module)
        (site / f"{module}.py").write_text(textwrap.dedent(code).replace("{module}", module))
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = []
        for group, points in (("gentle.plugins", plugins), ("gentle.encoders", encoders)):
            lines += [f"[{group}]", *(f"{key} = {value}" for key, value in (points or {}).items())]
        text = "\n".join(lines) if entry_points is None else entry_points
        (info / "entry_points.txt").write_text(text.replace("{module}", module))
        return module

    yield _install
    for module in modules:
        sys.modules.pop(module, None)
