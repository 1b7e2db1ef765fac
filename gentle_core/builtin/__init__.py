"""What the core itself brings, announced by the same hooks as any plugin's (owner "core"). Free of torch.

Options by kind stand beside this file.
"""

from __future__ import annotations

from collections.abc import Iterable

from gentle_core.builtin.asks import UNPAIRED, Child, hints, needs
from gentle_core.builtin.objectives import GentleConfig, OnlyRowsConfig, SumConfig
from gentle_core.builtin.tasks import KnnConfig, LabelledConfig, LinearProbeConfig, ZeroShotConfig
from gentle_core.builtin.teachers import (
    AverageTeacherConfig,
    CcaTeacherConfig,
    ClosedFormTeacherConfig,
    SavedRunTeacherConfig,
)
from gentle_core.builtin.terms import (
    MIN_SDD_ROWS,
    ClipConfig,
    KlotConfig,
    MmdConfig,
    NeighboursConfig,
    PseudoPairsConfig,
    SddConfig,
    SinkhornConfig,
    SslConfig,
)
from gentle_core.hookspecs import hookimpl
from gentle_core.specs import HealthCheck, LossSpec, TaskSpec, TeacherSpec

__all__ = [
    "AverageTeacherConfig",
    "CcaTeacherConfig",
    "Child",
    "ClipConfig",
    "ClosedFormTeacherConfig",
    "GentleConfig",
    "KlotConfig",
    "KnnConfig",
    "LabelledConfig",
    "LinearProbeConfig",
    "MIN_SDD_ROWS",
    "MmdConfig",
    "NeighboursConfig",
    "OnlyRowsConfig",
    "PseudoPairsConfig",
    "SavedRunTeacherConfig",
    "SddConfig",
    "SinkhornConfig",
    "SslConfig",
    "SumConfig",
    "UNPAIRED",
    "ZeroShotConfig",
    "hints",
    "needs",
    "gentle_health_checks",
    "gentle_losses",
    "gentle_tasks",
    "gentle_teachers",
]

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
