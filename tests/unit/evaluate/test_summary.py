from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from gentle_core.errors import DataError, NonFiniteError
from gentle_core.evaluate.examples import nearest_examples
from gentle_core.evaluate.geometry import alignment, effective_rank, modality_gap, uniformity
from gentle_core.evaluate.retrieval import retrieval
from gentle_core.evaluate.shortcuts import attribute_r2, equal_attribute_recall, oracle_recall
from gentle_core.evaluate.summary import evaluate_embeddings


def unit(rng: np.random.Generator, n: int, d: int = 6) -> np.ndarray:
    z = rng.normal(size=(n, d))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


def two_towers(n: int = 60):
    rng = np.random.default_rng(0)
    ids = [f"s{i}" for i in range(n)]
    z = {"sequence": unit(rng, n), "structure": unit(rng, n + 4)}
    z["structure"][:n] += z["sequence"]
    samples = {"sequence": ids, "structure": [*ids, "w", "x", "y", "z"]}
    lengths = rng.integers(40, 46, size=n + 4)
    return z, samples, {"sequence": {"length": lengths[:n]}, "structure": {"length": lengths}}


def test_two_towers_have_every_figure_of_the_parts():
    z, samples, attributes = two_towers()
    m = evaluate_embeddings(z, samples, attributes, shortcuts=("length",))
    u, v, a, b = z["sequence"], z["structure"], samples["sequence"], samples["structure"]
    length_u, length_v = attributes["sequence"]["length"], attributes["structure"]["length"]

    expected = retrieval(u, v, a, b, prefix="sequence->structure") | retrieval(v, u, b, a, prefix="structure->sequence")
    assert expected.items() <= m.items()
    assert m["retrieval/mean/R@10"] == pytest.approx(
        (m["retrieval/sequence->structure/R@10"] + m["retrieval/structure->sequence/R@10"]) / 2
    )
    assert m["items/structure"] == 64 and m["retrieval/structure->sequence/without_mate"] == 4
    assert m["gap"] == modality_gap(u, v)
    assert m["alignment"] == alignment(u, v, a, b)
    assert m["uniformity/structure"] == uniformity(v)
    assert m["effective_rank/sequence"] == effective_rank(u)
    assert m["length/R2/sequence"] == attribute_r2(u, length_u)

    both = [
        equal_attribute_recall(u, v, a, b, length_u, length_v),
        equal_attribute_recall(v, u, b, a, length_v, length_u),
    ]
    assert m["length/R@1_equal"] == pytest.approx(np.mean([e.recall for e in both]))
    assert m["length/R@1_equal_chance"] == pytest.approx(np.mean([e.chance for e in both]))
    assert m["length/queries_equal"] == sum(e.queries for e in both) > 0
    oracle = [oracle_recall(length_u, length_v, a, b)["R@1"], oracle_recall(length_v, length_u, b, a)["R@1"]]
    assert m["length/oracle/R@1"] == pytest.approx(np.mean(oracle))
    assert m["length/oracle/R@1_chance"] == pytest.approx((100 / 64 + 100 / 60) / 2)

    assert json.loads(json.dumps(m, allow_nan=False)) == m
    assert all(type(value) is float for value in m.values())
    assert not any("+" in key for key in m)


def test_three_towers_average_over_pairs_and_name_each():
    rng = np.random.default_rng(1)
    z = {name: unit(rng, 20) for name in "abc"}
    samples = {name: list(range(20)) for name in "abc"}
    attributes = {"a": {"size": np.arange(1, 21)}, "b": {"size": np.repeat([5, 9], 10)}, "c": {}}
    m = evaluate_embeddings(z, samples, attributes, shortcuts=("size",))
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    for name in ("gap", "alignment"):
        assert m[name] == pytest.approx(np.mean([m[f"{name}/{a}+{b}"] for a, b in pairs]))
    directions = [f"{a}->{b}" for a, b in pairs] + [f"{b}->{a}" for a, b in pairs]
    assert m["retrieval/mean/R@5"] == pytest.approx(np.mean([m[f"retrieval/{d}/R@5"] for d in directions]))
    assert "size/R2/b" in m and "size/R2/c" not in m
    assert "size/b->c/R@1_equal" not in m

    chosen = evaluate_embeddings(z, samples, pairs=[("a", "c")])
    assert "retrieval/c->a/R@1" in chosen and "retrieval/a->b/R@1" not in chosen
    assert chosen["gap"] == m["gap/a+c"] and "effective_rank/b" in chosen


def test_undefined_figures_are_absent():
    z = {"a": np.eye(3, dtype=np.float32)[:1], "b": np.eye(3, dtype=np.float32)}
    m = evaluate_embeddings(z, {"a": ["p"], "b": ["q", "r", "s"]}, shortcuts=("length",))
    assert "uniformity/a" not in m and "alignment" not in m and "retrieval/mean/R@1" not in m
    assert m["retrieval/a->b/without_mate"] == 1
    assert all(math.isfinite(value) for value in m.values())


