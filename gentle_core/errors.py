"""Errors that a user can act on. The command line prints their message alone, without a traceback."""

from __future__ import annotations


class GentleError(Exception):
    """Something the user can mend; the message says how. `exit_code` is what the command line returns."""

    exit_code = 1


class RecipeError(GentleError):
    """A recipe cannot be used. `problems` holds every finding, one line each, as `file:line: key: what is wrong`."""

    exit_code = 2

    def __init__(self, problems: list[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ComponentError(GentleError):
    """A named component is missing, ambiguous, or failed when it was built."""

    exit_code = 3


class DataError(GentleError):
    """Data that cannot be read or used."""

    exit_code = 4


class WeightsError(GentleError):
    """Pretrained weights that were asked for cannot be found."""

    exit_code = 5


class NonFiniteError(GentleError):
    """A loss or gradient was not finite; no step was taken."""

    exit_code = 6


class CheckpointError(GentleError):
    """A checkpoint cannot be written or read."""

    exit_code = 7


class Interrupted(GentleError):
    """SIGINT or SIGTERM: a checkpoint was left behind; `--resume auto` goes on from there."""

    exit_code = 75


class Stopped(GentleError):
    """SIGINT or SIGTERM before or after the training loop: what was finished is kept, `--resume auto` goes on."""

    exit_code = 75


class RankError(GentleError):
    """Another process of the run failed, and with it the run. The exit code is that of its error."""
