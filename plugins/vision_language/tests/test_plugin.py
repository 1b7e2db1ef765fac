"""What the plugin announces can be found and loaded, and announcing it is cheap."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points

import attrs
import pytest

from gentle_vision_language import plugin

SPECS = [
    spec
    for name in ("gentle_encoders", "gentle_datasets", "gentle_augmentations")
    for spec in getattr(plugin, name, list)()
]


def test_entry_point_leads_here():
    [found] = [point for point in entry_points(group="gentle.plugins") if point.name == "vision-language"]
    assert found.load() is plugin


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_targets_exist_and_options_are_documented(spec):
    module, _, name = spec.target.partition(":")
    assert callable(getattr(import_module(module), name))
    inherited = "".join(base.__doc__ or "" for base in spec.config.__mro__)
    for field in attrs.fields(spec.config):
        assert field.name in inherited, f"{spec.config.__name__}.{field.name} is not documented"


def test_announcing_loads_nothing_heavy():
    code = (
        "import sys, gentle_vision_language.plugin as p\n"
        "for hook in dir(p):\n"
        "    if hook.startswith('gentle_') and callable(getattr(p, hook)): getattr(p, hook)()\n"
        "heavy = ('torch', 'transformers', 'PIL', 'kornia', 'tokenizers', 'pyarrow', 'sklearn')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_datasets_load_no_torch():
    """`gentle check` counts pairs without torch."""
    modules = sorted({spec.target.partition(":")[0] for spec in plugin.gentle_datasets()})
    code = f"import sys, importlib\nfor m in {modules}: importlib.import_module(m)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
