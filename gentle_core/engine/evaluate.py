"""`gentle eval`: a finished run's model on a downstream task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gentle_core.batch import BuildContext
from gentle_core.catalog import Catalog
from gentle_core.engine.artifact import load_model
from gentle_core.engine.checkpoint import replace_durably
from gentle_core.engine.progress import Display
from gentle_core.engine.taskdata import CachedModel, TaskData
from gentle_core.errors import ComponentError
from gentle_core.factory import cache_folder, create
from gentle_core.plugins import discover
from gentle_core.recipe.load import component_config
from gentle_core.recipe.source import Layer, read_sets


def evaluate_run(
    run_dir: Path,
    task: str,
    sets: Sequence[str] | Mapping[str, Any] = (),
    *,
    catalog: Catalog | None = None,
    device: str = "cpu",
    display: Display | None = None,
) -> dict[str, Any]:
    """Evaluate the model of a finished run, and keep the figures in `tasks/<task>.json` of its directory.

    Args:
        run_dir: the run directory (or a saved model's folder).
        task: a component of kind "task".
        sets: the task's options, "key=value" or by key.

    Returns:
        Flat metrics, and under "facts" what they were measured on.

    Raises:
        ComponentError: no such task, or one that reads no modality of the run.
        CheckpointError: the run left no model.
    """
    catalog = discover() if catalog is None else catalog
    display = display or Display()
    entry = catalog.get("task", task)
    config = component_config(entry, read_sets(sets, Layer({}, {})).data)
    model = load_model(run_dir, device, catalog)
    wanted = entry.spec.modalities
    if wanted and not any(catalog.reads(one, has) for one in wanted for has in model.towers.values()):
        raise ComponentError(
            f"{entry.full_name} reads {' or '.join(entry.spec.modalities)}; the run's towers read "
            f"{', '.join(model.towers.values())}"
        )
    data = TaskData(run_dir, catalog, display.warn, display.say)
    context = BuildContext(
        cache_dir=cache_folder(), notify=display.warn, progress=display.say, dataset=data.dataset,
        trained_on=data.trained_on,
    )  # fmt: skip
    found = dict(create(entry, config, context).evaluate(CachedModel(model)))
    folder = run_dir / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"task": entry.full_name, "options": {k: str(v) for k, v in _options(sets).items()}, **found}
    replace_durably(folder / f"{entry.full_name.replace('/', '-')}.json", json.dumps(content, indent=1).encode())
    return found


def _options(sets: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    return dict(sets) if isinstance(sets, Mapping) else dict(text.partition("=")[::2] for text in sets)
