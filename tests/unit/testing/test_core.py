"""The core's own losses keep what the kit asks of everybody's."""

from gentle_core.testing import conformance

test_losses = conformance("core")

# By default MMD takes its bandwidth from the batch, a constant (a declared deviation); given, its gradient is exact.
OTHER = {
    "mmd": {"bandwidth": 0.8},
    "sdd": {"normalise": False, "exclude_self": True},
    "clip": {"negatives": "all"},
}

test_other_options = conformance("core", only=OTHER, configs=OTHER)
