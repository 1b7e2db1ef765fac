"""A saved model needs neither the weights' file nor a name to be built again."""

from __future__ import annotations

import torch

from gentle_core.api import BuildContext
from gentle_protein.alphabet import TOKENS
from gentle_protein.esm2.config import Architecture, Esm2Config
from gentle_protein.esm2.encoder import build
from gentle_protein.esm2.trunk import at_random

SHAPE = Architecture(layers=3, width=24, heads=2, feedforward=48, vocabulary=len(TOKENS))


def test_portable_options_rebuild_a_model_whose_files_are_gone(tmp_path):
    at_random(SHAPE, seed=1).save_pretrained(tmp_path / "weights")
    context = BuildContext(cache_dir=tmp_path)
    encoder = build(Esm2Config(path=tmp_path / "weights", layer=2), context)
    options = dict(encoder.portable())
    options["architecture"] = Architecture(**options["architecture"])
    assert "path" not in options
    again = build(Esm2Config(**options), BuildContext(cache_dir=tmp_path, load_weights=False))
    again.load_state_dict(encoder.state_dict())
    inputs = encoder.collate(["ACDEFGH", "MKV"])
    with torch.no_grad():
        assert torch.equal(encoder.eval()(inputs), again.eval()(inputs))


def test_a_named_model_is_built_without_looking_for_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("gentle_protein.esm2.encoder.find", lambda *_: 1 / 0)
    notices: list[str] = []
    context = BuildContext(cache_dir=tmp_path, notify=notices.append, load_weights=False)
    encoder = build(Esm2Config(model="t6_8M"), context)
    assert encoder.width == 320
    assert encoder.portable() is None
    assert not notices
