"""Other uses of pools, tried on closed forms: what each adds to CCA on the pairs, over draws of pairs.

    python tests/benchmarks/few_pairs_search.py RECIPE --pairs 50 250 --seeds 5

Figures are mean recalls (R@1, 5, 10, both ways) in percent on the test split; each variant's settings are the best of
a few on validation. Differences are paired by seed, with 95 % intervals of Student's t. Nothing looks at who is whose
mate in a pool. docs/explanation/what-did-not-help.md says what came out, with which recipes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np
import scipy.sparse.linalg
import torch
from few_pairs import interval
from sklearn.cluster import MiniBatchKMeans
from torch.nn import functional as F

from gentle_core.closed_form.features import Features
from gentle_core.closed_form.graph import nearest
from gentle_core.closed_form.linear import Alignment, cca
from gentle_core.closed_form.moments import Moments
from gentle_core.closed_form.select import RIDGES, fit_select
from gentle_core.closed_form.transport import OtEm, OtEmData, ot_em_rounds
from gentle_core.engine.baselines import feature_source
from gentle_core.engine.closed import gather
from gentle_core.engine.progress import Display
from gentle_core.engine.run import recorded
from gentle_core.engine.session import Session
from gentle_core.evaluate.retrieval import describe_all, ranks_both
from gentle_core.recipe import load_recipe

Rows = tuple[torch.Tensor, torch.Tensor]
Embed = Callable[[torch.Tensor, torch.Tensor], Rows]
"""Features of both modalities to unit rows."""


@attrs.frozen(eq=False)
class Case:
    """One draw of pairs: what forms are fitted on, the test split, and one pool with one item a sample."""

    data: Features
    test: Rows
    samples: tuple[list[str], list[str]]
    single_x: torch.Tensor
    single_y: torch.Tensor

    def validation(self, embed: Embed) -> float:
        return recall(embed(self.data.x_val, self.data.y_val), self.data.samples_x_val, self.data.samples_y_val)

    def tested(self, embed: Embed) -> float:
        return recall(embed(*self.test), *self.samples)

    def best(self, found: Iterator[Embed]) -> Embed:
        return max(found, key=self.validation)


def recall(rows: Rows, samples_x: object, samples_y: object) -> float:
    return describe_all(ranks_both(*rows, samples_x, samples_y, ("x", "y")))["retrieval/mean/recall"]  # type: ignore[arg-type]


def drawn(recipe: str, sets: list[str]) -> Case:
    resolved = load_recipe(recipe, sets)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(resolved, Path(folder) / "run", "never", Display(quiet=True))
        with recorded(session):
            session.build()
            pair, train, test = session.builder.pairs()[0], session.split("train"), session.splits["test"]
            source = feature_source(session.builder, session.model)
            assert session.validation is not None
            data = gather(source, train, session.validation, session.pools, pair, use_pools=True)
            assert data is not None
            singles = []
            for tower in pair:
                seen: dict[str, int] = {}
                for position in session.pools.unmatched[tower].tolist():
                    seen.setdefault(train.index[tower].samples[position], position)
                singles.append(source.of(train, tower, list(seen.values()))[list(seen.values())])
            rows = (source.of(test, pair[0]), source.of(test, pair[1]))
            samples = (list(test.index[pair[0]].samples), list(test.index[pair[1]].samples))
    return Case(data, rows, samples, singles[0], singles[1])


def of(alignment: Alignment) -> Embed:
    return lambda x, y: (torch.from_numpy(alignment.embed_x(x)), torch.from_numpy(alignment.embed_y(y)))


def averaged(*members: Embed) -> Embed:
    def embed(x: torch.Tensor, y: torch.Tensor) -> Rows:
        rows = [member(x, y) for member in members]
        return torch.cat([r[0] for r in rows], 1), torch.cat([r[1] for r in rows], 1)

    return embed


def variants(
    case: Case, seed: int, captions: bool = False, transported_rows: Sequence[int] = ()
) -> Iterator[tuple[str, Embed]]:
    """With `captions` only what concerns pools with several items a sample, with `transported_rows` only transport
    between so many rows of each pool, one item a sample."""
    data = case.data
    chosen = fit_select(
        data.x, data.y, data.x_val, data.y_val, samples_x_val=data.samples_x_val, samples_y_val=data.samples_y_val
    )
    power, dimension = chosen.settings["power"], int(chosen.settings["dimension"])
    plain = of(chosen.alignment)
    if not transported_rows:
        yield "CCA on the pairs", plain

    def prepared(rows: int, pool_x: torch.Tensor = data.pool_x, pool_y: torch.Tensor = data.pool_y) -> OtEmData:
        return OtEmData.of(data.x, data.y, pool_x, pool_y, rows, seed)

    usual = prepared(2000)
    for a in () if captions or transported_rows else (0.25, 0.5, 1.0):
        fits = (of(*ot_em_rounds(usual, OtEm(0.0, 0.04, 0, a, ridge, power, dimension))) for ridge in RIDGES[2:])
        yield f"covariances from pairs and pools, a = {a}", case.best(fits)

    ridges = (1.0, 3.0)

    def transported(given: OtEmData) -> Embed:
        every = (
            of(fitted)
            for ridge in ridges for epsilon in (0.04, 0.08)
            for fitted in ot_em_rounds(given, OtEm(0.5, epsilon, 5, 0.5, ridge, power, dimension))
        )  # fmt: skip
        return case.best(every)

    if transported_rows:
        for rows in transported_rows:
            yield f"OT-EM, {rows:,} rows of each pool", transported(prepared(rows, case.single_x, case.single_y))
        yield "CCA on the pairs", plain
        return
    reference = transported(usual)
    yield "OT-EM, 2,000 rows of each pool", reference
    if not captions:
        yield "OT-EM, 4,000 rows of each pool", transported(prepared(4000))
    if len(case.single_y) < len(data.pool_y) or len(case.single_x) < len(data.pool_x):
        yield "OT-EM, one item of each pool sample", transported(prepared(2000, case.single_x, case.single_y))
    if captions:
        return
    for count in [k for k in (100, 500) if 2 * k < min(len(data.pool_x), len(data.pool_y))]:
        centres = [prototypes(pool, count, seed) for pool in (data.pool_x, data.pool_y)]
        few = attrs.evolve(usual, pool_x=centres[0], pool_y=centres[1])
        yield f"OT-EM between {count} prototypes of each pool", transported(few)

    spectral = case.best(spectra(data, power))
    yield "spectral coordinates of each modality's graph, then CCA", spectral
    yield "the same, averaged with CCA", averaged(plain, spectral)
    relative = case.best(anchors(data))
    yield "similarities to the pairs (relational), no map", relative
    yield "the same, averaged with CCA", averaged(plain, relative)
    yield "fused Gromov–Wasserstein plan, then CCA", case.best(gromov(usual, chosen.alignment, power, dimension))
    once = [OtEm(0.5, epsilon, 1, 0.5, ridge, power, dimension) for epsilon in (0.04, 0.08) for ridge in ridges]
    yield "the Sinkhorn plan in its place", case.best(of(list(ot_em_rounds(usual, settings))[-1]) for settings in once)


def prototypes(pool: torch.Tensor, count: int, seed: int) -> np.ndarray:
    z = F.normalize((pool - pool.mean(0)) / pool.std(0).clamp_min(1e-6), dim=1).numpy()
    labels = MiniBatchKMeans(count, n_init=1, random_state=seed, batch_size=2048).fit_predict(z)
    kept = [pool[torch.from_numpy(labels == k)] for k in range(count)]
    return np.stack([rows.double().mean(0).numpy() for rows in kept if len(rows)])


def scaled(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.normalize((rows - like.mean(0)) / like.std(0).clamp_min(1e-6), dim=1)


def spectra(data: Features, power: float, most: int = 4000) -> Iterator[Embed]:
    """Eigenvectors of each modality's neighbour graph over pairs and pools; new rows by their nearest nodes."""
    sides = []
    for pairs, pool in ((data.x, data.pool_x), (data.y, data.pool_y)):
        nodes = torch.cat([pairs, pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))[:most]]])
        unit = scaled(nodes, nodes)
        edges = nearest(unit, unit, 15, itself=False).edges(15, 0.1)
        weight = edges.maximum(edges.T)
        degree = np.asarray(weight.sum(axis=1)).ravel()
        scale = scipy.sparse.dia_array(((degree**-0.5)[None], [0]), shape=weight.shape)
        values, vectors = scipy.sparse.linalg.eigsh((scale @ weight @ scale).tocsr(), 65, which="LA")
        order = np.argsort(-values)[1:]  # the first is constant
        sides.append((nodes, unit, torch.from_numpy(vectors[:, order] / np.sqrt(degree)[:, None])))

    def coordinates(rows: torch.Tensor, side: int) -> torch.Tensor:
        nodes, unit, vectors = sides[side]
        near = nearest(scaled(rows, nodes), unit, 15).edges(15, 0.1)
        return torch.from_numpy(near @ vectors.numpy() / np.asarray(near.sum(axis=1)).reshape(-1, 1))

    of_pairs = coordinates(data.x, 0), coordinates(data.y, 1)
    for count in (16, 32, 64):
        moments = Moments.of(of_pairs[0][:, :count], of_pairs[1][:, :count])
        for ridge in (0.1, 1.0):
            fitted = cca(moments, ridge).weighted(power)
            yield lambda x, y, f=fitted, k=count: of(f)(coordinates(x, 0)[:, :k], coordinates(y, 1)[:, :k])  # type: ignore[misc]


