"""`gentle sample-size`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gentle_core.cli.common import verbose_option
from gentle_core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from gentle_core.losses.sample_size import SamplePoint


@click.command("sample-size")
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@click.option("--split", default="val", show_default=True, help="Which split, if DATA is a run directory.")
@click.option("--percent", default=1.0, show_default=True, help="The difference that is small enough.")
@click.option("--seed", default=0, show_default=True, help="Of the draws.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the curves: .svg, .png or .pdf.")
@verbose_option
def sample_size(data: Path, split: str, percent: float, seed: int, plot: Path | None) -> None:
    """How many rows a batch needs to stand for the embeddings in DATA.

    DATA is a run directory, an .npz file with arrays named TOWER.z (such as a run's embeddings/val.npz), or an .npy
    file with one row a sample. Pairs of batches are drawn from each set of embeddings, and their densities compared
    (Eq. 10 of the Gentle-CLIP paper), in % of what batches of two rows give. The SDD column is what that loss reads
    between two such batches, which differ by nothing but chance.
    """
    if plot is not None and plot.suffix not in (".svg", ".png", ".pdf"):
        raise click.BadParameter(f"{plot}: the name must end in .svg, .png or .pdf", param_hint="--plot")
    if plot is not None and not plot.parent.is_dir():
        raise click.BadParameter(f"{plot}: there is no directory {plot.parent}", param_hint="--plot")
    curves = {name: show(name, rows, percent, seed) for name, rows in embeddings(data, split).items()}
    if plot is not None:
        from gentle_core.report.samplesize import draw

        draw(curves, percent, plot)
        click.echo(f"Drawn in {plot}")


def show(name: str, rows: np.ndarray, percent: float, seed: int) -> list[SamplePoint]:
    """Print the curve of one set and the size to take; return the curve."""
    import numpy as np

    from gentle_core.losses.sample_size import enough, sample_size_curve

    if rows.ndim != 2 or len(rows) < 4 or rows.dtype.kind not in "fiu":
        raise DataError(f"{name}: {rows.dtype} {rows.shape} is no table of embeddings with at least four rows")
    if unfit := int((~np.isfinite(rows).all(1)).sum()):
        raise DataError(f"{name}: {unfit} of {len(rows)} rows hold values that are not finite; leave them out")
    curve = sample_size_curve(rows, seed=seed)
    click.echo(f"{name}: {len(rows)} rows of {rows.shape[1]} numbers")
    click.echo(f"{'rows':>8} {'difference':>12} {'SDD':>10} {'draws':>7}")
    for point in curve:
        click.echo(f"{point.size:>8} {point.percent:>11.2f}% {point.floor:>10.2e} {point.draws:>7}")
    size = enough(curve, percent)
    if size is None:
        click.echo(f"No size up to {curve[-1].size} brings the difference to {percent:g} %; more rows may.")
    else:
        click.echo(f"From {size} rows on the difference is at most {percent:g} %.")
    return curve


def embeddings(data: Path, split: str) -> dict[str, np.ndarray]:
    """The sets of embeddings in a file or a run directory, by tower or file name.

    Raises:
        DataError: nothing there that could be read.
    """
    import numpy as np

    path = data / "embeddings" / f"{split}.npz" if data.is_dir() else data
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        found = np.load(path, allow_pickle=False)
        if path.suffix == ".npy":
            return {path.name: found}
        return {key.removesuffix(".z"): found[key] for key in found.files if key.endswith(".z")} or no_towers(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as NumPy arrays: {error}") from error


def no_towers(path: Path) -> dict[str, np.ndarray]:
    raise DataError(f"{path} holds no embeddings: arrays named TOWER.z are looked for")
