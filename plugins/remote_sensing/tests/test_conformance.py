"""What every plugin must keep."""

from __future__ import annotations

from gentle_core.testing import conformance

test_conformance = conformance("remote-sensing")
