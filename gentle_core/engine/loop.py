"""The training loop."""

from __future__ import annotations

import difflib
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from gentle_core.batch import LossContext, LossOut
from gentle_core.data.loader import StepDataset, TowerInputs, step_batches
from gentle_core.engine.checkpoint import Checkpoint, prune, save_checkpoint, write_durably
from gentle_core.engine.interrupt import InterruptFlag
from gentle_core.engine.optim import Optimizer
from gentle_core.engine.progress import Display
from gentle_core.engine.rundir import RunDirectory
from gentle_core.engine.step import StepOut, forward_backward
from gentle_core.engine.towers import AlignedModel
from gentle_core.errors import CheckpointError, Interrupted, NonFiniteError, RecipeError
from gentle_core.recipe.model import TrainTable


def lower_is_better(metric: str) -> bool:
    """Whether a validation metric improves downwards."""
    return metric.split("/")[0] in ("loss", "sdd", "mmd", "gap", "alignment") or metric.endswith("median_rank")


@attrs.define
class Best:
    """The best validation value so far and the checkpoint that had it."""

    metric: str
    value: float | None = None
    checkpoint: str = ""

    def improves(self, value: float) -> bool:
        if self.value is None:
            return True
        return value < self.value if lower_is_better(self.metric) else value > self.value


