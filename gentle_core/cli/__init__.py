"""The command line. Each command is a module of its own, imported only when it is called; none needs torch to start."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from gentle_core import __version__
from gentle_core.cli.common import LazyGroup, State, fail, verbose_option
from gentle_core.errors import GentleError

COMMANDS = {
    "run": ("gentle_core.cli.run:run", "Train the towers of a recipe, evaluate, and write a report."),
    "launch": ("gentle_core.cli.launch:launch", "Run a recipe in several processes of this machine."),
    "baseline": ("gentle_core.cli.baseline:baseline", "Align without training, by closed forms, and choose the best."),
    "check": ("gentle_core.cli.check:check", "Say what a run would do, or everything that is wrong with a recipe."),
    "plan": ("gentle_core.cli.plan_run:plan", "Estimate memory and communication of a step on many GPUs."),
    "check-pools": ("gentle_core.cli.check_pools:check_pools", "Say whether the unmatched pools resemble the pairs."),
    "eval": ("gentle_core.cli.evaluate:evaluate", "Evaluate a finished run on a downstream task."),
    "study": ("gentle_core.cli.study:study", "Compare methods over numbers of pairs and seeds, with controls."),
    "report": ("gentle_core.cli.report:report", "Write the report of a run again."),
    "schema": ("gentle_core.cli.schema:schema", "Print the JSON schema of recipes, for editors."),
    "plugins": ("gentle_core.cli.plugins:plugins", "Show what is installed, and what is broken."),
    "doctor": ("gentle_core.cli.doctor:doctor", "Look for what could go wrong, and mend what can be mended."),
    "new": ("gentle_core.cli.new:new", "Make a plugin that works at once, to change into your own."),
    "sample-size": ("gentle_core.cli.sample_size:sample_size", "Say how many rows a batch needs for your embeddings."),
}

INTERNAL, INTERRUPTED = 70, 130
"""Exit codes of a defect in Gentle itself, and of Ctrl-C where nothing could be saved."""


@click.group(cls=LazyGroup, commands_at=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gentle")
@verbose_option
def gentle() -> None:
    """Align two or more modalities from a few matched pairs and many unmatched samples."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `gentle` and exit: an error is one line (or one line a problem), a traceback comes only with -v."""
    sys.exit(invoke(arguments))


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run `gentle` and return its exit code; docs/reference/exit-codes.md lists them."""
    state = State()
    try:
        result = gentle.main(arguments, prog_name="gentle", standalone_mode=False, obj=state)
        return result if isinstance(result, int) else 0
    except GentleError as error:
        if not getattr(error, "said", False):  # by another process of the run
            _say(state, *str(error).splitlines())
        return error.exit_code
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError" and error.ctx is not None:  # click ≥ 8.2
            click.echo(error.ctx.get_help())
            return 0
        _say(state, error.format_message().replace("\n", " "))
        if error.ctx is not None:
            click.echo(f"See '{error.ctx.command_path} --help'.", err=True)
        return error.exit_code
    except click.ClickException as error:
        _say(state, error.format_message())
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say(state, "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has stopped (`gentle plugins list | head`): nothing to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if getattr(error, "said", False):
            return GentleError.exit_code
        name = f"{error.filename}: " if error.filename else ""
        _say(state, f"{name}{(error.strerror or str(error)).lower()}")
        return GentleError.exit_code
    except Exception as error:
        if getattr(error, "said", False):
            return INTERNAL
        text = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "" if state.verbose else " (a defect of Gentle or of a plugin; -v shows where)"
        _say(state, text + hint)
        return INTERNAL


def _say(state: State, *lines: str) -> None:
    if state.verbose:
        traceback.print_exc()
    for line in lines:
        fail(line)
