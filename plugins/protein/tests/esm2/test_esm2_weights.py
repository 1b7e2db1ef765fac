"""Where weights are looked for, in which order, and what is said when there are none."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EsmForMaskedLM

from gentle_core.api import BuildContext, WeightsError
from gentle_protein.alphabet import EOS, MASK, PAD, encode
from gentle_protein.esm2 import trunk, weights
from gentle_protein.esm2.batching import pad
from gentle_protein.esm2.config import MODELS, SHIPPED, Esm2Config
from gentle_protein.esm2.encoder import Esm2Encoder, build

NAME = "esm2_t6_8M_UR50D"
Folder = Callable[..., Path]
Load = Callable[..., Esm2Encoder]


def into_hub_cache(folder: Path, tmp_path: Path, name: str = NAME) -> Path:
    """Lay a folder out as huggingface_hub keeps a downloaded repository."""
    repository = tmp_path / "hub" / f"models--facebook--{name}"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return snapshot


def test_search_order(tmp_path: Path, hub_folder: Folder, fair_checkpoint: Folder, context: BuildContext) -> None:
    """The more specific place wins; each is found once those before it are gone."""
    folder = hub_folder()
    snapshot = into_hub_cache(folder, tmp_path)
    torch_hub = tmp_path / "torch" / "hub" / "checkpoints" / f"{NAME}.pt"
    cached = tmp_path / "cache" / "esm2" / NAME
    cached_file = tmp_path / "cache" / "esm2" / f"{NAME}.pt"
    torch_hub.parent.mkdir(parents=True)
    shutil.copytree(folder, cached)
    for file in (torch_hub, cached_file):
        shutil.copy(fair_checkpoint(), file)

    given, _ = weights.find(Esm2Config(path=folder), context)
    assert given is not None and given.path == folder
    for place in (snapshot, torch_hub, cached, cached_file):
        found, _ = weights.find(Esm2Config(), context)
        assert found is not None and found.path == place
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert weights.find(Esm2Config(), context)[0] is None


def test_cached_weights_are_built(tmp_path: Path, hub_folder: Folder, context: BuildContext) -> None:
    into_hub_cache(hub_folder(), tmp_path)
    facts = build(Esm2Config(model="t6_8M"), context).facts()
    assert facts["source"] == "the Hugging Face cache"
    assert (facts["model"], facts["random"], facts["layers"], facts["licence"]) == (NAME, False, 3, "MIT")


def test_an_incomplete_download_is_not_taken(tmp_path: Path, hub_folder: Folder, context: BuildContext) -> None:
    snapshot = into_hub_cache(hub_folder(max_shard_size="30KB"), tmp_path)
    assert len(list(snapshot.glob("*.safetensors"))) > 1
    assert weights.find(Esm2Config(), context)[0] is not None
    next(snapshot.glob("*.safetensors")).unlink()
    assert weights.find(Esm2Config(), context)[0] is None


def test_required_names_three_ways(context: BuildContext) -> None:
    with pytest.raises(WeightsError) as caught:
        build(Esm2Config(model="t12_35M"), context)
    message = str(caught.value)
    assert "hf download facebook/esm2_t12_35M_UR50D" in message
    assert "curl -O https://dl.fbaipublicfiles.com/fair-esm/models/esm2_t12_35M_UR50D.pt" in message
    assert 'path = "esm2_t12_35M_UR50D.pt"' in message
    assert f'model = "{SHIPPED}"' in message
    assert 'weights = "auto"' in message
    assert "offline" in message  # why the hub gave nothing


def test_auto_goes_on_loudly(tmp_path: Path) -> None:
    said: list[str] = []
    encoder = build(Esm2Config(weights="auto"), BuildContext(cache_dir=tmp_path, seed=5, notify=said.append))
    assert len(said) == 1 and "RANDOM" in said[0] and NAME in said[0]
    assert encoder.facts()["random"] is True
    assert "sha256" not in encoder.facts()
    same, other = (
        build(Esm2Config(weights="random"), BuildContext(cache_dir=None, seed=seed, notify=said.append))
        for seed in (5, 6)
    )
    assert len(said) == 1  # random weights that were asked for are no surprise
    assert same.fingerprint() == encoder.fingerprint() != other.fingerprint()


def test_random_weights_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build(Esm2Config(model=SHIPPED, weights="random"), BuildContext(cache_dir=None))
    assert torch.equal(torch.rand(3), expected)


def test_auto_does_not_hide_a_wrong_path_or_a_damaged_file(tmp_path: Path, hub_folder: Folder, from_path: Load) -> None:
    with pytest.raises(WeightsError, match="no such file or folder"):
        from_path(tmp_path / "nowhere", weights="auto")
    folder = hub_folder()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be used"):
        from_path(folder, weights="auto")


def test_a_network_is_used_last(
    tmp_path: Path, hub_folder: Folder, context: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub made of a local folder: safetensors are preferred, and nothing else is fetched."""
    folder = hub_folder()
    for extra in ("pytorch_model.bin", "tf_model.h5", "README.md"):
        (folder / extra).write_text("not wanted")
    asked: list[Any] = []

    def snapshot(repository: str, *, allow_patterns: list[str], etag_timeout: float) -> str:
        asked.append((repository, sorted(allow_patterns)))
        assert etag_timeout <= 10
        return str(folder)

    siblings = [SimpleNamespace(rfilename=file.name) for file in folder.iterdir()]
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(siblings=siblings))
    assert weights.find(Esm2Config(), context, download=False)[0] is None and not asked
    facts = build(Esm2Config(), context).facts()
    assert asked == [(f"facebook/{NAME}", ["config.json", "model.safetensors"])]
    assert facts["source"] == f"downloaded from huggingface.co/facebook/{NAME}"


