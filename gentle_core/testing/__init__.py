"""The conformance kit: what a component of a plugin must keep, tried on the component itself.

In a plugin's tests, one line:

    from gentle_core.testing import conformance

    test_conformance = conformance("audio")

and `gentle plugins check audio` does the same. docs/reference/conformance.md lists the checks, and where their
inputs come from.
"""

from __future__ import annotations

from gentle_core.testing.suite import conformance

__all__ = ["conformance"]
