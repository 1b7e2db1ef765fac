"""How long `gentle` takes to start with 20 plugins installed, against a click program that does nothing.

Each command runs in a process of its own, in turn with the bare program; CPU time of the process, so that other work on
the machine counts little.

    python tests/benchmarks/startup.py [--rounds 15] [--plugins 20]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BARE = """
import click

@click.group()
def bare():
    "Do nothing."

@bare.command()
def nothing():
    "Do nothing at all."

bare()
"""

PLUGIN = """
import attrs
from gentle_core.api import EncoderSpec, hookimpl

@attrs.frozen
class Config:
    width: int = 8

@hookimpl
def gentle_encoders():
    names = [f"e{i}" for i in range(5)]
    return [EncoderSpec(name=n, modality="sound", config=Config, target="m:f", summary="An encoder") for n in names]
"""

GENTLE = "import sys; sys.argv[0] = 'gentle'; from gentle_core.cli import main; main()"


def install(site: Path, count: int) -> None:
    for i in range(count):
        name = f"gentle_bench{i}"
        (site / f"{name}.py").write_text(PLUGIN)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gentle-bench{i}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[gentle.plugins]\nbench{i} = {name}\n")


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """CPU time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--plugins", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), args.plugins)
        environment = {**os.environ, "PYTHONPATH": folder}
        python = [sys.executable, "-c"]
        commands = {
            "bare click --help": [*python, BARE, "--help"],
            "gentle --help": [*python, GENTLE, "--help"],
            "gentle plugins list": [*python, GENTLE, "plugins", "list"],
            "import torch": [*python, "import torch"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.rounds + 1):  # the first fills caches
            for name, command in commands.items():
                times[name].append(seconds(command, environment))
    bare = times["bare click --help"][1:]
    print(f"{args.plugins} plugins with 5 encoders each, {args.rounds} rounds, CPU time")
    for name, values in times.items():
        ratio = statistics.median(value / other for value, other in zip(values[1:], bare, strict=True))
        print(f"{name:<20} {1000 * statistics.median(values[1:]):7.1f} ms   {ratio:5.2f} × bare click")


if __name__ == "__main__":
    main()
