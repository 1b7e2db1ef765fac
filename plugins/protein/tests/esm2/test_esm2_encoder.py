"""Pooling, batching, training modes and fingerprints of the encoder."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from gentle_core.api import ComponentError, DataError, Encoder
from gentle_protein.alphabet import MASK, UNK
from gentle_protein.esm2 import encoder as module
from gentle_protein.esm2.batching import group_by_length
from gentle_protein.esm2.encoder import Esm2Encoder

Make = Callable[..., Esm2Encoder]


@torch.no_grad()
def features(encoder: Esm2Encoder, chains: list[str]) -> torch.Tensor:
    return encoder(encoder.collate(chains))


def test_it_is_an_encoder(encoder: Make, chains: list[str]) -> None:
    made = encoder()
    assert isinstance(made, Encoder)
    assert features(made, chains).shape == (len(chains), made.width)
    assert made.size(chains[0]) == len(chains[0])
    pickle.loads(pickle.dumps(made))  # loader workers get a copy


def test_fast_attention_is_used(encoder: Make) -> None:
    assert encoder().trunk.config._attn_implementation == "sdpa"


def test_pooled_by_hand(encoder: Make, chains: list[str]) -> None:
    """One chain at a time, no padding, and a loop over its residues in float64."""
    made = encoder().double()
    pooled = features(made, chains)
    for chain, row in zip(chains, pooled, strict=True):
        tokens = made.collate([chain])["tokens"][0]
        assert tokens.shape == (1, len(chain) + 2)
        with torch.no_grad():
            states, _ = made.residues(tokens)
        total = np.zeros(made.width)
        for position in range(1, len(chain) + 1):  # 0 is CLS, the last is EOS
            total += states[0, position].numpy()
        np.testing.assert_allclose(row.numpy(), total / len(chain), rtol=0, atol=1e-12)


@pytest.mark.parametrize("overhead", [0, 16, 10**6])
def test_neither_padding_nor_company_matters(
    encoder: Make, chains: list[str], overhead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = encoder().double()
    alone = torch.cat([features(made, [chain]) for chain in chains])
    monkeypatch.setitem(module._OVERHEAD, "cpu", overhead)
    groups = made.collate(chains)["tokens"]
    assert len(groups) == {0: len(chains), 10**6: 1}.get(overhead, len(groups))
    for order in itertools.islice(itertools.permutations(range(len(chains))), 0, 120, 17):
        together = features(made, [chains[i] for i in order])
        torch.testing.assert_close(together, alone[list(order)], rtol=0, atol=1e-12)


def test_grouping_is_optimal() -> None:
    """Against every way to cut the sorted batch."""

    def cost(groups: list[list[int]]) -> int:
        return sum(len(g) * max(lengths[i] for i in g) + overhead for g in groups)

    rng = np.random.default_rng(0)
    for overhead in (0, 5, 40, 1000):
        lengths = rng.integers(1, 60, 9).tolist()
        found = group_by_length(lengths, overhead)
        assert sorted(i for g in found for i in g) == list(range(9))
        order = sorted(range(9), key=lambda i: -lengths[i])
        every = []
        for cuts in itertools.product((False, True), repeat=8):
            groups = [[order[0]]]
            for index, cut in zip(order[1:], cuts, strict=True):
                groups.append([index]) if cut else groups[-1].append(index)
            every.append(cost(groups))
        assert cost(found) == min(every)


def test_letters(encoder: Make) -> None:
    made = encoder()
    assert torch.equal(features(made, ["mktayiakqr"]), features(made, ["MKTAYIAKQR"]))
    tokens = made.collate(["MJ*é#"])["tokens"][0]
    assert tokens[0, 2:6].tolist() == [UNK, UNK, UNK, MASK]
    assert features(made, ["MJ*é#"]).isfinite().all()


def test_token_dropout_scaling_is_kept(encoder: Make) -> None:
    """The embedding of an unmasked chain is scaled by .88; masked residues are zeroed and the rest scaled up."""
    made = encoder(layer=0)
    table = made.trunk.embeddings.word_embeddings.weight.detach()
    tokens = made.collate(["ACDA"])["tokens"][0]
    torch.testing.assert_close(features(made, ["ACDA"])[0], 0.88 * table[tokens[0, 1:-1]].mean(0))
    masked = features(made, ["A#DA"])[0]
    kept = made.collate(["ADA"])["tokens"][0][0, 1:-1]
    torch.testing.assert_close(masked, 0.88 / (1 - 1 / 6) * table[kept].sum(0) / 4)


@pytest.mark.parametrize(
    ("items", "message"), [([""], "empty sequence"), (["AC", None], "NoneType"), ([b"AC"], "bytes")]
)
def test_bad_items(encoder: Make, items: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        encoder().collate(items)


def test_long_chains_are_cut_at_their_end(encoder: Make) -> None:
    made, free = encoder(max_length=5), encoder(max_length=0)
    assert torch.equal(features(made, ["ACDEFGHIK"]), features(free, ["ACDEF"]))
    assert made.size("ACDEFGHIK") == 5 and free.size("ACDEFGHIK") == 9
    assert free.collate(["A" * 1500])["tokens"][0].shape == (1, 1502)


def test_layers(encoder: Make, chains: list[str]) -> None:
    assert torch.equal(features(encoder(layer=3), chains), features(encoder(), chains))
    assert torch.equal(features(encoder(layer=2), chains), features(encoder(layer=-2), chains))
    assert not torch.equal(features(encoder(layer=2), chains), features(encoder(), chains))
    assert len(encoder(layer=1).trunk.encoder.layer) == 1
    with pytest.raises(ComponentError, match="has 3 layers"):
        encoder(layer=5)


def trained(made: Esm2Encoder, chains: list[str]) -> set[str]:
    """Names of the parameters that get a gradient that is not zero."""
    made.train()
    made(made.collate(chains)).pow(3).sum().backward()
    return {name for name, p in made.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_train_layers(encoder: Make, chains: list[str]) -> None:
    everything = {name for name, _ in encoder().named_parameters()}
    keys = {name for name in everything if name.endswith("self.key.bias")}  # softmax is blind to a common shift...
    assert everything - trained(encoder(), chains) <= keys  # ...but rotation makes it see most of them
    last = trained(encoder(train_layers=1), chains)
    assert all("layer.2." in name or "emb_layer_norm_after" in name for name in last)
    assert len(last) >= 16
    two = trained(encoder(train_layers=2, layer=2), chains)
    assert {name.split(".")[3] for name in two} == {"0", "1"}
    with pytest.raises(ComponentError, match="has 3 layers"):
        encoder(train_layers=4)


def test_dropout_makes_views_in_training_only(encoder: Make, chains: list[str]) -> None:
    made = encoder(dropout=0.2)
    assert torch.equal(features(made, chains), features(made, chains))
    assert torch.equal(features(made, chains), features(encoder(dropout=0.0), chains))
    made.train()
    one, other = features(made, chains), features(made, chains)
    assert (one - other).abs().amax(1).min() > 1e-3
    still = encoder(dropout=0.0).train()
    assert torch.equal(features(still, chains), features(still, chains))
    attention = encoder(dropout=0.0, attention_dropout=0.2).train()
    assert not torch.equal(features(attention, chains), features(attention, chains))


def test_gradient_checkpointing_changes_no_gradient(encoder: Make, chains: list[str]) -> None:
    plain, saving = encoder(dropout=0.1), encoder(dropout=0.1, gradient_checkpointing=True)
    for made in (plain, saving):
        torch.manual_seed(0)
        trained(made, chains)
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_bfloat16_autocast_pools_in_float32(encoder: Make, chains: list[str]) -> None:
    made = encoder(layer=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = features(made, chains)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, features(made, chains), rtol=0.1, atol=0.05)


def test_fingerprint(encoder: Make) -> None:
    base = encoder()
    first = base.fingerprint()
    assert first == encoder().fingerprint() == encoder(layer=3, dropout=0.3).fingerprint()
    assert len({first, *(encoder(**o).fingerprint() for o in ({"layer": 2}, {"max_length": 9}, {"seed": 1}))}) == 4
    changed = copy.deepcopy(base)
    with torch.no_grad():
        changed.trunk.encoder.layer[1].output.dense.weight[0, 0] += 1e-4
    assert changed.fingerprint() != first
