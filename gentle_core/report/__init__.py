"""One self-contained HTML page from a run directory: what was learned, and against what.

`build` reads the directory (`rundir`), works out the figures that need per-item data (`retrieval`), puts the result
into plain words (`verdict`), draws (`figures`, `maps`, both through `svg`) and fills the template. Nothing here
imports torch, and nothing is fetched: a run directory is all that is needed.
"""

from gentle_core.report.build import build_report

__all__ = ["build_report"]
