"""`gentle launch`"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import fail
from gentle_core.cli.run import checked, run_options

GRACE, AGAIN = 20.0, 10.0
"""Seconds that ranks have to end by themselves after another has failed, and then after SIGTERM, before SIGKILL."""


class _Remembering(click.Command):
    """A command that keeps the words it was given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["words"] = list(args)
        return super().parse_args(ctx, args)


@click.command(cls=_Remembering)
@click.option("--ranks", type=click.IntRange(1), required=True, help="How many processes run the recipe together.")
@run_options
@click.pass_context
def launch(ctx: click.Context, ranks: int, find_catalog: Callable[[], Catalog], **given: Any) -> None:
    """Run RECIPE in several processes of this machine, which share the work of every step.

    All options of `gentle run` are taken. On several machines, start `gentle run` with torchrun, deepspeed or srun.

    \b
    Examples:
      gentle launch --ranks 2 recipes/protein.toml
      gentle launch --ranks 4 recipes/protein.toml --set engine.use=deepspeed --set engine.zero_stage=2
    """
    checked(given["recipe"], given["out"], given["sets"], given["resume"], find_catalog)
    code = supervise([sys.executable, "-m", "gentle_core", "run", *_without_ranks(ctx.meta["words"])], ranks)
    ctx.exit(code)


def _without_ranks(words: Sequence[str]) -> Iterator[str]:
    following = iter(words)
    for word in following:
        if word == "--ranks":
            next(following, None)
        elif not word.startswith("--ranks="):
            yield word


def supervise(command: Sequence[str], ranks: int) -> int:
    """Run a command as so many ranks until all have ended; returns the exit code of the first that failed, or 0.

    SIGINT and SIGTERM go on to every rank. A rank that fails has told the others; whoever does not end then is ended.
    """
    environment = _environment(ranks)
    started = [
        subprocess.Popen(command, env=environment | {"RANK": str(r), "LOCAL_RANK": str(r)}, start_new_session=True)
        for r in range(ranks)
    ]
    code, last = 0, 0.0
    with _passed_on(started):
        while any([process.poll() is None for process in started]):  # a list: each is asked
            failed = next((r for r, process in enumerate(started) if process.returncode), None)
            if failed is not None and not code:
                code, last = _code(started[failed].returncode), time.monotonic() + GRACE
                if started[failed].returncode < 0:
                    fail(f"rank {failed} was ended by {signal.Signals(-started[failed].returncode).name}")
            if code and time.monotonic() > last:
                for process in started:
                    process.terminate()
                if time.monotonic() > last + AGAIN:
                    for process in started:
                        process.kill()
            time.sleep(0.1)
    return code or next((_code(process.returncode) for process in started if process.returncode), 0)


def _environment(ranks: int) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = str(max((os.cpu_count() or 1) // ranks, 1))
    given = {"OMP_NUM_THREADS": threads} | os.environ
    names = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return given | {name: str(value) for name, value in names.items()}


@contextlib.contextmanager
def _passed_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Signals to this process go to all of them, which run in sessions of their own: each gets every signal once."""

    def forward(number: int, _: Any) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in processes:
            if process.poll() is None:
                process.kill()


def _code(returned: int) -> int:
    return returned if returned >= 0 else 128 - returned
