"""Every family of image models, from a folder: right features, what trains, and a saved model that comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from gentle_core.api import BuildContext, ComponentError, WeightsError
from gentle_core.recipe.structure import plain, structure
from gentle_vision_language.encoders.config import HfImageConfig
from gentle_vision_language.encoders.hf_image import build

KINDS = ("resnet", "convnext", "vit", "dinov2", "clip", "siglip")


def pictures(picture, count=3):
    return [np.asarray(picture(i, 40 + i, 36)) for i in range(count)]


def expected(kind, folder, pixels):
    """What plain transformers gives."""
    if kind == "clip":
        return hf.CLIPModel.from_pretrained(folder).get_image_features(pixel_values=pixels).pooler_output
    if kind == "siglip":
        return hf.SiglipModel.from_pretrained(folder).vision_model(pixel_values=pixels).pooler_output
    out = hf.AutoModel.from_pretrained(folder)(pixel_values=pixels)
    if kind == "vit":
        return out.last_hidden_state[:, 0]
    return out.pooler_output.flatten(1)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_transformers(kind, model_folder, context, picture, notices):
    folder = model_folder(kind)
    encoder = build(HfImageConfig(path=folder), context).eval()
    inputs = encoder.collate(pictures(picture))
    normalised = (inputs["pixels"] / 255 - encoder.mean) / encoder.std
    with torch.no_grad():
        found = encoder(inputs)
        wanted = expected(kind, folder, normalised)
    assert found.shape == (3, encoder.width)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert encoder.facts()["licence"] == "apache-2.0" and encoder.facts()["random"] is False
    assert notices == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back_without_its_folder(kind, model_folder, context, picture):
    folder = model_folder(kind)
    encoder = build(HfImageConfig(path=folder, train_layers=1), context).eval()
    state, options = encoder.state_dict(), json.loads(json.dumps(plain(encoder.portable())))
    shutil.rmtree(folder)
    again = build(structure(options, HfImageConfig), BuildContext(cache_dir="", load_weights=False)).eval()
    again.load_state_dict(state)
    inputs = encoder.collate(pictures(picture))
    with torch.no_grad():
        assert torch.equal(again(again.collate(pictures(picture))), encoder(inputs))
    assert again.fingerprint() == encoder.fingerprint()
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in encoder.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_last_layers_train_and_the_first_do_not(kind, model_folder, context, picture):
    encoder = build(HfImageConfig(path=model_folder(kind), train_layers=1), context).train()
    encoder(encoder.collate(pictures(picture))).square().sum().backward()
    trained = [name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    names = [name for name, _ in encoder.named_parameters()]
    assert trained and names[0] not in trained
    assert not any("embedding" in name or "embedder" in name for name in trained)


@pytest.mark.parametrize("kind", ["vit", "clip", "resnet"])
def test_adapters(kind, model_folder, context, picture):
    pytest.importorskip("peft")
    folder = model_folder(kind)
    plain_encoder = build(HfImageConfig(path=folder), context).eval()
    encoder = build(HfImageConfig(path=folder, lora=2), context).eval()
    inputs = encoder.collate(pictures(picture))
    assert torch.allclose(encoder(inputs), plain_encoder(inputs), atol=1e-6)  # adapters start at zero
    training = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert training and all("lora_" in name for name in training)
    encoder(inputs).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    options = structure(json.loads(json.dumps(plain(encoder.portable()))), HfImageConfig)
    again = build(options, BuildContext(cache_dir="", load_weights=False)).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(inputs), encoder(inputs))


def test_pooling_and_projection(model_folder, context):
    clip = model_folder("clip")
    assert build(HfImageConfig(path=clip), context).width == 12
    assert build(HfImageConfig(path=clip, projection=False), context).width == 16
    vit = model_folder("vit")
    means = build(HfImageConfig(path=vit, pool="mean"), context)
    assert means.fingerprint() != build(HfImageConfig(path=vit), context).fingerprint()
    with pytest.raises(ComponentError, match="no weights for its pooled output"):
        build(HfImageConfig(path=vit, pool="pooler"), context)


def test_fingerprint_knows_the_pixels(model_folder, context):
    folder = model_folder("vit")
    before = build(HfImageConfig(path=folder), context).fingerprint()
    assert build(HfImageConfig(path=folder), context).fingerprint() == before
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 3}))
    assert build(HfImageConfig(path=folder), context).fingerprint() != before


def test_random_weights_only_when_asked_for(model_folder, context, notices):
    folder = model_folder("resnet")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match='no weights; weights = "random"'):
        build(HfImageConfig(path=folder), context)
    a, b = (build(HfImageConfig(path=folder, weights="random"), context) for _ in range(2))
    assert a.fingerprint() == b.fingerprint() and a.facts()["wanted"] and notices == []
    build(HfImageConfig(path=folder, weights="auto"), context)
    assert "RANDOM" in notices[0]


def test_without_image_processor_it_says_what_it_does(model_folder, context, notices):
    folder = model_folder("vit")
    (folder / "preprocessor_config.json").unlink()
    assert build(HfImageConfig(path=folder), context).preprocess.size == (32, 32)
    assert "no preprocessor_config.json" in notices[0]


def test_new_folders_keep_the_settings_in_processor_config(model_folder, context):
    folder = model_folder("clip")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    before = build(HfImageConfig(path=folder), context).preprocess
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert build(HfImageConfig(path=folder), context).preprocess == before


@pytest.mark.parametrize(
    ("harm", "error", "says"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), WeightsError, "cannot be used"),
        (lambda f: (f / "config.json").write_text("{"), WeightsError, "config.json cannot be used"),
        (lambda f: (f / "config.json").unlink(), WeightsError, "holds no config.json"),
        (lambda f: (f / "preprocessor_config.json").write_text("["), WeightsError, "cannot be read"),
        (lambda f: shutil.rmtree(f), WeightsError, "there is no such folder"),
    ],
)
def test_one_clear_error(harm, error, says, model_folder, context):
    folder = model_folder("vit")
    harm(folder)
    with pytest.raises(error, match=says):
        build(HfImageConfig(path=folder), context)


def test_weights_of_another_model(model_folder, context):
    folder, other = model_folder("vit"), model_folder("dinov2")
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(WeightsError, match="do not belong to this model"):
        build(HfImageConfig(path=folder), context)


def test_wrong_kinds_of_model(model_folder, context):
    with pytest.raises(ComponentError, match="not images: use hf-text"):
        build(HfImageConfig(path=model_folder("bert")), context)
    with pytest.raises(ComponentError, match="has 3 layers"):
        build(HfImageConfig(path=model_folder("vit"), train_layers=4), context)


def test_options_that_contradict():
    with pytest.raises(ValueError, match="nothing says which model"):
        HfImageConfig()
    assert HfImageConfig(model="a/b", package="c", path=Path("/d")).label == "/d"  # so that --set can change a recipe
    with pytest.raises(ValueError, match="lora and train_layers"):
        HfImageConfig(model="a/b", lora=4, train_layers=2)


def test_no_network(monkeypatch, context):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("gentle_vision_language.encoders.hub._cached", lambda config: None)

    def fail(config):
        raise OSError("no route to host")

    monkeypatch.setattr("gentle_vision_language.encoders.hub._download", fail)
    with pytest.raises(WeightsError, match="no route to host") as caught:
        build(HfImageConfig(model="google/vit-base-patch16-224"), context)
    assert "hf download google/vit-base-patch16-224" in str(caught.value)


def test_no_such_package(context):
    with pytest.raises(WeightsError, match="pip install no-such-model"):
        build(HfImageConfig(package="no_such_model"), context)


def test_gradient_checkpointing_changes_nothing(model_folder, context, picture):
    folder = model_folder("vit")
    gradients = []
    for on in (False, True):
        encoder = build(HfImageConfig(path=folder, gradient_checkpointing=on), context).train()
        encoder(encoder.collate(pictures(picture))).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
