"""What the plugin announces can be found and loaded, and announcing it is cheap."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points

import attrs
import pytest

from gentle_protein import plugin

SPECS = [
    *plugin.gentle_encoders(),
    *plugin.gentle_datasets(),
    *plugin.gentle_augmentations(),
    *plugin.gentle_tasks(),
]


def test_entry_point_leads_here():
    [found] = [point for point in entry_points(group="gentle.plugins") if point.name == "protein"]
    assert found.load() is plugin


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_targets_exist_and_options_are_documented(spec):
    module, _, name = spec.target.partition(":")
    assert callable(getattr(import_module(module), name))
    document = spec.config.__doc__ or ""
    for field in attrs.fields(spec.config):
        inherited = "".join(base.__doc__ or "" for base in spec.config.__mro__)
        assert field.name in inherited, f"{spec.config.__name__}.{field.name} is not documented"
    assert document


def test_announcing_loads_nothing_heavy():
    code = (
        "import sys, gentle_protein.plugin as p\n"
        "for hook in dir(p):\n"
        "    if hook.startswith('gentle_') and callable(getattr(p, hook)): getattr(p, hook)()\n"
        "heavy = ("
        "'torch', 'transformers', 'gemmi', 'esm', 'torch_geometric', 'sklearn')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_parameter_counts_are_known_without_loading():
    for spec in plugin.gentle_encoders():
        assert spec.parameters is not None
        count = spec.parameters(spec.config())
        assert count is None or count > 0 or (spec.name, count) == ("shape", 0)  # that one learns nothing
