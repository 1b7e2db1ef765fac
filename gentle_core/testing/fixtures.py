"""Fixtures for the tests of plugins, to be imported in a `conftest.py`. Needs pytest."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gentle_core.batch import BuildContext


@pytest.fixture
def notices() -> list[str]:
    """What a component told the user."""
    return []


@pytest.fixture
def context(tmp_path: Path, notices: list[str]) -> BuildContext:
    """What a component is built with: a cache of its own, and `notices`."""
    return BuildContext(cache_dir=tmp_path / "cache", notify=notices.append)


@pytest.fixture
def real_data(tmp_path: Path) -> Callable[[str], Path]:
    """real_data(tar): the folder where this file of the folder `GENTLE_DATA` is unpacked. Skips the test without it."""

    def unpack(name: str) -> Path:
        folder = os.environ.get("GENTLE_DATA")
        if not folder:
            pytest.skip("GENTLE_DATA names no folder with real data")
        path = Path(folder) / name
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        with tarfile.open(path) as archive:
            archive.extractall(tmp_path / "real", filter="data")
        return tmp_path / "real"

    return unpack
