"""What the loop costs over a bare DeepSpeed loop: the same towers, batches and objective in one process.

    python tests/benchmarks/engine_overhead.py
    python tests/benchmarks/engine_overhead.py --stage 2 --steps 12

The bare loop is what one would write by hand for one process: forward through DeepSpeed's engine, the objective on the
projections, `engine.backward(loss)`, `engine.step()`. Gentle's does what a run does between two batches: projections as
leaves, the objective, the surrogate's backward pass, agreement on a finite gradient, DeepSpeed's step, the loss's own
step. Both take the same batches in turn; loading is left out of both.
"""

from __future__ import annotations

import argparse
import copy
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from gentle_core.batch import AlignBatch, LossContext, Rows
from gentle_core.data.loader import StepDataset
from gentle_core.data.sampler import BatchSampler
from gentle_core.engine.optim import LossOptimizer, tower_groups
from gentle_core.engine.place import Place
from gentle_core.engine.progress import Display
from gentle_core.engine.ranks import joined
from gentle_core.engine.session import Session
from gentle_core.engine.step import forward_backward
from gentle_core.recipe import load_recipe
from gentle_core.recipe.deepspeed import deepspeed_config, merged

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "recipes" / "protein.toml"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    sets = [
        "engine.use=deepspeed", f"engine.zero_stage={arguments.stage}", "engine.device=cpu", "train.steps=1000",
        "evaluate.splits=[]", *arguments.sets,
    ]  # fmt: skip
    resolved = load_recipe(arguments.recipe, sets)
    with tempfile.TemporaryDirectory() as folder, joined(Place(0, 1, 0, "127.0.0.1", port)) as ranks:
        session = Session(resolved, Path(folder) / "run", "never", Display(quiet=True), ranks)
        session.build()
        trainer = session.trainer()
        data = trainer.data
        assert isinstance(data, StepDataset) and isinstance(data.sampler, BatchSampler)
        gentle, bare = Gentle(trainer), Bare(trainer, resolved.recipe)
        clocks = {"seconds": time.perf_counter, "CPU seconds": time.process_time}
        times = {clock: {"gentle": [], "bare": []} for clock in clocks}
        for step in range(arguments.steps + 2):
            inputs = data[step]
            order = (("gentle", gentle), ("bare", bare)) if step % 2 else (("bare", bare), ("gentle", gentle))
            losses = {}
            for name, loop in order:
                began = {clock: read() for clock, read in clocks.items()}
                losses[name] = loop(step, inputs)
                for clock, read in clocks.items():
                    times[clock][name].append(read() - began[clock])
            assert abs(losses["gentle"] - losses["bare"]) < 1e-3 * abs(losses["bare"]), losses
        for clock, both in times.items():
            kept = {name: found[2:] for name, found in both.items()}
            ratios = [a / b for a, b in zip(kept["gentle"], kept["bare"], strict=True)]
            each = {name: sum(found) / len(found) for name, found in kept.items()}
            print(f"{clock} a step: bare {each['bare']:.3f}, Gentle {each['gentle']:.3f}; overhead "
                  f"{100 * (statistics.median(ratios) - 1):+.1f} % (median of {len(ratios)} pairs of steps), "
                  f"{100 * (each['gentle'] / each['bare'] - 1):+.1f} % in sum")  # fmt: skip


class Gentle:
    def __init__(self, trainer):
        self.trainer, self.loss = trainer, trainer.loss
        self.cached = {tower: source.features is not None for tower, source in trainer.data.sources.items()}
        trainer.backend.model.train()

    def __call__(self, step, inputs):
        backend = self.trainer.backend
        context = LossContext(step=step, steps=1000, pairs=self.trainer.pairs)
        with backend.ranks.together():
            pass
        backend.zero()
        out = forward_backward(backend, self.loss, inputs, context, seed=0, cached=self.cached)
        assert out.finite and backend.step(step, 1000).applied
        self.loss.post_step(context)
        return out.out.loss.item()


class Bare:
    def __init__(self, trainer, recipe):
        import deepspeed

        self.trainer, self.recipe, self.loss = trainer, recipe, copy.deepcopy(trainer.loss)
        model = copy.deepcopy(trainer.model)
        self.own = LossOptimizer(self.loss, recipe.train)
        optimizer = torch.optim.AdamW(tower_groups(model, recipe))
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        sizes = {"zero_optimization": {"reduce_bucket_size": count, "allgather_bucket_size": count}}
        config = merged(sizes, deepspeed_config(recipe.train, recipe.engine))
        config["managed_gradient_accumulation"] = True
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )
        self.engine.module.train()
        self.optimizer = optimizer
        self.cached = {tower: source.features is not None for tower, source in trainer.data.sources.items()}

    def __call__(self, step, inputs):
        from gentle_core.data.streams import torch_seed
        from gentle_core.engine.optim import rate_factor, set_rates

        towers = {}
        for tower, given in inputs.items():
            views = []
            for view, chunks in enumerate(given.views):
                parts = []
                for chunk in chunks:
                    torch.manual_seed(torch_seed(0, "dropout", tower, step, view, chunk.group, chunk.number))
                    parts.append(self.engine(tower, chunk.inputs, self.cached[tower]))
                views.append(torch.cat(parts))
            unit = [F.normalize(view, dim=-1) for view in views]
            second = unit[1] if len(unit) > 1 else None
            towers[tower] = Rows(z=unit[0], ids=given.ids, raw=views[0], views=second)
        context = LossContext(step=step, steps=1000, pairs=self.trainer.pairs)
        out = self.loss(AlignBatch(towers), context)
        self.own.zero()
        self.engine.backward(out.loss)
        factor = rate_factor(self.recipe.train, step, 1000)
        set_rates(self.optimizer, factor)
        self.engine.step()
        self.own.step(factor)
        return out.loss.item()


if __name__ == "__main__":
    main()