def test_sha256_is_that_of_the_file(hub_folder: Folder, from_path: Load) -> None:
    folder = hub_folder()
    expected = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert from_path(folder).facts()["sha256"] == expected


def test_half_precision_folder_is_widened(hub_folder: Folder, from_path: Load, chains: list[str]) -> None:
    half, whole = from_path(hub_folder("half", half=True)), from_path(hub_folder("whole"))
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    with torch.no_grad():
        a, b = half(half.collate(chains)), whole(whole.collate(chains))
    assert a.dtype == torch.float32
    assert 0 < (a - b).abs().max() < 5e-3


def test_pickled_folders_load_but_run_nothing(hub_folder: Folder, from_path: Load, tmp_path: Path) -> None:
    folder = hub_folder()
    expected = from_path(folder).fingerprint()
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert from_path(folder).fingerprint() == expected

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'mark'}",)

    torch.save({"weight": Malicious()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError):
        from_path(folder)
    assert not (tmp_path / "mark").exists()


def test_a_folder_with_one_checkpoint(fair_checkpoint: Folder, from_path: Load) -> None:
    path = fair_checkpoint("one/model.pt")
    (path.parent / "model-contact-regression.pt").write_bytes(b"not looked at")
    assert from_path(path.parent).facts()["file"] == str(path)
    fair_checkpoint("one/second.pt")
    with pytest.raises(WeightsError, match=r"2 \.pt files"):
        from_path(path.parent)


def test_other_models_are_refused(hub_folder: Folder, from_path: Load) -> None:
    folder = hub_folder()
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"rotary"', '"absolute"'))
    with pytest.raises(WeightsError, match="does not describe an ESM-2 model"):
        from_path(folder)


def test_the_shipped_weights_are_missing(
    context: BuildContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "_DATA", tmp_path)
    with pytest.raises(WeightsError, match="reinstall gentle-protein"):
        build(Esm2Config(model=SHIPPED), context)


def test_the_shipped_weights(context: BuildContext) -> None:
    encoder = build(Esm2Config(model=SHIPPED), context)
    assert encoder.whole == MODELS[SHIPPED]
    facts = encoder.facts()
    assert (facts["source"], facts["random"], facts["licence"]) == ("shipped with gentle-protein", False, "MIT")
    assert Path(facts["file"], "model.safetensors").stat().st_size < 6e6


def test_the_shipped_weights_know_more_than_letter_frequencies() -> None:
    """On held-out chains, masked residues cost less than under the frequencies of these very residues."""
    sample = np.load(weights._DATA / "pdb_sample.npz")
    ends = np.cumsum(sample["length"].astype(int))
    letters = sample["sequence"].tobytes().decode()
    held_out = np.flatnonzero(sample["split"] == 1)[:100]
    tokens = pad([encode(letters[ends[i] - int(sample["length"][i]) : ends[i]]) for i in held_out])
    masked = (torch.arange(tokens.shape[1]) % 7 == 3) & (tokens > EOS)
    with trunk._quiet():
        model = EsmForMaskedLM.from_pretrained(weights._DATA / SHIPPED, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(tokens.masked_fill(masked, MASK), attention_mask=(tokens != PAD).long()).logits
    frequency = torch.bincount(tokens[masked]) / masked.sum()
    entropy = -torch.special.xlogy(frequency, frequency).sum()
    assert torch.nn.functional.cross_entropy(logits[masked], tokens[masked]) < entropy - 0.03


def test_released_weights_where_they_are_at_hand(from_path: Load, chains: list[str]) -> None:
    if not os.environ.get("GENTLE_DATA"):
        pytest.skip("GENTLE_DATA does not point at the development data")
    folder = Path(os.environ["GENTLE_DATA"]).parent / "weights" / "esm2_t6_8M"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    encoder = from_path(folder)
    with torch.no_grad():
        features = encoder(encoder.collate(chains))
    assert features.shape == (len(chains), 320) and features.isfinite().all()
    assert sum(p.numel() for p in encoder.parameters()) == 7_408_960
