"""Imports point one way, and what must start quickly does not load torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_import_contracts() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[done.stdout.find("Broken contracts") :] + done.stderr
    assert "0 broken" in done.stdout


def test_modules_that_load_without_torch() -> None:
    code = """
import importlib, pkgutil, sys
import gentle_core.cli, gentle_core.recipe
names = ["api", "batch", "builtin", "catalog", "errors", "factory", "hookspecs", "plugins", "protocols", "schedule"]
names += ["doctor", "doctor.checks", "health", "scaffold"]
names += ["specs", "data.pools", "data.rows", "data.streams"]
for package in (gentle_core.cli, gentle_core.recipe):
    prefix = package.__name__.removeprefix("gentle_core.")
    names += [f"{prefix}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
for name in names:
    importlib.import_module(f"gentle_core.{name}")
    assert "torch" not in sys.modules, f"gentle_core.{name} loads torch"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