def anchors(data: Features) -> Iterator[Embed]:
    """Rows as their similarities to the paired items of their own modality."""
    for tau in (0.05, 0.1, 0.2):

        def embed(x: torch.Tensor, y: torch.Tensor, tau: float = tau) -> Rows:
            found = []
            for rows, pairs in ((x, data.x), (y, data.y)):
                near = scaled(rows, pairs) @ scaled(pairs, pairs).T
                found.append(F.normalize((near / tau).softmax(dim=1).sqrt().double(), dim=1))
            return found[0], found[1]

        yield embed


def gromov(given: OtEmData, start: Alignment, power: float, dimension: int, rows: int = 600) -> Iterator[Embed]:
    """A plan that also wants equal distances within both modalities, in place of the Sinkhorn plan."""
    import ot

    x, y = given.pool_x[:rows], given.pool_y[:rows]
    cost = 1 - start.embed_x(x) @ start.embed_y(y).T
    within = []
    for side in (x, y):
        z = scaled(torch.from_numpy(side), torch.from_numpy(side))
        within.append((1 - z @ z.T).numpy())
    mass = np.full(rows, 1 / rows), np.full(rows, 1 / rows)
    for alpha in (0.3, 0.7):
        plan = ot.gromov.entropic_fused_gromov_wasserstein(
            cost, *within, *mass, alpha=alpha, epsilon=0.05, max_iter=20, solver="PPA"
        )
        cross = (x - x.mean(0)).T @ plan @ (y - y.mean(0))
        spectrum, pairs_xy = given.spectrum(0.5), given.pairs.xy / given.pairs.count
        for ridge in (1.0, 3.0):
            mixed = spectrum.with_cross(0.5 * pairs_xy + 0.5 * cross)
            yield of(cca(mixed, ridge, dimension).weighted(power, dimension))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--pairs", nargs="+", default=["50"], help="counts or shares (with a dot)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--captions", action="store_true", help="only: one item of each sample of a pool, or all")
    parser.add_argument("--rows", nargs="+", type=int, default=(), help="only: transport between so many rows")
    arguments = parser.parse_args()
    for pairs in arguments.pairs:
        found: dict[str, list[float]] = defaultdict(list)
        for seed in range(arguments.seeds):
            case = drawn(arguments.recipe, [*arguments.sets, f"dataset.paired={pairs}", f"train.seed={seed}"])
            for number, (label, embed) in enumerate(variants(case, seed, arguments.captions, arguments.rows)):
                found[f"{number:2} {label}"].append(case.tested(embed))
        first = next(iter(found.values()))
        print(f"{pairs} pairs, {arguments.seeds} seeds")
        for label, values in found.items():
            gain = "" if values is first else interval([a - b for a, b in zip(values, first, strict=True)])
            print(f"  {label:<62} {np.mean(values):6.2f}   {gain}", flush=True)


if __name__ == "__main__":
    main()
