"""What the classes of scene data sets are called in a text.

Folders and file names squash their words in different ways: `denseresidential` (UCM, RSICD), `DenseResidential` (AID),
`dense_residential` (RESISC45), `aGrass` (RSSCN7). Words are parted at capitals and underscores, and what remains
squashed stands in a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

_WORD = re.compile(r"[^\W_]+")

SPELLED = {
    "agricultural": "agricultural land",
    "bareland": "bare land",
    "baseballdiamond": "baseball diamond",
    "baseballfield": "baseball field",
    "center": "city center",
    "commercial": "commercial area",
    "denseresidential": "dense residential area",
    "dense residential": "dense residential area",
    "golfcourse": "golf course",
    "industrial": "industrial area",
    "industry": "industrial area",
    "mediumresidential": "medium residential area",
    "medium residential": "medium residential area",
    "mobilehomepark": "mobile home park",
    "parking": "parking lot",
    "parkinglot": "parking lot",
    "railwaystation": "railway station",
    "resident": "residential area",
    "residential": "residential area",
    "river lake": "river or lake",
    "sparseresidential": "sparse residential area",
    "sparse residential": "sparse residential area",
    "storagetanks": "storage tanks",
    "tenniscourt": "tennis court",
}
"""What parting the words alone does not tell."""

MASS = frozenset({"chaparral", "farmland", "grass", "ice", "land"})
"""Last words of names that take no article."""

RSSCN7 = frozenset({"aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking"})
"""Seven folders with a letter in front that is no part of the name."""

UCM_CLASSES = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest",
    "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass", "parkinglot",
    "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip
"""The 21 classes of UC Merced Land Use; image k of UCM-captions (from 1) is of class (k − 1) // 100."""

KEYWORDS = (
    "airport", "airplane", "bare land", "baseball field", "beach", "bridge", "building", "center", "chaparral",
    "church", "commercial", "court", "dense residential", "desert", "farmland", "football field", "forest", "freeway",
    "golf course", "harbor", "industrial", "intersection", "lake", "lawn", "meadow", "medium residential",
    "mobile home park", "mountain", "ocean", "overpass", "park", "parking", "playground", "pond", "port", "railway",
    "resort", "river", "road", "runway", "school", "sparse residential", "square", "stadium", "storage tank",
    "swimming pool", "tennis court", "town", "tree", "viaduct",
)  # fmt: skip
"""Scene classes of RSICD, UCM and Sydney as their captions write them, and the things that captions name most."""


def words(name: str) -> str:
    """The words of a folder's name in small letters: "BareLand" and "bare_land" to "bare land"."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\s_\-]+", parted.strip())).lower()


def class_name(folder: str) -> str:
    """What a class is called in a sentence: "a dense residential area" for `denseresidential`."""
    plain = words(folder[1:] if folder in RSSCN7 else folder)
    plain = SPELLED.get(plain, plain)
    plural = plain.endswith("s") and not plain.endswith("ss")
    if not plain or plural or plain.split()[-1] in MASS:
        return plain or folder
    return f"{'an' if plain[0] in 'aeiou' else 'a'} {plain}"


def class_names(folders: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    """The name of each class, the given ones first."""
    return {folder: given.get(folder) or class_name(folder) for folder in folders}


class Keywords:
    """Finds keywords in captions: whole words, also in the plural, whatever their case and spacing."""

    def __init__(self, keywords: Sequence[str]):
        self.keywords = tuple(keywords)
        self._columns: dict[str, list[int]] = {}
        for column, keyword in enumerate(keywords):
            joined = "".join(_WORD.findall(keyword.lower()))
            for form in (joined, f"{joined}s", f"{joined}es"):
                self._columns.setdefault(form, []).append(column)
        self._beginnings = {form[:end] for form in self._columns for end in range(1, len(form) + 1)}

    def row(self, caption: str) -> np.ndarray:
        """(K,) bool: which keywords the caption contains."""
        found = np.zeros(len(self.keywords), dtype=bool)
        parts = _WORD.findall(caption.lower())
        for start in range(len(parts)):
            joined = ""
            for part in parts[start:]:
                joined += part
                if joined not in self._beginnings:
                    break
                found[self._columns.get(joined, [])] = True
        return found
