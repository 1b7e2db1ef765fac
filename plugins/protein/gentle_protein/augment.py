"""Random changes of single chains that keep their meaning. All randomness comes from the generator that is given."""

from __future__ import annotations

import attrs
import numpy as np

from gentle_core.api import Augmentation, BuildContext
from gentle_protein.alphabet import MASK_LETTER
from gentle_protein.chain import MIN_RESIDUES, Structure

UNKNOWN = "X"

_rate = [attrs.validators.ge(0.0), attrs.validators.le(1.0)]


@attrs.frozen(kw_only=True)
class ResidueRate:
    """`p`: chance of each residue to be replaced."""

    p: float = attrs.field(default=0.1, validator=_rate)


@attrs.frozen(kw_only=True)
class JitterConfig:
    """`sigma`: standard deviation of the noise on each coordinate, Å."""

    sigma: float = attrs.field(default=0.05, validator=attrs.validators.ge(0.0))


@attrs.frozen(kw_only=True)
class CropConfig:
    """Options of `protein/residue-crop`.

    Attributes:
        shortest, longest: the window's share of the chain is drawn evenly between these.
        min_length: a window is never shorter than this many residues (or than the chain).
    """

    shortest: float = attrs.field(default=0.5, validator=[attrs.validators.gt(0.0), attrs.validators.le(1.0)])
    longest: float = attrs.field(default=1.0, validator=[attrs.validators.gt(0.0), attrs.validators.le(1.0)])
    min_length: int = attrs.field(default=20, validator=attrs.validators.ge(MIN_RESIDUES))

    def __attrs_post_init__(self) -> None:
        if self.shortest > self.longest:
            raise ValueError(f"shortest = {self.shortest:g} is above longest = {self.longest:g}")


def replace_residues(sequence: str, p: float, letter: str, rng: np.random.Generator) -> str:
    """Each residue becomes `letter` with chance `p`, independently."""
    letters = np.array(list(sequence))
    letters[rng.random(len(letters)) < p] = letter
    return "".join(letters)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation matrix (3, 3), float64, uniform over SO(3): from a uniform unit quaternion (Shoemake 1992)."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def crop_window(length: int, config: CropConfig, rng: np.random.Generator) -> slice:
    """A window of a chain of `length` residues.

    It takes exactly two draws, whatever the length, so that two towers with generators in the same state cut the
    same window out of a sequence and its structure.
    """
    share, place = rng.random(2)
    share = config.shortest + (config.longest - config.shortest) * share
    size = min(length, max(config.min_length, round(share * length)))
    start = int(place * (length - size + 1))
    return slice(start, start + size)


@attrs.frozen
class ReplaceResidues:
    """Replaces residues of a sequence by one letter."""

    p: float
    letter: str

    def __call__(self, item: str, rng: np.random.Generator) -> str:
        return replace_residues(item, self.p, self.letter, rng)


@attrs.frozen
class CoordinateJitter:
    """Adds independent normal noise to each coordinate."""

    sigma: float

    def __call__(self, item: Structure, rng: np.random.Generator) -> Structure:
        noise = self.sigma * rng.standard_normal(item.ca.shape, dtype=np.float32)
        return attrs.evolve(item, ca=item.ca + noise)


@attrs.frozen
class RandomRotation:
    """Turns a chain about its centre."""

    def __call__(self, item: Structure, rng: np.random.Generator) -> Structure:
        centre = item.ca.mean(axis=0, dtype=np.float64)
        return attrs.evolve(item, ca=(item.ca - centre) @ random_rotation(rng).T + centre)


@attrs.frozen
class ResidueCrop:
    """Keeps one contiguous window of a chain."""

    config: CropConfig

    def __call__(self, item: str | Structure, rng: np.random.Generator) -> str | Structure:
        window = crop_window(len(item), self.config, rng)
        if isinstance(item, str):
            return item[window]
        return attrs.evolve(item, ca=item.ca[window].copy())


def build_residue_dropout(config: ResidueRate, context: BuildContext) -> Augmentation:
    return ReplaceResidues(config.p, UNKNOWN)


def build_residue_mask(config: ResidueRate, context: BuildContext) -> Augmentation:
    return ReplaceResidues(config.p, MASK_LETTER)


def build_coordinate_jitter(config: JitterConfig, context: BuildContext) -> Augmentation:
    return CoordinateJitter(config.sigma)


def build_random_rotation(config: object, context: BuildContext) -> Augmentation:
    return RandomRotation()


def build_residue_crop(config: CropConfig, context: BuildContext) -> Augmentation:
    return ResidueCrop(config)
