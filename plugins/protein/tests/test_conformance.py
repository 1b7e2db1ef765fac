"""What every component of the plugin must keep: see docs/reference/conformance.md."""

from gentle_core.testing import conformance

test_conformance = conformance("protein")
