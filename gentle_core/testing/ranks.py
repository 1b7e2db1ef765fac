"""Losses on two ranks against one. Run as a module, this file is one of the ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gentle_core.batch import LossContext
from gentle_core.losses.ranks import gather_batch
from gentle_core.testing.batches import Inputs, difference, evaluate, gradients, make_inputs
from gentle_core.testing.bench import Bench, Subject, one_line
from gentle_core.testing.cases import NotApplicable

WORLD, SECONDS, EXACT = 2, 90, 1e-8


def try_losses(bench: Bench) -> dict[str, str]:
    """What is wrong with each loss of the bench on two ranks, by full name; "" where nothing is."""
    names = [entry.full_name for entry in bench.entries if entry.kind == "loss"]
    configs = {entry.full_name: dict(bench.options(entry)) for entry in bench.entries if entry.kind == "loss"}
    with tempfile.TemporaryDirectory() as folder:
        task = {"owner": bench.owner, "files": bench.files, "names": names, "configs": configs, "folder": folder}
        try:
            text = json.dumps(task, default=str)
        except TypeError as error:
            return dict.fromkeys(names, f"its options cannot be sent to another process: {error}")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "gentle_core.testing.ranks", text]
        processes = [
            subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True)
            for rank in range(WORLD)
        ]
        try:
            errors = [process.communicate(timeout=SECONDS)[1] for process in processes]
        except subprocess.TimeoutExpired:
            return dict.fromkeys(names, f"two ranks wait for each other for more than {SECONDS} s")
        finally:
            for process in processes:
                process.kill()
        results = [_read(Path(folder) / f"{rank}.json") for rank in range(WORLD)]
        last = [text.strip().splitlines()[-1:] for text in errors]
        return {
            name: next((r[name] for r in results if r.get(name)), "")
            if all(name in r for r in results)
            else f"a rank ended early: {last}"
            for name in names
        }


def _read(path: Path) -> dict[str, str]:
    return json.loads(path.read_text()) if path.exists() else {}


def compare(subject: Subject, rank: int) -> str:
    """What is wrong on this rank."""
    inputs = make_inputs(subject, counts=(9, 6, 7), pairs=4)
    torch.manual_seed(0)
    whole = subject.build().double()
    expected = evaluate(whole, inputs, tile=0).loss
    slopes = gradients(expected, inputs, whole)

    torch.manual_seed(0)
    loss = subject.build().double()
    share = {name: _share(len(ids), rank) for name, ids in inputs.ids.items()}
    mine = Inputs(
        {name: leaf.detach()[:, share[name]].requires_grad_() for name, leaf in inputs.leaves.items()},
        {name: ids[share[name]] for name, ids in inputs.ids.items()},
        inputs.needs,
        {name: labels[share[name]] for name, labels in inputs.labels.items()},
    )
    names = list(mine.leaves)
    pairs = tuple((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    context = LossContext(step=1, steps=10, pairs=pairs, group=dist.group.WORLD, tile=2)
    found = loss(gather_batch(mine.batch()), context).loss
    if (gap := difference(found, expected)) > EXACT:
        return f"on two ranks the loss is {found.item():.6g} instead of {expected.item():.6g} (difference {gap:.2g})"
    for name, slope in gradients(found, mine, loss).items():
        wanted = slopes[name][:, share[name]] if name in share else slopes[name]
        if (gap := difference(slope, wanted)) > EXACT:
            what = name if name not in share else f"the rows of tower {name}"
            return f"on two ranks the gradient of {what} differs by {gap:.2g}"
    return ""


def _share(rows: int, rank: int) -> slice:
    """Unequal shares: one row more than half on the first rank."""
    middle = min(rows, rows // 2 + 1)
    return slice(0, middle) if rank == 0 else slice(middle, rows)


def main(task: dict[str, Any], rank: int) -> None:
    torch.set_num_threads(1)
    folder = Path(task["folder"])
    bench = Bench(task["owner"], files=task["files"], configs=task["configs"])
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), WORLD), rank=rank, world_size=WORLD)
    found = {}
    for name in task["names"]:
        subject = Subject(bench, bench.catalog.get("loss", name))
        try:
            found[name] = compare(subject, rank)
        except NotApplicable:
            found[name] = ""
        except Exception as error:
            found[name] = f"on two ranks it fails: {one_line(error)}"
        dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]))
