"""What `gentle doctor` asks and hears: plugins answer with findings. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from gentle_core.catalog import Catalog

Level = Literal["ok", "note", "fixed", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "note", "fixed", "warning", "error")


@attrs.frozen
class Finding:
    """What a health check found.

    Attributes:
        level: "ok"; "note" (a fact to know); "fixed" (was wrong, has been mended); "warning" (works, but not as it
            should); "error" (something will not work).
        text: one line.
        mend: what to do about it.
        fixable: `gentle doctor --fix` would mend it.
    """

    level: Level = attrs.field(validator=attrs.validators.in_(LEVELS))
    text: str
    mend: str = ""
    fixable: bool = False


@attrs.frozen(kw_only=True)
class HealthContext:
    """What a health check may use.

    Attributes:
        catalog: what is installed.
        cache_dir: Gentle's cache folder; it may not exist.
        fix: mend what can be mended without a loss, and report it as "fixed". Otherwise change nothing.
    """

    catalog: Catalog
    cache_dir: Path
    fix: bool = False
