"""The honest comparisons beside a run: CLIP on the same pairs, and closed forms on encoder features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import attrs

from gentle_core.closed_form.crossfit import fit_forms_crossed
from gentle_core.closed_form.fit import fit_forms
from gentle_core.closed_form.forms import Form
from gentle_core.engine.closed import FeatureSource, feature_source, gather
from gentle_core.engine.session import Session
from gentle_core.engine.towers import AlignedModel
from gentle_core.recipe.load import Resolved, derive
from gentle_core.recipe.model import BaselineTable

PAIRS_ONLY = "CLIP, pairs only"
CCA_INITIAL = "CCA, closed form"
CCA_TRAINED = "CCA on the pairs-only features"
CCA_OWN = "CCA on this run's features"
FOLDERS = {
    PAIRS_ONLY: "pairs_only",
    CCA_INITIAL: "cca",
    CCA_TRAINED: "cca_pairs_only_features",
    CCA_OWN: "cca_own_features",
}
"""Folders whose names do not follow from the label."""


def pairs_only(resolved: Resolved) -> Resolved:
    """The same run with L_CL alone: same pairs, same batches of pairs, same steps, no unmatched rows."""
    recipe = resolved.recipe
    clip_options = dict(recipe.objective.options.get("clip", {}))
    use = clip_options.pop("use", "core/clip")
    objective = attrs.evolve(recipe.objective, use=use, options=clip_options, config=None)
    return derive(
        resolved,
        attrs.evolve(
            recipe,
            name=f"{recipe.name} (pairs only)".strip(),
            objective=objective,
            pseudo=None,
            baseline=BaselineTable(pairs_only=False, cca=False),
        ),
    )


def folder_of(label: str) -> str:
    """Where a baseline keeps its files, below `baselines/`."""
    return FOLDERS.get(label) or re.sub(r"[^\w+]+", "_", label).strip("_")


def closed_forms(
    session: Session, model: AlignedModel, forms: Sequence[str], *, correct: bool | None = None, heads: bool = False,
    title: str = "", crossed: bool = False,
) -> tuple[FeatureSource, list[Form]]:  # fmt: skip
    """The closed forms of these names on the features of `model`, settings chosen on validation; none where there are
    fewer than three pairs or no validation split.

    Args:
        correct: also with hubness correction; by default where `evaluate.hubness` asks for one.
        heads: the model's trained heads are a form as well.
        title: what is said of the form being fitted, in place of its own name.
        crossed: without a validation split, settings are chosen by pairs held out in turn.
    """
    recipe, pair = session.recipe, session.builder.pairs()[0]
    source = feature_source(session.builder, model, heads)
    correct = recipe.evaluate.hubness != "none" if correct is None else correct
    crossed = crossed and session.validation is None
    pools = correct or crossed or bool({"propagation", "ot-em"} & set(forms))  # `crossed`: as further candidates
    if not forms or (session.validation is None and not crossed):
        return source, []
    data = gather(source, session.split("train"), session.validation, session.pools, pair, use_pools=pools)
    if data is None:
        return source, []
    learns = bool({"unpaired", "pseudo"} & session.needs) and any(session.pools.pool_sizes.values())
    data = attrs.evolve(data, joint_saw_pools=learns)
    say, fit = session.display.say, fit_forms_crossed if crossed else fit_forms
    return source, fit(
        data, forms, hubness=correct, seed=recipe.train.seed, tell=lambda label: say(f"fitting: {title or label}")
    )


def facts_of(form: Form, session: Session) -> dict[str, Any]:
    """What is written down of a fit."""
    return {"pairs": session.pools.pairs, "uses_pools": form.pools, **form.settings}