def test_mistakes_are_named():
    z, samples, _ = two_towers()
    with pytest.raises(DataError, match="no embeddings of tower text"):
        evaluate_embeddings(z, samples, pairs=[("sequence", "text")])
    with pytest.raises(DataError, match="60 embeddings but 3 sample ids"):
        evaluate_embeddings(z, samples | {"sequence": ["s1", "s2", "s3"]})
    z["sequence"][7, 2] = np.nan
    with pytest.raises(NonFiniteError, match="1 of 60 embeddings are not finite \\(first: s7\\)"):
        evaluate_embeddings(z, samples)


def test_a_scorer_reaches_retrieval_and_the_equal_pools():
    z, samples, attributes = two_towers()

    warp = np.random.default_rng(5).normal(size=(6, 6))

    def warped(a, b):  # not symmetric: the first tower's rows must come first in both directions
        return a.double() @ torch.from_numpy(warp) @ b.double().T

    m = evaluate_embeddings(z, samples, attributes, shortcuts=("length",), scorer=warped)
    turned = evaluate_embeddings(
        {"sequence": z["sequence"] @ warp, "structure": z["structure"]}, samples, attributes, shortcuts=("length",)
    )
    for key in ("retrieval/sequence->structure/R@10", "retrieval/structure->sequence/MRR", "length/R@1_equal"):
        assert m[key] == turned[key]


def example_inputs():
    z, samples, _ = two_towers(30)
    return z["sequence"], z["structure"], samples["sequence"], [f"i{s}" for s in samples["structure"]], samples


def test_examples_tell_what_a_full_sort_tells():
    u, v, items_u, items_v, samples = example_inputs()
    found = nearest_examples(
        u, v, items_u, items_v, samples["sequence"], samples["structure"], names=("sequence", "structure"), count=30
    )
    assert len({e["query"] for e in found}) == 30
    assert {e["hit"] for e in found} == {True, False}  # both kinds occur, as they do in the data
    json.dumps(found)
    for example in found:
        i = items_u.index(example["query"])
        scores = v.astype(np.float64) @ u[i].astype(np.float64)
        order = np.argsort(-scores)
        assert [n["item"] for n in example["neighbours"]] == [items_v[j] for j in order[:5]]
        assert example["rank"] == 1 + int(np.flatnonzero(order == i)[0])
        assert example["hit"] == (example["rank"] <= 5) == any(n["mate"] for n in example["neighbours"])
        assert example["mates"] == [f"i{example['query']}"]
        assert example["neighbours"][0]["score"] == pytest.approx(scores.max())


def test_examples_are_drawn_without_looking_at_scores_or_row_order():
    u, v, items_u, items_v, samples = example_inputs()
    a, b = samples["sequence"], samples["structure"]
    first = nearest_examples(u, v, items_u, items_v, a, b, count=4)
    other = nearest_examples(torch.from_numpy(u[::-1].copy()), -v, items_u, items_v, a, b, count=4)
    assert [e["query"] for e in first] == [e["query"] for e in other]
    reordered = nearest_examples(u[::-1], v, items_u[::-1], items_v, a[::-1], b, count=4)
    assert reordered == first
    assert [e["query"] for e in nearest_examples(u, v, items_u, items_v, a, b, count=4, seed=1)] != [
        e["query"] for e in first
    ]
    back = nearest_examples(v, u, items_v, items_u, b, a, count=99)
    assert len(back) == 30  # the four without a mate are not shown


def test_captions_are_counted_by_both_conventions():
    rng = np.random.default_rng(1)
    photographs, captions = unit(rng, 12), unit(rng, 36)
    order = rng.permutation(36)  # captions of one photograph do not stand together
    owner = [f"p{i % 12}" for i in order]
    z = {"image": photographs, "text": captions}
    ids = [f"p{i}" for i in range(12)]
    m = evaluate_embeddings(z, {"image": ids, "text": owner})
    first = [owner.index(sample) for sample in ids]  # the first caption of each photograph, by a plain search
    fixed = retrieval(photographs, captions[first], ids, ids, prefix="image->text")
    back = retrieval(captions[sorted(first)], photographs, [owner[i] for i in sorted(first)], ids, prefix="text->image")
    for key, value in (fixed | back).items():
        assert m[key.replace("retrieval/", "retrieval_one/")] == value, key
    assert m["retrieval_one/image->text/candidates"] == 12 and m["retrieval/image->text/candidates"] == 36
    assert m["retrieval_one/image->text/R@5_chance"] == pytest.approx(100 * 5 / 12)
    assert m["retrieval_one/mean/R@5"] == pytest.approx(
        (m["retrieval_one/image->text/R@5"] + m["retrieval_one/text->image/R@5"]) / 2
    )


def test_one_item_a_sample_is_not_counted_twice():
    z, samples, _ = two_towers()
    assert not [key for key in evaluate_embeddings(z, samples) if key.startswith("retrieval_one/")]
