"""The map, the similarities and the conversion of drawings."""

from __future__ import annotations

import numpy as np
import pytest

from gentle_core.report import maps
from gentle_core.report.curves import running_mean, term_groups, term_panels
from gentle_core.report.examples import derive_examples
from gentle_core.report.figures import similarities
from gentle_core.report.rundir import Points
from gentle_core.report.svg import COLOURS, draw


def towers(n: int, d: int = 8, shift: float = 0.0) -> dict[str, Points]:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(n, d))
    found = {}
    for i, name in enumerate(("a", "b")):
        z = latent + 0.3 * rng.normal(size=(n, d)) + shift * i
        order = rng.permutation(n)
        ids = np.array([f"s{row}" for row in order])
        z = z[order] / np.linalg.norm(z[order], axis=1, keepdims=True)
        found[name] = Points(z.astype(np.float32), np.array([f"{name}{row}" for row in order]), ids)
    return found


def test_the_map_is_small_and_shows_mates_together() -> None:
    points = towers(3000)
    plan = maps.project(points)
    assert plan is not None
    assert sum(map(len, plan.coordinates.values())) == maps.LARGEST
    assert set(plan.samples["a"]) == set(plan.samples["b"])
    assert plan.explained is not None and 0 < plan.explained < 1


def test_lines_join_mates() -> None:
    plan = maps.project(towers(60))
    assert plan is not None
    starts, ends = maps.pair_lines(plan)
    assert len(starts) == maps.LINES
    of = {
        tuple(xy): s for tower in ("a", "b") for xy, s in zip(plan.coordinates[tower], plan.samples[tower], strict=True)
    }
    assert all(of[tuple(p)] == of[tuple(q)] for p, q in zip(starts, ends, strict=True))


def test_pca_keeps_the_largest_variance() -> None:
    points = towers(200)
    plan = maps.project(points)
    assert plan is not None and plan.explained is not None
    z = np.concatenate([p.z for p in points.values()]).astype(float)
    values = np.linalg.svd(z - z.mean(0), compute_uv=False) ** 2
    assert plan.explained == pytest.approx(values[:2].sum() / values.sum(), rel=1e-6)


def test_tsne_is_reproducible() -> None:
    first, second = (maps.project(towers(30), "tsne") for _ in range(2))
    assert first is not None and second is not None and first.method == "tsne"
    assert all((first.coordinates[t] == second.coordinates[t]).all() for t in first.coordinates)


def test_too_little_for_a_map() -> None:
    assert maps.project(towers(1)) is None
    assert maps.project({}) is None
    mixed = {"a": towers(9)["a"], "b": towers(9, d=5)["b"]}
    assert maps.project(mixed) is None


def test_gap_is_the_distance_of_centroids() -> None:
    one = np.array(["x", "y"])
    u = Points(np.array([[1, 0], [1, 0]], np.float32), one, one)
    v = Points(np.array([[-1, 0], [-1, 0]], np.float32), one, one)
    assert maps.centroid_gap(u, v) == pytest.approx(2.0)
    assert maps.centroid_gap(u, u) == 0.0


def test_similarities_of_mates_and_strangers() -> None:
    points = towers(80)
    matched, strangers = similarities(points["a"], points["b"])
    place = {s: z for s, z in zip(points["b"].samples, points["b"].z, strict=True)}
    expected = [float(z @ place[s]) for s, z in zip(points["a"].samples, points["a"].z, strict=True)]
    assert matched == pytest.approx(np.array(expected), abs=1e-6)
    assert abs(strangers.mean()) < 0.05 < matched.mean()


def test_derived_examples_are_ranked_and_random() -> None:
    points = towers(40)
    found = derive_examples(points, 6)
    assert [e.query_tower for e in found] == ["a", "b"] * 3
    assert found == derive_examples(points, 6)
    for e in found:
        scores = [n.score or 0.0 for n in e.neighbours]
        assert scores == sorted(scores, reverse=True) and len(scores) == 5
        hits = [place for place, n in enumerate(e.neighbours, 1) if n.correct]
        assert hits == ([e.rank] if e.rank is not None and e.rank <= 5 else [])


def test_terms_are_told_from_other_figures() -> None:
    line = {"step": 1, "clip": 1.0, "ssl/a": 1.0, "ssl/b": 1.0, "mine": 2.0, "weight/mine": 0.5, "sdd_floor": 0.1,
            "rows/clip": 64, "grad_norm/clip": 0.1, "tau": 0.07, "loss": 3.0, "clip.1": 2.0}  # fmt: skip
    groups = term_groups([line])
    assert groups == {"clip": ["clip"], "ssl": ["ssl/a", "ssl/b"], "mine": ["mine"], "clip.1": ["clip.1"]}


def test_running_mean_keeps_constants_and_short_series() -> None:
    assert (running_mean(np.full(100, 3.0)) == pytest.approx(np.full(100, 3.0))) and len(
        running_mean(np.arange(5.0))
    ) == 5
    noisy = np.random.default_rng(0).normal(size=400)
    slow = [noisy[max(0, i - 10) : i + 11].mean() for i in range(400)]
    assert running_mean(noisy) == pytest.approx(np.array(slow))


def test_logarithmic_axes_are_labelled_in_plain_numbers() -> None:
    lines = [{"step": step, "split": "train", "sdd": 10.0 ** (-step / 10)} for step in range(1, 41)]
    svg = term_panels(lines, [], ["a", "b"])[0].svg
    assert ">0.01<" in svg and "mathdefault" not in svg


def test_drawings_carry_no_colour_of_their_own() -> None:
    def paint(axes: object) -> None:
        axes.plot([0, 1], [0.00012345, 2], color=COLOURS["m3"])  # type: ignore[attr-defined]
        axes.text(0, 1, "a < b & --> $c$ 0.123456")  # type: ignore[attr-defined]

    svg = draw("t", 'label "<x>"', paint)
    assert svg.startswith("<svg viewBox=") and svg.endswith("</svg>")
    assert "var(--m3)" in svg and "#0f0e" not in svg and "#000000" not in svg
    assert "a &lt; b &amp; --&gt; $c$ 0.123456" in svg  # texts keep their digits and are escaped
    assert 'aria-label="label &quot;&lt;x&gt;&quot;"' in svg
    assert "<metadata" not in svg and "<style" not in svg and "http" not in svg
    assert svg == draw("t", 'label "<x>"', paint)
