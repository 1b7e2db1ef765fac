"""`gentle plan`"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import note_problems, plugin_options, set_option, verbose_option, warn

if TYPE_CHECKING:
    from gentle_core.engine.budget import Need, Setting
    from gentle_core.engine.foresee import Foreseen

RESERVE = 1.25
"""What is held back for what the plan does not see (docs/explanation/scale.md compares it with real runs)."""

GIB = 2**30


@click.command()
@click.argument("recipe")
@click.option("--gpus", default=1, show_default=True, type=click.IntRange(1), help="Ranks that share a step's work.")
@click.option(
    "--gpu-memory", default=80.0, show_default=True, type=click.FloatRange(min=0, min_open=True), metavar="GIB",
    help="Memory of each.",
)  # fmt: skip
@set_option
@plugin_options
@verbose_option
def plan(recipe: str, gpus: int, gpu_memory: float, sets: tuple[str, ...], find_catalog: Callable[[], Catalog]) -> None:
    """Estimate what a step of RECIPE needs on each of several GPUs: memory by ZeRO stage, and communication.

    Nothing is trained and no GPU is needed: the towers are built without numbers where they allow it, a few rows of
    the dataset pass them, and the objective runs on random embeddings.

    \b
    Examples:
      gentle plan recipes/protein.toml --gpus 8 --gpu-memory 40
      gentle plan recipes/protein.toml --gpus 64 --set train.batch_size=65536
    """
    from gentle_core.recipe import load_recipe

    catalog = find_catalog()
    note_problems(catalog)
    resolved = load_recipe(recipe, sets, catalog)
    for warning in resolved.warnings:
        warn(warning)

    # The recipe is sound: only now pay for torch.
    from gentle_core.engine.budget import STAGES, memory, smallest_chunks, traffic
    from gentle_core.engine.foresee import foresee, setting_of

    found = foresee(resolved)
    kinds = {"local": None} | {f"ZeRO {stage}": stage for stage in STAGES}
    settings = {name: setting_of(resolved.recipe, found, gpus, stage) for name, stage in kinds.items()}
    needs = {name: memory(found.towers, found.objective, setting) for name, setting in settings.items()}
    sent = [traffic(found.towers, setting) for setting in settings.values()]
    for line in (*_about(found, settings["local"]), "", *_table(needs)):
        click.echo(line)
    if gpus > 1:
        click.echo(_row("sent per step", [one.total for one in sent]))
        click.echo(_row("  of embeddings", [one.embeddings for one in sent]))
    click.echo("")
    limit = gpu_memory * GIB / RESERVE
    fits = [name for name, need in needs.items() if need.peak <= limit]
    if fits:
        click.echo(f"fits {gpu_memory:g} GiB with {RESERVE - 1:.0%} in reserve: {', '.join(fits)}")
    else:
        click.echo(f"does not fit {gpu_memory:g} GiB with {RESERVE - 1:.0%} in reserve")
    engine = resolved.recipe.engine
    own = f"ZeRO {engine.zero_stage}" if engine.use == "deepspeed" else "local"
    click.echo(f"the recipe's engine ({own}): {_bytes(needs[own].peak)}, {'fits' if own in fits else 'too much'}")
    for name in (n for n in needs if n not in fits):
        chunks = smallest_chunks(found.towers, found.objective, settings[name], limit)
        how = f"fits with train.accumulate = {chunks}" if chunks else "does not fit with any train.accumulate"
        click.echo(f"{name} {how}")


def _about(found: Foreseen, setting: Setting) -> list[str]:
    lines = []
    width = max(map(len, found.towers))
    for name, tower in found.towers.items():
        what = "features cached, head trained" if tower.cached else f"keeps {_bytes(tower.row)} a row"
        how = "" if tower.cached else " (shapes alone)" if found.on_meta[name] else " (measured on the CPU)"
        lines.append(
            f"{name:<{width}}  {_count(tower.parameters)} parameters, {_count(tower.trainable)} trained; {what}{how}"
        )
    rows = found.rows
    unmatched = ", ".join(f"{name} {count}" for name, count in rows.unpaired.items())
    lines.append(f"batch: {rows.paired} matched rows; unmatched rows: {unmatched}; {found.views} views of each")
    passes = f"{setting.each} chunks each, towers run twice" if setting.each > 1 else "towers run once"
    lines.append(f"{setting.ranks} ranks, {passes}")
    return lines


def _table(needs: Mapping[str, Need]) -> list[str]:
    fields = {
        "weights": "weights", "copy": "copy to evaluate", "optimiser": "optimiser", "gradients": "gradients",
        "inputs": "inputs", "activations": "activations", "embeddings": "embeddings", "tiles": "tiles",
        "objective": "objective's rest", "gathered": "layers gathered", "buckets": "gradients' buckets",
    }  # fmt: skip
    lines = [f"{'on each rank':<18}" + "".join(f"{name:>11}" for name in needs)]
    lines += [_row(text, [getattr(need, field) for need in needs.values()]) for field, text in fields.items()]
    lines.append(_row("peak", [need.peak for need in needs.values()]))
    lines.append(f"{'  in the':<18}" + "".join(f"{need.moment.split()[0]:>11}" for need in needs.values()))
    return lines


def _row(text: str, values: list[float]) -> str:
    return f"{text:<18}" + "".join(f"{_bytes(value):>11}" for value in values)


def _bytes(value: float) -> str:
    for size, unit in ((2**40, "TiB"), (GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
