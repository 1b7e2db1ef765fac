"""Lets the tests here import `scatter_cdconv`, which the benchmark uses as well."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
