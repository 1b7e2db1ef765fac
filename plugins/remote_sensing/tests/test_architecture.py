"""The plugin keeps to the public interface, and describing it loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLUGIN = Path(__file__).parents[1]


def test_it_imports_the_public_interface_alone() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PLUGIN, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[done.stdout.find("Broken contracts") :] + done.stderr
    assert "0 broken" in done.stdout


def test_the_description_loads_neither_torch_nor_an_image_library() -> None:
    code = """
import sys
import gentle_remote_sensing.plugin
heavy = {"torch", "PIL", "ot", "rasterio", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
