"""What the core itself brings, announced by the same hooks as any plugin's (owner "core"). Free of torch.

The options of its losses live here, with what follows from them before anything is built.

Besides its fields the config class of a loss may have, all optional:
    `children()`: the registered losses that it builds, as `Child` entries;
    `needs(lookup)`: what the batch must hold, where the options decide that; `lookup` maps a loss name to its spec;
    `hints(paired_rows, rows)`: warnings about options that rarely make sense together.
The module functions `needs` and `hints` ask any loss, with or without these methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from gentle_core.form_names import FormName
from gentle_core.hookspecs import hookimpl
from gentle_core.schedule import Schedule, always_zero, as_weight
from gentle_core.specs import HealthCheck, LossSpec, Need, TaskSpec, TeacherSpec

Lookup = Callable[[str], LossSpec]
Weight = float | Schedule

MIN_SDD_ROWS = 128
"""Below so many rows a tower, two samples of one distribution already differ by some 6e-3 in SDD."""


UNPAIRED: frozenset[Need] = frozenset({"unpaired"})
"""A need that is no condition: the loss makes use of unmatched rows where there are any."""


def _between(low: float, high: float) -> Any:
    return attrs.validators.and_(attrs.validators.ge(low), attrs.validators.le(high))


@attrs.frozen(kw_only=True)
class ClipConfig:
    """Options of `core/clip`.

    Attributes:
        temperature: τ at the start; logits are cosines over τ.
        learn_temperature: learn τ along with the model.
        max_scale: largest 1/τ.
        negatives: "paired": a pair's negatives are the other matched rows. "all": the unmatched rows as well; in a
            shuffled pool some of them are mates in truth.
    """

    temperature: float = attrs.field(default=0.07, validator=attrs.validators.gt(0))
    learn_temperature: bool = True
    max_scale: float = attrs.field(default=100.0, validator=attrs.validators.gt(0))
    negatives: Literal["paired", "all"] = attrs.field(
        default="paired", validator=attrs.validators.in_(("paired", "all"))
    )

    def needs(self, lookup: Lookup | None = None) -> frozenset[Need]:
        pairs: frozenset[Need] = frozenset({"pairs"})
        return pairs | UNPAIRED if self.negatives == "all" else pairs


@attrs.frozen(kw_only=True)
class SslConfig:
    """Options of `core/ssl`.

    Attributes:
        temperature: fixed, and not that of the contrastive loss over pairs.
        form: "ntxent" (both views against all other rows), "simcse" (first views against second views) or "eq7" (as
            printed in the paper, the positive missing from the denominator).
    """

    temperature: float = attrs.field(default=0.05, validator=attrs.validators.gt(0))
    form: Literal["ntxent", "simcse", "eq7"] = attrs.field(
        default="ntxent", validator=attrs.validators.in_(("ntxent", "simcse", "eq7"))
    )


@attrs.frozen(kw_only=True)
class MmdConfig:
    """Options of `core/mmd`.

    Attributes:
        beta: "adversarial": the kernel weights ascend while the model descends. "fixed": they stay at `weights`.
        weights: of the Gaussian and of the polynomial kernel (at the start); scaled to sum to 1.
        floor: the least weight of a kernel under the adversary.
        bandwidth: h of the Gaussian kernel exp(-|x-y|^2/(2h^2)); without it, the median distance in each batch.
        degree, offset: p and c of the polynomial kernel ((x.y+c)/(1+c))^p.
    """

    beta: Literal["adversarial", "fixed"] = attrs.field(
        default="adversarial", validator=attrs.validators.in_(("adversarial", "fixed"))
    )
    weights: tuple[float, float] = attrs.field(default=(0.5, 0.5), converter=tuple)
    floor: float = attrs.field(default=0.05, validator=_between(0, 0.5))
    bandwidth: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.gt(0)))
    degree: int = attrs.field(default=2, validator=attrs.validators.ge(1))
    offset: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))

    @weights.validator
    def _on_the_simplex(self, _: Any, value: Sequence[float]) -> None:
        if len(value) != 2 or min(value) < 0 or sum(value) <= 0:
            raise ValueError(f"weights={value!r}: give two numbers, not negative and not both 0")


@attrs.frozen(kw_only=True)
class SddConfig:
    """Options of `core/sdd`.

    Attributes:
        bandwidth: b, the width of the density kernel in units of a set's standard deviation.
        normalise: compare densities normalised over the points; False compares raw densities, which see a gap
            between the modalities.
        exclude_self: leave a point itself out of the density of its own set.
        detach_target: a set's density under itself is a constant target.
    """

    bandwidth: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    normalise: bool = True
    exclude_self: bool = False
    detach_target: bool = False

    def hints(self, paired_rows: int | None = None, rows: int | None = None) -> list[str]:
        if rows is not None and rows < MIN_SDD_ROWS:
            return [
                f"SDD sees only {rows} rows of a tower in a batch: two samples of one distribution then differ by "
                f"about {0.75 / max(rows, 1):.1g} already; raise train.paired_rows or train.unpaired_rows "
                f"to {MIN_SDD_ROWS} or more in sum"
            ]
        return []


@attrs.frozen(kw_only=True)
class PseudoPairsConfig:
    """Options of `core/pseudo-pairs`.

    Attributes:
        temperature: τ at the start; logits are cosines over τ.
        learn_temperature: learn τ along with the model; it is not that of the loss over pairs.
        max_scale: largest 1/τ.
    """

    temperature: float = attrs.field(default=0.07, validator=attrs.validators.gt(0))
    learn_temperature: bool = True
    max_scale: float = attrs.field(default=100.0, validator=attrs.validators.gt(0))


@attrs.frozen(kw_only=True)
class ClosedFormTeacherConfig:
    """Options of `core/closed-form`, the teacher.

    Attributes:
        forms: the closed forms among which validation chooses, as `gentle baseline` does: one that uses the pools is
            taken only where it is clearly better there. Those that build on CCA need not name it.
    """

    forms: tuple[FormName, ...] = attrs.field(
        default=("cca", "propagation", "ot-em", "ensemble"), validator=attrs.validators.min_len(1)
    )


@attrs.frozen(kw_only=True)
class CcaTeacherConfig:
    """Options of `core/cca`, the teacher.

    Attributes:
        ridge, power, dimension: of the CCA; without them the ones that rank validation items best, where there are any,
            and 1.0, 1.0 and all otherwise.
    """

    ridge: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(0)))
    power: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(0)))
    dimension: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))


@attrs.frozen(kw_only=True)
class AverageTeacherConfig:
    """Options of `core/average`, the model's own moving average as its teacher.

    Attributes:
        decay: of the average: after each step it keeps so much of itself.
    """

    decay: float = attrs.field(default=0.99, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])


@attrs.frozen(kw_only=True)
class SavedRunTeacherConfig:
    """Options of `core/saved-run`, a finished run as the teacher.

    Attributes:
        path: the run's directory, or its `model` folder. Towers are taken by name.
    """

    path: Path


@attrs.frozen(kw_only=True)
class KlotConfig:
    """Options of `core/klot`.

    Attributes:
        target: whose plan is to be met. "modalities": over the matched samples, each modality's own plan by the
            other's. "reference": over all rows, the plan of the rows that the teacher of `[pseudo]` gives the batch's
            items; 0 until it has been asked.
        epsilon: of the plans, in units of cosines.
        target_epsilon: of the target's plan; without it, the same.
        steps: Sinkhorn's alternations for each plan.
    """

    target: Literal["modalities", "reference"] = attrs.field(
        default="modalities", validator=attrs.validators.in_(("modalities", "reference"))
    )
    epsilon: float = attrs.field(default=0.05, validator=attrs.validators.gt(0))
    target_epsilon: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.gt(0))
    )
    steps: int = attrs.field(default=50, validator=attrs.validators.ge(1))

    def needs(self, lookup: Lookup | None = None) -> frozenset[Need]:
        return frozenset({"pairs"}) if self.target == "modalities" else UNPAIRED | {"reference"}


@attrs.frozen(kw_only=True)
class NeighboursConfig:
    """Options of `core/neighbours`.

    Attributes:
        temperature: of the predictions across modalities.
        target_temperature: of the targets within a modality.
    """

    temperature: float = attrs.field(default=0.07, validator=attrs.validators.gt(0))
    target_temperature: float = attrs.field(default=0.1, validator=attrs.validators.gt(0))


@attrs.frozen(kw_only=True)
class SinkhornConfig:
    """Options of `core/sinkhorn`.

    Attributes:
        blur: the distance below which detail is not seen; its square is the entropic regularisation.
        scaling: from 0 to below 1: nearer to 1 is slower and more exact.
    """

    blur: float = attrs.field(default=0.05, validator=attrs.validators.gt(0))
    scaling: float = attrs.field(
        default=0.5, validator=attrs.validators.and_(attrs.validators.gt(0), attrs.validators.lt(1))
    )


@attrs.frozen(kw_only=True)
class Child:
    """A registered loss inside another one: the option it comes from, its name, its own options, its weight."""

    key: str
    use: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    weight: Weight = 1.0


def _child(key: str, table: Mapping[str, Any], default: str | None, weight: Weight) -> Child:
    options = dict(table)
    use = options.pop("use", default)
    if not isinstance(use, str):
        raise ValueError(f"{key}: name a loss with `use`")
    return Child(key=key, use=use, options=options, weight=weight)


@attrs.frozen(kw_only=True)
class GentleConfig:
    """Options of `core/gentle`: alpha (CLIP + mu SSL) + delta MMD + eta SDD, Eqs. 8 and 9 of the paper.

    A weight is a number or a table { start, end, steps, shape }. What weighs 0 throughout is neither built nor
    computed, and asks nothing of the batch.

    Attributes:
        alpha: weight of the contrastive and self-supervised part.
        mu: weight of the self-supervised loss of each tower, within that part.
        delta: weight of MK-MMD.
        eta: weight of SDD.
        clip, ssl, mmd, sdd: options of the four losses; `use` puts another registered loss in a place.
    """

    alpha: float | Schedule = attrs.field(default=1.0, converter=as_weight)
    mu: float | Schedule = attrs.field(default=0.15, converter=as_weight)
    delta: float | Schedule = attrs.field(default=0.3, converter=as_weight)
    eta: float | Schedule = attrs.field(default=1.0, converter=as_weight)
    clip: Mapping[str, Any] = attrs.field(factory=dict)
    ssl: Mapping[str, Any] = attrs.field(factory=dict)
    mmd: Mapping[str, Any] = attrs.field(factory=dict)
    sdd: Mapping[str, Any] = attrs.field(factory=dict)

    def children(self) -> list[Child]:
        """The parts whose weight is not 0 throughout. The weight of "ssl" is still to be multiplied by alpha."""
        alive = {
            "clip": (self.alpha, not always_zero(self.alpha)),
            "ssl": (self.mu, not always_zero(self.alpha) and not always_zero(self.mu)),
            "mmd": (self.delta, not always_zero(self.delta)),
            "sdd": (self.eta, not always_zero(self.eta)),
        }
        return [
            _child(key, getattr(self, key), f"core/{key}", weight) for key, (weight, needed) in alive.items() if needed
        ]

    def needs(self, lookup: Lookup) -> frozenset[Need]:
        # Without a single pair the contrastive part is 0 and the rest goes on: pairs are wanted, not needed.
        return _needs_of(self.children(), lookup) - {"pairs"}

    def hints(self, paired_rows: int | None = None, rows: int | None = None) -> list[str]:
        found = []
        if not always_zero(self.eta) and self.sdd.get("normalise", True):
            if always_zero(self.delta) and paired_rows == 0:
                found.append(
                    "eta > 0 with delta = 0 and no pairs: SDD cannot see a gap between the modalities, and nothing "
                    "else closes it; give delta a value or pair some samples"
                )
            if always_zero(self.mu) or always_zero(self.alpha):
                found.append(
                    "eta > 0 with mu = 0: SDD without the self-supervised loss lowered results in the paper's own "
                    "ablation (Table 4); give mu a value, 0.15 for instance"
                )
        if not always_zero(self.alpha) and paired_rows == 0:
            found.append("alpha > 0 but no pairs: the contrastive loss over pairs is 0 at every step")
        return found


@attrs.frozen(kw_only=True)
class SumConfig:
    """Options of `core/sum`.

    Attributes:
        terms: tables { use, weight, … }: a registered loss, its weight (a number or a schedule; 1 by default), its
            options.
    """

    terms: tuple[Mapping[str, Any], ...] = attrs.field(converter=tuple, validator=attrs.validators.min_len(1))

    def children(self) -> list[Child]:
        """The terms whose weight is not 0 throughout."""
        found = []
        for i, table in enumerate(self.terms):
            options = dict(table)
            weight = as_weight(options.pop("weight", 1.0))
            if not always_zero(weight):
                found.append(_child(f"terms[{i}]", options, None, weight))
        return found

    def needs(self, lookup: Lookup) -> frozenset[Need]:
        return _needs_of(self.children(), lookup)


@attrs.frozen(kw_only=True)
class OnlyRowsConfig:
    """Options of `core/only-rows`.

    Attributes:
        keep: which rows of a tower the loss sees: "matched", "unmatched" or "all", by tower. A tower that is not named
            keeps all.
        loss: table { use, … }: a registered loss and its options.
    """

    keep: Mapping[str, str] = attrs.field(factory=dict)
    loss: Mapping[str, Any]

    @keep.validator
    def _known(self, _: Any, value: Mapping[str, str]) -> None:
        for tower, rows in value.items():
            if rows not in ("matched", "unmatched", "all"):
                raise ValueError(f"keep.{tower}={rows!r}: choose 'matched', 'unmatched' or 'all'")

    def children(self) -> list[Child]:
        return [_child("loss", self.loss, None, 1.0)]

    def needs(self, lookup: Lookup) -> frozenset[Need]:
        found = _needs_of(self.children(), lookup)
        return found | UNPAIRED if "unmatched" in self.keep.values() else found


def _needs_of(children: Sequence[Child], lookup: Lookup) -> frozenset[Need]:
    found: frozenset[Need] = frozenset()
    for child in children:
        spec = lookup(child.use)
        found |= needs(spec, _typed(spec, child.options), lookup)
    return found


def _typed(spec: LossSpec, options: Mapping[str, Any]) -> Any:
    """The typed options, or None where they cannot be had in this plain way (a wrong option is reported elsewhere)."""
    try:
        return spec.config(**options)
    except (TypeError, ValueError):
        return None


def needs(spec: LossSpec, config: Any, lookup: Lookup) -> frozenset[Need]:
    """What a loss with these options must find in a batch ("views", …), or uses where there is any ("unpaired")."""
    ask = getattr(config, "needs", None)
    return ask(lookup) if callable(ask) else frozenset(spec.needs)


def hints(
    spec: LossSpec, config: Any, lookup: Lookup, *, paired_rows: int | None = None, rows: int | None = None
) -> list[str]:
    """Warnings about a loss and its children.

    Args:
        paired_rows: matched rows in a global batch, if known.
        rows: rows of the tower with the fewest in a global batch, if known.
    """
    ask, parts = getattr(config, "hints", None), getattr(config, "children", None)
    found = list(ask(paired_rows, rows)) if callable(ask) else []
    for child in parts() if callable(parts) else ():
        of_child = lookup(child.use)
        found += hints(of_child, _typed(of_child, child.options), lookup, paired_rows=paired_rows, rows=rows)
    return found


@attrs.frozen(kw_only=True)
class LabelledConfig:
    """What the tasks on labelled items share.

    Attributes:
        path: the folder of labelled items, the option `path` of the dataset; `gentle eval --data FOLDER`.
        dataset: table { use, … }: the dataset that reads it. Without `use`, the installed one that reads folders of
            labelled items for the tower.
        tower: the tower whose items are classified, where several could be.
        overlap: what happens to items that are, by content, also among the run's training items. "flag": they are
            counted, and figures without them stand beside. "drop": they are left out. "refuse": the task stops.
    """

    path: Path | None = None
    dataset: Mapping[str, Any] = attrs.field(factory=dict)
    tower: str = ""
    overlap: Literal["flag", "drop", "refuse"] = "flag"


@attrs.frozen(kw_only=True)
class ZeroShotConfig(LabelledConfig):
    """Options of `core/zero-shot`.

    Attributes:
        templates: texts with {} in place of the class's name; their embeddings are averaged. Without any, the
            dataset's own ("an aerial photograph of {}."), or the bare name.
        names: the tower that reads the texts, where several could.
        split: "all", or the one split of the dataset that is classified.
    """

    templates: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    names: str = ""
    split: Literal["all", "train", "val", "test"] = "all"

    @templates.validator
    def _has_a_place(self, _: Any, value: Sequence[str]) -> None:
        for template in value:
            if "{}" not in template:
                raise ValueError(f"{template!r} has no {{}} where the name of the class goes")


@attrs.frozen(kw_only=True)
class LinearProbeConfig(LabelledConfig):
    """Options of `core/linear-probe`.

    Attributes:
        space: "feature" (what the encoder gives), "joint" (the aligned embedding), or "both".
        split_seed: deals the items of a dataset without splits of its own to train, val and test (60, 20, 20 %).
    """

    space: Literal["both", "feature", "joint"] = "both"
    split_seed: int = 0


@attrs.frozen(kw_only=True)
class KnnConfig(LinearProbeConfig):
    """Options of `core/knn`; the others are those of `core/linear-probe`.

    Attributes:
        k: the number of neighbours that vote.
    """

    k: int = attrs.field(default=5, validator=attrs.validators.ge(1))


_GENTLE_CLIP = "Song et al. 2024, Gentle-CLIP"
_TARGETS = "the targets are made from the rows themselves and held constant"
_MEDIAN = "the bandwidth of MMD is the median distance of the batch, taken as a constant"


@hookimpl
def gentle_health_checks() -> Iterable[HealthCheck]:
    summaries = {
        "versions": "Python, and what is required of other distributions",
        "plugins": "What discovery could not use",
        "torch": "Build, devices, and a gradient",
        "deepspeed": "Whether it is there and starts",
        "hub": "Whether weights can be downloaded",
        "cache": "Leftovers and damaged files",
        "disk": "Room for runs, cache and loader processes",
    }
    return [
        HealthCheck(name=name, target=f"gentle_core.doctor.checks:{name}", summary=summary)
        for name, summary in summaries.items()
    ]


@hookimpl
def gentle_losses() -> Iterable[LossSpec]:
    return [
        LossSpec(
            name="clip",
            config=ClipConfig,
            target="gentle_core.losses.clip:build",
            summary="Symmetric contrastive loss over matched pairs, temperature learned",
            needs=frozenset({"pairs"}),
            scope="rows",
            citation="Radford et al. 2021, arXiv:2103.00020",
        ),
        LossSpec(
            name="ssl",
            config=SslConfig,
            target="gentle_core.losses.ssl:build",
            summary="Self-supervised contrastive loss between two views, in each tower",
            needs=frozenset({"views", "unpaired"}),
            scope="rows",
            min_modalities=1,
            same_dimension=False,
            citation="Chen et al. 2020, arXiv:2002.05709",
        ),
        LossSpec(
            name="mmd",
            config=MmdConfig,
            target="gentle_core.losses.mmd:build",
            needs=UNPAIRED,
            summary="Maximum mean discrepancy between the modalities, Gaussian and polynomial kernel",
            deviations={"gradient": _MEDIAN},
            scope="global",
            citation="Gretton et al. 2012, JMLR 13",
        ),
        LossSpec(
            name="sdd",
            config=SddConfig,
            target="gentle_core.losses.density:build",
            needs=UNPAIRED,
            summary="Semantic density distribution loss between the modalities",
            scope="global",
            citation=_GENTLE_CLIP,
        ),
        LossSpec(
            name="pseudo-pairs",
            config=PseudoPairsConfig,
            target="gentle_core.losses.pseudo:build",
            summary="Contrastive loss over pseudo-pairs that a teacher finds in the unmatched pools",
            needs=frozenset({"pseudo"}),
            scope="rows",
        ),
        LossSpec(
            name="klot",
            config=KlotConfig,
            target="gentle_core.losses.klot:build",
            summary="Divergence between the modalities' optimal-transport plans, or from a teacher's plan",
            scope="global",
            same_dimension=False,
            citation="Roschmann et al. 2026, SOTAlign, arXiv:2602.23353",
        ),
        LossSpec(
            name="neighbours",
            config=NeighboursConfig,
            target="gentle_core.losses.neighbours:build",
            needs=frozenset({"pairs", "unpaired"}),
            summary="Soft labels for unmatched rows from the pairs that they resemble in their own modality",
            deviations={"gradient": _TARGETS},
            scope="rows",
            citation="Mo et al. 2023, S-CLIP, arXiv:2305.14095",
        ),
        LossSpec(
            name="sinkhorn",
            config=SinkhornConfig,
            target="gentle_core.losses.sinkhorn:build",
            needs=UNPAIRED,
            summary="Sinkhorn divergence between the modalities, by geomloss or in tiles",
            deviations={"gradient": "the alternations end before they have converged; see scaling"},
            scope="global",
            requires=("geomloss",),
            citation="Feydy et al. 2019, arXiv:1810.08278",
        ),
        LossSpec(
            name="sum",
            config=SumConfig,
            target="gentle_core.losses.compose:build_sum",
            summary="Weighted, scheduled sum of registered losses",
            example={"terms": [{"use": "core/clip"}, {"use": "core/sdd", "weight": 0.5}]},
            scope="global",
            min_modalities=1,
        ),
        LossSpec(
            name="only-rows",
            config=OnlyRowsConfig,
            target="gentle_core.losses.compose:build_only_rows",
            summary="A registered loss on the matched, or on the unmatched, rows of some towers alone",
            example={"keep": {"a": "matched"}, "loss": {"use": "core/sdd"}},
            scope="global",
            min_modalities=1,
        ),
        LossSpec(
            name="gentle",
            config=GentleConfig,
            target="gentle_core.losses.compose:build_gentle",
            summary="Gentle-CLIP's whole objective: pairs, views, MMD and SDD together",
            deviations={"gradient": _MEDIAN},
            scope="global",
            citation=_GENTLE_CLIP,
        ),
    ]


@hookimpl
def gentle_tasks() -> Iterable[TaskSpec]:
    return [
        TaskSpec(
            name="zero-shot",
            config=ZeroShotConfig,
            target="gentle_core.evaluate.tasks:build_zero_shot",
            summary="Classes of labelled items by the embeddings of the classes' names, without training",
            citation="Radford et al. 2021, arXiv:2103.00020",
        ),
        TaskSpec(
            name="linear-probe",
            config=LinearProbeConfig,
            target="gentle_core.evaluate.tasks:build_linear_probe",
            summary="Classes of labelled items by logistic regression on a tower's features and embeddings",
        ),
        TaskSpec(
            name="knn",
            config=KnnConfig,
            target="gentle_core.evaluate.tasks:build_knn",
            summary="Classes of labelled items by the nearest neighbours among a tower's features and embeddings",
        ),
    ]


@hookimpl
def gentle_teachers() -> Iterable[TeacherSpec]:
    return [
        TeacherSpec(
            name="cca",
            config=CcaTeacherConfig,
            target="gentle_core.teachers.cca:build",
            summary="Regularised CCA on the encoder features of the pairs",
            citation="Hotelling 1936, Biometrika 28",
        ),
        TeacherSpec(
            name="closed-form",
            config=ClosedFormTeacherConfig,
            target="gentle_core.teachers.closed_form:build",
            summary="The closed form that validation favours: CCA, label propagation, OT-EM CCA or their average",
        ),
        TeacherSpec(
            name="average",
            config=AverageTeacherConfig,
            target="gentle_core.teachers.average:build",
            summary="The moving average of the model that is being trained",
            citation="Tarvainen and Valpola 2017, arXiv:1703.01780",
            changes=True,
        ),
        TeacherSpec(
            name="saved-run",
            config=SavedRunTeacherConfig,
            target="gentle_core.teachers.saved:build",
            example={"path": "."},
            summary="The model of a finished run",
        ),
    ]
