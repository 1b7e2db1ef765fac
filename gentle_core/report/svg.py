"""Matplotlib figures as inline SVG that takes its colours and fonts from the page.

Figures are drawn in placeholder colours, which become CSS variables: one drawing then serves the light and the dark
page and the printed one. What matplotlib adds beyond the drawing (metadata, doctype, comments, global styles, ids of
groups) is left out, so that many figures can share a page and equal input gives equal bytes.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

_ROLES = ("ink", "muted", "grid", "paper", "run", "clip", "cca", "other", "m0", "m1", "m2", "m3", "m4", "m5")
COLOURS = {role: f"#0f0e{code:02x}" for code, role in enumerate(_ROLES)}
"""Placeholder colour by role; `var(--role)` on the page."""
_ROLE_OF = {colour: role for role, colour in COLOURS.items()}

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
}


def modality_colour(index: int) -> str:
    """Placeholder colour of the tower at this position; six distinct ones, then again."""
    return COLOURS[f"m{index % 6}"]


def panel(width: float = 4.2, height: float = 2.5) -> tuple[Figure, Axes]:
    """An empty figure of one axes, in inches (72 SVG units each); call it inside `rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02))
    return figure, figure.add_subplot()


def draw(name: str, label: str, paint: Callable[[Axes], None], width: float = 4.2, height: float = 2.5) -> str:
    """Call `paint(axes)` on an empty panel and return it as SVG; `label` is what a screen reader says."""
    settings: Any = STYLE | {"svg.hashsalt": name}
    with rc_context(settings):
        figure, axes = panel(width, height)
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return inline(buffer.getvalue(), label)


def inline(text: str, label: str) -> str:
    """A matplotlib SVG document as an element for an HTML page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)
    text = re.sub(r"<[^>]+>", _tidy_tag, text)
    text = re.sub(r">\s+<", "><", text)
    box = re.search(r'viewBox="([^"]+)"', text)
    head = f'<svg viewBox="{box.group(1) if box else ""}" role="img" aria-label="{html.escape(label)}">'
    return head + text[text.index(">") + 1 :].strip()


def _tidy_tag(match: re.Match[str]) -> str:
    """Inside a tag: colours to variables, the page's font, and no more decimals than can be seen."""
    tag = match.group(0)
    tag = re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{_ROLE_OF[m[0]]})" if m[0] in _ROLE_OF else m[0], tag)
    tag = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", tag)
    tag = re.sub(r"(?<![\w#.-])-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), tag)
    return " ".join(tag.split())