@attrs.define
class Trainer:
    """Everything that a training run needs, and its state.

    Attributes:
        measure: evaluates the model on the validation split; returns flat metrics.
        fingerprints: hashes of the frozen encoders, which a checkpoint does not hold.
    """

    table: TrainTable
    steps: int
    pairs: tuple[tuple[str, str], ...]
    model: AlignedModel
    loss: Any
    optimizer: Optimizer
    data: StepDataset
    run: RunDirectory
    display: Display
    measure: Callable[[], Mapping[str, float]]
    fingerprints: Mapping[str, str]
    step: int = 0
    best: Best = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.best = Best(self.table.select)

    # -- state ------------------------------------------------------------------------------------------------------

    def save(self) -> str:
        """Write a checkpoint of the state after `step` steps; returns its name."""
        tensors = {
            "model": self.model.trained_state(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state(),
        }
        facts = {"best": attrs.asdict(self.best), "fingerprints": dict(self.fingerprints), "steps": self.steps}
        path = save_checkpoint(self.run.checkpoints, self.step, tensors, facts)
        prune(self.run.checkpoints, self.table.keep_last, {self.best.checkpoint, path.name})
        return path.name

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        for tower, fingerprint in self.fingerprints.items():
            before = checkpoint.facts["fingerprints"].get(tower)
            if before != fingerprint:
                raise CheckpointError(
                    f"{checkpoint.path}: the frozen encoder of tower {tower!r} has other weights now than when the "
                    "checkpoint was written; bring the former weights back, or start anew with another --out"
                )
        self.load_weights(checkpoint)
        self.optimizer.load(checkpoint.tensors["optimizer"])
        self.step = int(checkpoint.facts["step"])
        self.best = Best(**checkpoint.facts["best"])

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Take model and loss from a checkpoint, but not the position in the run."""
        expected = set(self.model.trained_state())
        if expected != set(checkpoint.tensors["model"]):
            raise CheckpointError(f"{checkpoint.path} belongs to another model; choose another --out")
        self.model.load_state_dict(checkpoint.tensors["model"], strict=False)
        self.loss.load_state_dict(checkpoint.tensors["loss"])

    # -- training ---------------------------------------------------------------------------------------------------

    def fit(self, name: str = "train") -> None:
        """Train from `step` to `steps`.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with a checkpoint written.
            NonFiniteError: before the step that would have used a loss or gradient that is not finite.
        """
        table = self.table
        if self.best.metric and self.step == 0:
            self._measure_untrained()
        batches = step_batches(self.data, self.step, self.steps, table.workers)
        cached = {tower: source.features is not None for tower, source in self.data.sources.items()}
        self.model.train()
        self.loss.train()
        self.display.start(name, self.steps, self.step)
        try:
            with InterruptFlag() as interrupt:
                while self.step < self.steps:
                    began = time.perf_counter()
                    inputs = next(batches)
                    waited = time.perf_counter() - began
                    last = self.step + 1 == self.steps
                    log = last or (table.log_every > 0 and (self.step + 1) % table.log_every == 0)
                    context = LossContext(step=self.step, steps=self.steps, pairs=self.pairs)
                    self.optimizer.zero()
                    result = forward_backward(
                        self.model, self.loss, inputs, context,
                        seed=table.seed, cached=cached, recompute=table.accumulate > 1, term_gradients=log,
                    )  # fmt: skip
                    norm = self.optimizer.gradient_norm()
                    self._check_finite(result.out, norm, inputs)
                    rate = self.optimizer.step(self.step, self.steps)
                    self.loss.post_step(context)
                    self.step += 1
                    if log:
                        seconds = time.perf_counter() - began
                        values = self._record(result, norm, rate, inputs, seconds, waited)
                        self.run.log(self.step, "train", values)
                        shown = {key: values[key] for key in ("loss", *result.out.terms) if key in values}
                        self.display.advance(self.step, shown | {"rows/s": values["rows_per_second"]})
                    else:
                        self.display.advance(self.step)
                    self._between_steps(last, interrupt)
        finally:
            self.display.stop()

    def _measure_untrained(self) -> None:
        """The validation figures before training, which also show whether `train.select` names one of them."""
        metrics = self.measure()
        if self.best.metric not in metrics:
            close = difflib.get_close_matches(self.best.metric, metrics, n=1)
            hint = f" — did you mean {close[0]!r}?" if close else "; metrics.jsonl of a finished run shows their names"
            raise RecipeError(f"train.select: validation gives no metric {self.best.metric!r}{hint}")
        self.run.log(0, "val", metrics)

    def _between_steps(self, last: bool, interrupt: InterruptFlag) -> None:
        table, saved = self.table, False
        if last or (table.evaluate_every and self.step % table.evaluate_every == 0):
            metrics = self.measure()
            self.model.train()
            self.run.log(self.step, "val", metrics)
            if self.best.metric and self.best.metric in metrics and self.best.improves(metrics[self.best.metric]):
                self.best = Best(self.best.metric, metrics[self.best.metric], f"step-{self.step:08d}")
                self.save()
                saved = True
        if not saved and (last or interrupt.name or (table.save_every and self.step % table.save_every == 0)):
            self.save()
        if interrupt.name and not last:
            raise Interrupted(
                f"{interrupt.name}: stopped after step {self.step} of {self.steps} with a checkpoint; "
                "the same command with --resume auto goes on"
            )

    def _check_finite(self, out: LossOut, norm: Tensor, inputs: Mapping[str, TowerInputs]) -> None:
        if torch.isfinite(out.loss) and torch.isfinite(norm):
            return
        bad = [name for name, term in out.terms.items() if not torch.isfinite(term)]
        what = f"term {bad[0]!r}" if bad else "the gradient" if torch.isfinite(out.loss) else "the loss"
        record = {
            "step": self.step,
            "what": what,
            "loss": out.loss.item(),
            "gradient_norm": norm.item(),
            "terms": {name: term.item() for name, term in out.terms.items()},
            "items": {tower: given.items for tower, given in inputs.items()},
        }
        path = self.run.path / "nonfinite.json"
        write_durably(path, json.dumps(record, indent=1).encode())
        if self.step:
            self.save()
        raise NonFiniteError(
            f"{what} is not finite at step {self.step}; no step was taken, the items of the batch are in {path}"
        )

    def _record(
        self,
        result: StepOut,
        norm: Tensor,
        rate: float,
        inputs: Mapping[str, TowerInputs],
        seconds: float,
        waited: float,
    ) -> dict[str, Any]:
        out = result.out
        rows = sum(len(given.items) for given in inputs.values())
        values: dict[str, Any] = {"loss": out.loss.item()}
        if out.objective is not None:
            values["objective"] = out.objective.item()
        values |= {name: term.item() for name, term in out.terms.items()}
        values |= {f"weight/{name}": float(weight) for name, weight in out.weights.items()}
        values |= {f"grad_norm/{name}": value for name, value in result.term_gradients.items()}
        values |= {f"rows/{name}": count for name, count in out.counts.items()}
        values |= _flat(out.logs)
        values |= {
            "learning_rate": rate,
            "grad_norm": norm.item(),
            "rows_per_second": rows / max(seconds, 1e-9),
            "data_wait": waited / max(seconds, 1e-9),
        }
        if torch.cuda.is_available():
            values["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return values


def _flat(logs: Mapping[str, Any]) -> dict[str, float]:
    """Scalars as they are, vectors one entry a component; what is not finite is left out of JSON."""
    found: dict[str, float] = {}
    for name, value in logs.items():
        parts = value.detach().flatten().tolist() if isinstance(value, Tensor) else value
        if isinstance(parts, list | tuple) and len(parts) != 1:
            found |= {f"{name}/{i}": float(part) for i, part in enumerate(parts)}
        else:
            found[name] = float(parts[0] if isinstance(parts, list | tuple) else parts)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """All parameters and those that train."""
    return (
        sum(p.numel() for p in module.parameters()),
        sum(p.numel() for p in module.parameters() if p.requires_grad),
    )
