"""What users of the encoder rely on: invariances, independence of batch mates, caching, noise, presets, errors."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch
from scatter_cdconv import random_chain, random_rotation
from torch_geometric.data import Batch, Data

from gentle_core.api import BuildContext, DataError
from gentle_protein.cdconv import layout
from gentle_protein.cdconv.batches import flat_geometry, join, split
from gentle_protein.cdconv.cache import GeometryCache
from gentle_protein.cdconv.config import PRESETS, CDConvConfig, parameters
from gentle_protein.cdconv.encoder import CDConvEncoder, build
from gentle_protein.cdconv.geometry import Chains
from gentle_protein.chain import Structure

LENGTHS = (3, 40, 17, 64, 9)
ITEMS = [Structure(f"c{k}", random_chain(n, k, (n // 2,) if n > 20 else ())) for k, n in enumerate(LENGTHS)]


def make(seed=0, **options) -> CDConvEncoder:
    return build(CDConvConfig(**options), BuildContext(cache_dir=None, seed=seed))


def embed(encoder, items=ITEMS):
    return encoder.eval()(encoder.collate(items)).detach()


def turned(item: Structure, seed: int) -> Structure:
    return attrs.evolve(item, ca=item.ca.astype(np.float64) @ random_rotation(seed).T + [7.0, -3.0, 20.0])


def test_local_frame_is_invariant_to_pose_and_global_is_not():
    items = [turned(item, k) for k, item in enumerate(ITEMS)]
    local, world = make(frame="local").double(), make(frame="global").double()
    # Positions arrive as float32, a few 1e-6 Å off after a rotation.
    torch.testing.assert_close(embed(local, items), embed(local), rtol=0, atol=1e-4)
    assert (embed(world, items) - embed(world)).abs().max() > 1e-2


def test_translation_changes_nothing_in_either_frame():
    items = [attrs.evolve(item, ca=item.ca + np.float32(8.0)) for item in ITEMS]
    for frame in ("local", "global"):
        encoder = make(frame=frame)
        torch.testing.assert_close(embed(encoder, items), embed(encoder), rtol=0, atol=1e-4)


def test_reflection_is_seen():
    encoder = make()
    mirrored = [attrs.evolve(item, ca=item.ca * np.float32([1, 1, -1])) for item in ITEMS]
    assert (embed(encoder, mirrored) - embed(encoder)).abs().max() > 1e-2


@pytest.mark.parametrize(
    "options", [{"norm": "layer"}, {"norm": "batch"}, {"noise_channels": 4, "evaluation_noise": "seeded"}]
)
def test_embedding_is_independent_of_batch_mates(options):
    encoder = make(**options).double()
    together = embed(encoder)
    for k, item in enumerate(ITEMS):
        torch.testing.assert_close(embed(encoder, [item])[0], together[k], rtol=0, atol=1e-12)
    torch.testing.assert_close(embed(encoder, ITEMS[::-1]).flip(0), together, rtol=0, atol=1e-12)


def test_layer_norm_makes_training_independent_of_batch_mates_too():
    encoder = make(norm="layer", dropout=0.0).train().double()
    together = encoder(encoder.collate(ITEMS))
    alone = encoder(encoder.collate(ITEMS[1:2]))
    torch.testing.assert_close(alone[0], together[1], rtol=0, atol=1e-12)


def test_short_chains_do_not_run_into_the_next_one():
    """Chains of fewer residues than the pooling spans: the published code merges them with their neighbours."""
    items = [Structure(f"s{k}", random_chain(n, 20 + k)) for k, n in enumerate((3, 5, 3, 7, 4, 3))]
    encoder = make(channels=(8, 8, 8, 8), radii=(8, 12, 16, 20)).double()
    together = embed(encoder, items)
    assert together.shape == (6, 8)
    for k, item in enumerate(items):
        torch.testing.assert_close(embed(encoder, [item])[0], together[k], rtol=0, atol=1e-12)


def test_geometry_has_the_same_bits_alone_in_a_batch_and_from_the_cache():
    config = CDConvConfig()
    chains = Chains(LENGTHS)
    whole = flat_geometry(torch.from_numpy(np.concatenate([i.ca for i in ITEMS])), chains, config, None)
    parts = split(whole, chains)
    for item, part in zip(ITEMS, parts, strict=True):
        alone = flat_geometry(torch.from_numpy(item.ca), Chains([len(item)]), config, None)
        assert_same(part, alone)
    assert_same(join([part.compact() for part in parts], chains), whole)


def assert_same(a, b):
    assert torch.equal(a.displacement, b.displacement)
    for left, right in zip(a.stages, b.stages, strict=True):
        for field in attrs.fields(type(left)):
            assert torch.equal(getattr(left, field.name).double(), getattr(right, field.name).double()), field.name


def test_cache_changes_no_bit_and_keeps_what_comes_twice():
    encoder, uncached = make(), make(cache_mib=0)
    expected = embed(uncached)
    for _ in range(3):
        assert torch.equal(embed(encoder), expected)
        assert torch.equal(embed(encoder, [ITEMS[1], *ITEMS[3:]]), embed(uncached, [ITEMS[1], *ITEMS[3:]]))
    assert len(encoder.cache) == len(ITEMS)
    assert encoder.cache.hits > 0
    assert len(uncached.cache) == 0
    assert encoder.cache.nbytes / sum(LENGTHS) < 1500


def test_cache_knows_changed_coordinates_under_the_same_id():
    encoder = make()
    for _ in range(3):
        before = embed(encoder)
    moved = [attrs.evolve(ITEMS[1], ca=ITEMS[1].ca * np.float32(0.98))]
    assert (embed(encoder, moved)[0] - before[1]).abs().max() > 1e-4
    assert len(encoder.cache) == len(ITEMS)  # seen once, not kept
    assert torch.equal(embed(encoder, moved), embed(encoder, moved))
    assert len(encoder.cache) == len(ITEMS) + 1


def test_cache_keeps_chains_at_once_until_one_comes_back_changed():
    encoder = make()
    encoder.collate(ITEMS[:2])
    assert len(encoder.cache) == 2
    encoder.collate([attrs.evolve(ITEMS[0], ca=ITEMS[0].ca * np.float32(0.98)), *ITEMS[2:]])
    assert len(encoder.cache) == 2
    encoder.collate(ITEMS)
    assert len(encoder.cache) == len(ITEMS)


def test_cache_is_bounded_and_starts_empty_in_a_copy():
    encoder = make()
    size = split(flat_geometry(torch.from_numpy(ITEMS[3].ca), Chains([64]), encoder.config, None), Chains([64]))
    limit = 3 * size[0].compact().nbytes
    encoder.cache = GeometryCache(limit)
    items = [Structure(f"x{k}", random_chain(64, 50 + k)) for k in range(8)]
    for _ in range(2):
        encoder.collate(items)
    assert 1 <= len(encoder.cache) < 8
    assert encoder.cache.nbytes <= limit
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert len(other.cache) == 0
        assert other.cache.limit_bytes == limit


def test_gradients_have_the_same_bits_every_time():
    def gradients():
        encoder = make().train()
        torch.manual_seed(5)
        encoder(encoder.collate(ITEMS)).square().sum().backward()
        return [p.grad for p in encoder.parameters()]

    assert all(map(torch.equal, gradients(), gradients()))


def test_options_do_not_load_torch():
    code = "import sys, gentle_protein.cdconv.config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fresh_geometry_in_forward_equals_collated_geometry():
    encoder = make()
    inputs = encoder.collate(ITEMS)
    expected = encoder.eval()(inputs)
    del inputs["geometry"]
    assert torch.equal(encoder(inputs), expected)


def test_position_noise_moves_training_alone():
    encoder = make(position_noise=0.5, dropout=0.0, norm="layer")
    encoder.train()
    inputs = encoder.collate(ITEMS)
    assert "geometry" not in inputs
    torch.manual_seed(1)
    first, second = encoder(inputs), encoder(inputs)
    assert (first - second).abs().max() > 1e-4
    torch.manual_seed(1)
    assert torch.equal(encoder(inputs), first)
    assert torch.equal(embed(encoder), embed(make(dropout=0.0, norm="layer")))
    encoder.train()
    late = make(norm="layer").eval().collate(ITEMS)  # collated by a loader that believes in evaluation
    torch.manual_seed(1)
    assert torch.equal(encoder(late), first)


def test_noise_channels_are_random_in_training_and_fixed_in_evaluation():
    zero = make(noise_channels=4, dropout=0.0)
    seeded = make(noise_channels=4, dropout=0.0, evaluation_noise="seeded")
    assert zero.stages[0][0].enter[0].num_features == 20
    assert (zero.train()(zero.collate(ITEMS)) - zero(zero.collate(ITEMS))).abs().max() > 1e-4
    assert torch.equal(embed(zero), embed(zero))
    assert torch.equal(embed(seeded), embed(seeded))
    renamed = [attrs.evolve(item, id=item.id + "'") for item in ITEMS]
    assert (embed(seeded, renamed) - embed(seeded)).abs().max() > 1e-4
    assert torch.equal(embed(zero, renamed), embed(zero))


def test_residue_types_do_not_exist():
    """A structure carries none, and an item that does gives the same embedding."""
    assert [f.name for f in attrs.fields(Structure)] == ["id", "ca"]
    encoder = make()
    rng = np.random.default_rng(0)
    typed = [SimpleNamespace(id=i.id, ca=i.ca, residues=rng.integers(0, 21, len(i))) for i in ITEMS]
    assert torch.equal(embed(encoder, typed), embed(encoder))


def test_residue_input_reads_types_and_asks_for_them():
    encoder = make(input="residue")
    types = [np.arange(len(item)) % 21 for item in ITEMS]
    typed = [SimpleNamespace(id=i.id, ca=i.ca, residues=t) for i, t in zip(ITEMS, types, strict=True)]
    other = [SimpleNamespace(id=i.id, ca=i.ca, residues=t[::-1].copy()) for i, t in zip(ITEMS, types, strict=True)]
    assert (embed(encoder, typed) - embed(encoder, other)).abs().max() > 1e-4
    with pytest.raises(DataError, match="'c0' brings no residue types"):
        encoder.collate(ITEMS)


def test_built_model_is_determined_by_its_seed_and_leaves_the_global_state():
    state = torch.get_rng_state()
    first, second, third = make(seed=3), make(seed=3), make(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fingerprint() == second.fingerprint() != third.fingerprint()
    assert torch.equal(embed(first), embed(second))
    assert make(seed=3, neighborhood="window").fingerprint() != first.fingerprint()
    assert make(seed=3, cache_mib=0).fingerprint() == first.fingerprint()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_build_and_their_parameters_are_counted(preset):
    config = CDConvConfig(preset=preset)
    with torch.device("meta"):
        encoder = CDConvEncoder(config)
    assert sum(p.numel() for p in encoder.parameters()) == parameters(config)
    assert encoder.width == config.channels[-1]


@pytest.mark.parametrize(
    "options",
    [
        {"input": "residue", "blocks": 3, "noise_channels": 5},
        {"channels": (16, 16), "radii": (8, 12), "norm": "layer", "input_channels": 16},
    ],
)
def test_parameter_count_of_other_shapes(options):
    encoder = make(**options)
    assert sum(p.numel() for p in encoder.parameters()) == parameters(encoder.config)


def test_official_sizes():
    fold, ec = CDConvConfig(preset="fold"), CDConvConfig(preset="ec")
    assert (fold.kernel_size, fold.kernel_channels, fold.base_width) == (5, 24, 64)
    assert (ec.kernel_size, ec.kernel_channels, ec.base_width, ec.channels[-1]) == (21, 32, 16, 2048)
    assert CDConvConfig(preset="go", base_width=16, channels=(8,), radii=(9.0,)).channels == (8,)


def test_initialisation_is_the_published_one():
    conv = make(channels=(64,), radii=(8,), base_width=64).stages[0][0].convolution
    assert 0.9 / 8 < conv.weight.abs().max() <= 1 / 8
    assert 0.9 * (7 * 8) ** -0.5 < conv.directions.abs().max() <= (7 * 8) ** -0.5
    assert conv.offsets.abs().max() == 0


@pytest.mark.parametrize("whole_model", [False, True])
def test_bfloat16_stays_close_and_trains(whole_model):
    """Under autocast, and as a model whose parameters are bfloat16; geometry is float32 in both."""
    encoder = make(dropout=0.0)
    inputs = encoder.collate(ITEMS)
    exact = encoder(inputs)
    if whole_model:
        encoder = encoder.bfloat16()
        assert encoder.collate(ITEMS)["geometry"]["stages"][0]["features"].dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not whole_model):
        out = encoder(inputs)
    assert out.dtype == torch.float32
    assert (out - exact).abs().max() < 0.05 * exact.abs().max()
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_pyg_batch_is_a_drop_in():
    encoder = make().eval()
    graphs = [Data(pos=torch.from_numpy(i.ca), x=torch.zeros(len(i), dtype=torch.long)) for i in ITEMS]
    batch = Batch.from_data_list(graphs)
    assert torch.equal(encoder.encode_pyg(batch), embed(encoder))
    typed = make(input="residue", noise_channels=2, evaluation_noise="seeded").eval()
    assert typed.encode_pyg(batch).shape == (len(ITEMS), typed.width)


def test_pyg_batch_that_cannot_be_used_is_named():
    encoder = make()
    short = Batch.from_data_list([Data(pos=torch.rand(4, 3)), Data(pos=torch.rand(2, 3))])
    with pytest.raises(DataError, match="'graph 1' has 2 residues"):
        encoder.encode_pyg(short)
    with pytest.raises(DataError, match="ascending"):
        encoder.encode_pyg(SimpleNamespace(pos=torch.rand(6, 3), batch=torch.tensor([0, 1, 0, 1, 0, 1])))


def test_bad_chains_are_named():
    encoder = make()
    with pytest.raises(DataError, match="'two' has 2 residues"):
        encoder.collate([Structure("two", np.zeros((2, 3)))])
    with pytest.raises(DataError, match=r"'nan'.*not finite"):
        encoder.collate([Structure("nan", np.full((5, 3), np.nan))])


def test_long_chains_are_searched_in_groups(monkeypatch):
    encoder = make(cache_mib=0)
    expected = encoder.collate(ITEMS)["geometry"]
    monkeypatch.setattr("gentle_protein.cdconv.geometry._PAIRS_AT_ONCE", 2000)
    got = encoder.collate(ITEMS)["geometry"]
    for a, b in zip(got["stages"], expected["stages"], strict=True):
        assert torch.equal(a["features"], b["features"])
        assert all(map(torch.equal, a["around"]["sources"], b["around"]["sources"]))


def test_every_slot_names_its_edge():
    """The layout's index tables are each other's inverse, and free slots carry no weight."""
    chains = Chains(LENGTHS)
    flat = flat_geometry(torch.from_numpy(np.concatenate([i.ca for i in ITEMS])), chains, CDConvConfig(), None)
    edges, count = flat.stages[0], sum(LENGTHS)
    stage, numbering = layout.stage(edges, count, 11)
    around = stage["around"]
    assert torch.equal(numbering.order[numbering.rank], torch.arange(count))
    assert len(around["sources"]) == layout.GROUPS

    targets = torch.arange(count).split([len(group) for group in around["sources"]])
    target = torch.cat([t[:, None].expand_as(s).flatten() for t, s in zip(targets, around["sources"], strict=True)])
    source = torch.cat([group.flatten() for group in around["sources"]])
    features = stage["features"].flatten(0, 1)[stage["row_of_slot"]]
    used = features.abs().sum(1) > 0
    assert len(edges.target) == int(used.sum()) < 1.4 * len(used)

    found = dict(zip(zip(target[used].tolist(), source[used].tolist(), strict=True), features[used], strict=True))
    wanted = zip(numbering.rank[edges.target].tolist(), numbering.rank[edges.source].tolist(), strict=True)
    assert all(torch.equal(found[pair], own) for pair, own in zip(wanted, edges.features, strict=True))
    assert torch.equal(stage["slot_of_row"][stage["row_of_slot"][used]], used.nonzero().squeeze(1))

    mirror = [row[row < len(source)] for group in around["mirror"] for row in group]
    assert sum(map(len, mirror)) == len(edges.target)
    assert all((source[slots] == k).all() and used[slots].all() for k, slots in enumerate(mirror))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8, 8)}, "channels has 2 stages but radii has 3"),
        ({"kernel_size": 4}, "kernel_size=4: must be odd"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"radii": (8.0, -1.0, 2.0)}, "radii"),
        ({"norm": "group"}, "norm='group': must be one of batch, layer"),
        ({"preset": "big"}, "preset='big': must be one of small, fold"),
        ({"base_width": 1}, "base_width=1 leaves no channel"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        CDConvConfig(**options)
