"""The training loop."""

from __future__ import annotations

import difflib
import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from gentle_core.batch import LossContext, LossOut
from gentle_core.data.loader import StepDataset, TowerInputs, step_batches
from gentle_core.engine.backend import Backend, Taken
from gentle_core.engine.checkpoint import Checkpoint, prune, save_checkpoint
from gentle_core.engine.interrupt import InterruptFlag
from gentle_core.engine.profile import Flops, memory_gib, peak_tflops, traced
from gentle_core.engine.progress import Display
from gentle_core.engine.pseudo import PseudoPairing
from gentle_core.engine.rundir import RunDirectory
from gentle_core.engine.statistics import RunningStatistics
from gentle_core.engine.step import StepOut, forward_backward
from gentle_core.engine.towers import AlignedModel, Tower
from gentle_core.errors import CheckpointError, Interrupted, NonFiniteError, RecipeError
from gentle_core.losses.talk import TALK
from gentle_core.recipe.model import EngineTable, TrainTable

NOT_TAKEN = Taken(False, math.nan, 0.0)
"""A step whose objective was not finite."""


def lower_is_better(metric: str) -> bool:
    """Whether a validation metric improves downwards."""
    return metric.split("/")[0] in ("loss", "sdd", "mmd", "gap", "alignment") or metric.endswith("median_rank")


@attrs.define
class Best:
    """The best validation values so far, as (value, checkpoint), best first; of equal ones the earlier."""

    metric: str
    ranked: list[tuple[float, str]] = attrs.field(factory=list)

    @property
    def value(self) -> float | None:
        return self.ranked[0][0] if self.ranked else None

    @property
    def checkpoint(self) -> str:
        return self.ranked[0][1] if self.ranked else ""

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.ranked}

    def take(self, value: float, checkpoint: str, keep: int) -> bool:
        """Whether the value is among the best `keep`; then its checkpoint takes its place there."""
        sign = 1 if lower_is_better(self.metric) else -1
        ranked = sorted([*self.ranked, (value, checkpoint)], key=lambda entry: (sign * entry[0], entry[1]))[:keep]
        entered = (value, checkpoint) in ranked
        self.ranked = ranked
        return entered

    def facts(self) -> dict[str, Any]:
        return {"metric": self.metric, "value": self.value, "checkpoint": self.checkpoint, "ranked": self.ranked}


@attrs.define
class Trainer:
    """Everything that a training run needs, and its state.

    Attributes:
        model: the whole model, up to date after `backend.collect()`.
        measure: evaluates the model on the validation split; returns flat metrics.
        interrupt: says whether the run was asked to stop.
        fingerprints: hashes of the frozen encoders, which a checkpoint does not hold.
        pseudo: where pseudo-pairs come from, if the recipe asks for them.
        trace: where a trace of a few steps is written; None for none.
        aligned: towers start from an alignment (CCA's, or that of a model trained before), which may be better on
            validation than all that training makes of it: it is a candidate for the best checkpoint.
        saved: the step of the last checkpoint.
    """

    table: TrainTable
    steps: int
    pairs: tuple[tuple[str, str], ...]
    model: AlignedModel
    loss: Any
    backend: Backend
    engine: EngineTable
    data: StepDataset
    run: RunDirectory
    display: Display
    measure: Callable[[], Mapping[str, float]]
    fingerprints: Mapping[str, str]
    interrupt: InterruptFlag = attrs.field(factory=InterruptFlag)
    pseudo: PseudoPairing | None = None
    trace: Path | None = None
    aligned: bool = False
    flops: Flops = attrs.field(factory=Flops)
    step: int = 0
    skipped: int = 0
    saved: int = -1
    best: Best = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.best = Best(self.table.select)

    # -- state ------------------------------------------------------------------------------------------------------

    def save(self) -> str:
        """Write a checkpoint of the state after `step` steps; returns its name. All ranks gather, rank 0 writes."""
        tensors = {
            "model": self.backend.collect().trained_state(),
            "loss": self.loss.state_dict(),
            "optimizer": self.backend.optimizer_state(),
        }
        if self.pseudo is not None:
            tensors["pseudo"] = self.pseudo.state()
        facts = {
            "best": self.best.facts(), "fingerprints": dict(self.fingerprints), "steps": self.steps,
            "skipped": self.skipped,
        }  # fmt: skip

        def write() -> str:
            path = save_checkpoint(self.run.checkpoints, self.step, tensors, facts)
            prune(self.run.checkpoints, self.table.keep_last, {*self.best.names, path.name})
            return path.name

        name = self.backend.ranks.on_main(write)
        self.saved = self.step
        return name

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
        self.backend.load(checkpoint.tensors["model"], checkpoint.tensors["optimizer"])
        if self.pseudo is not None:
            self.pseudo.load(checkpoint.tensors.get("pseudo", {}))
        self.step = self.saved = int(checkpoint.facts["step"])
        self.skipped = int(checkpoint.facts["skipped"])
        best = checkpoint.facts["best"]
        self.best = Best(best["metric"], [(value, name) for value, name in best["ranked"]])

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
            NonFiniteError: before the step that would have used a loss or gradient that is not finite; with
                `on_nonfinite = "skip"` only after `max_skipped` such steps were left out.
        """
        table = self.table
        if self.best.metric and self.step == 0 and not self.best.ranked:
            self._measure_untrained()
        batches = step_batches(self.data, self.step, self.steps, table.workers)
        cached = {tower: source.features is not None for tower, source in self.data.sources.items()}
        ranks, training = self.backend.ranks, self.backend.model
        buffers = _changing_buffers(training)
        statistics = RunningStatistics(training, ranks, self.data.each * ranks.size)
        training.train()
        self.loss.train()
        self.display.start(name, self.steps, self.step)
        try:
            with self.interrupt.patiently() as interrupt, traced(self.trace, self.steps - self.step) as stepped:
                while self.step < self.steps:
                    if self.pseudo is not None and self.pseudo.due(self.step):
                        self._heed(*ranks.largest(interrupt.number()))  # a teacher may take its time
                        self._ask_teacher(self.pseudo)
                        batches = step_batches(self.data, self.step, self.steps, table.workers)
                    began = time.perf_counter()
                    talked = TALK.seconds
                    with ranks.together(interrupt.number) as agreed, record_function("gentle: data"):
                        inputs = next(batches)
                        waited = time.perf_counter() - began
                    self._heed(agreed.number)
                    last = self.step + 1 == self.steps
                    log = last or (table.log_every > 0 and (self.step + 1) % table.log_every == 0)
                    context = LossContext(
                        step=self.step, steps=self.steps, pairs=self.pairs, tile=table.tile, logs=log
                    )  # fmt: skip
                    self.backend.zero()
                    before = [b.clone() for b in buffers]
                    with self.flops.counted(), statistics.followed():
                        result = forward_backward(
                            self.backend, self.loss, inputs, context,
                            seed=table.seed, cached=cached, recompute=self.data.each > 1, term_gradients=log,
                        )  # fmt: skip
                    with record_function("gentle: step"):
                        taken = self.backend.step(self.step, self.steps) if result.finite else NOT_TAKEN
                    if taken.applied:
                        self.loss.post_step(context)
                        statistics.update()  # each step, lest a checkpoint change what follows
                        if self.pseudo is not None and self.pseudo.listens:
                            self.pseudo.observe(self.backend.collect(), self.step)
                    else:
                        for buffer, value in zip(buffers, before, strict=True):
                            buffer.copy_(value)
                        if not taken.rescaled:
                            self._not_finite(result.out, taken.norm, inputs)
                    self.step += 1
                    if log and taken.applied:
                        seconds = time.perf_counter() - began
                        values = self._record(result, taken, inputs, seconds, waited, TALK.seconds - talked)
                        self.run.log(self.step, "train", values)
                        shown = {key: values[key] for key in ("loss", *result.out.terms) if key in values}
                        self.display.advance(self.step, shown | {"rows/s": values["rows_per_second"]})
                    else:
                        self.display.advance(self.step)
                    stepped()
                    self._between_steps(last)
        finally:
            self.display.stop()

    def _ask_teacher(self, pseudo: PseudoPairing) -> None:
        """New pseudo-pairs or reference rows, before the next step."""
        self.backend.collect()
        with self.display.aside(f"step {self.step}: asking the teacher"):
            figures = pseudo.refresh(self.step)
        self.backend.model.train()
        if figures:
            self.run.log(self.step, "pseudo", figures)

    def _measure_untrained(self) -> None:
        """The validation figures before training, which also show whether `train.select` names one of them."""
        metrics = self.measure()
        if self.best.metric not in metrics:
            close = difflib.get_close_matches(self.best.metric, metrics, n=1)
            hint = f" — did you mean {close[0]!r}?" if close else "; metrics.jsonl of a finished run shows their names"
            raise RecipeError(f"train.select: validation gives no metric {self.best.metric!r}{hint}")
        self.run.log(0, "val", metrics)
        if self.aligned:
            self._consider(metrics)

    def _heed(self, number: int) -> None:
        """Stop before the next step if a signal asked a rank to: all ranks after the same step, with a checkpoint."""
        if not number or not self.step:
            return
        if self.saved != self.step:
            self.save()
        raise Interrupted(
            f"{signal.Signals(number).name}: stopped after step {self.step} of {self.steps} with a checkpoint; "
            "the same command with --resume auto goes on"
        )

    def _between_steps(self, last: bool) -> None:
        table = self.table
        if last or (table.evaluate_every and self.step % table.evaluate_every == 0):
            metrics = self.measure()
            self.backend.model.train()
            self.run.log(self.step, "val", metrics)
            self._consider(metrics)
        due = table.checkpoint_every and self.step % table.checkpoint_every == 0
        if self.saved != self.step and (last or due):
            self.save()

    def _consider(self, metrics: Mapping[str, float]) -> None:
        """Keep the state as it is now if it is among the best."""
        value = metrics.get(self.best.metric, math.nan)
        if math.isfinite(value) and self.best.take(value, f"step-{self.step:08d}", self.table.keep_best):
            self.save()

    def _not_finite(self, out: LossOut, norm: float, inputs: Mapping[str, TowerInputs]) -> None:
        """Write down what was in the batch; the state is that before the step. Returns if the step may be skipped."""
        bad = [name for name, term in out.terms.items() if not torch.isfinite(term)]
        what = f"term {bad[0]!r}" if bad else "the gradient" if torch.isfinite(out.loss) else "the loss"
        self.run.append_json("nonfinite.jsonl", {
            "step": self.step,
            "what": what,
            "loss": _number(out.loss.item()),
            "gradient_norm": _number(norm),
            "terms": {name: _number(term.item()) for name, term in out.terms.items()},
            "items": {tower: given.items for tower, given in inputs.items()},
        })  # fmt: skip
        path = self.run.path / "nonfinite.jsonl"
        said = f"{what} is not finite at step {self.step}; no step was taken, the items of the batch are in {path}"
        if self.table.on_nonfinite == "skip" and self.skipped < self.table.max_skipped:
            self.skipped += 1
            self.display.warn(f"{said}; skipped ({self.skipped} of at most {self.table.max_skipped})")
            return
        if self.step:
            self.save()
        if self.table.on_nonfinite == "skip":
            said += f"; train.max_skipped = {self.table.max_skipped} steps were skipped before"
        raise NonFiniteError(said)

    def _record(
        self,
        result: StepOut,
        taken: Taken,
        inputs: Mapping[str, TowerInputs],
        seconds: float,
        waited: float,
        talked: float,
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
        ranks, seconds = self.backend.ranks, max(seconds, 1e-9)
        measured = ranks.gather((waited, talked / seconds, memory_gib(self.model.device), self.flops.count or 0))
        waits, talks, memory, flops = zip(*measured, strict=True)
        values |= {
            "learning_rate": taken.rate,
            "grad_norm": taken.norm,
            "rows_per_second": rows / seconds,
            "data_wait": max(waits) / seconds,
            "memory_gib": max(memory),
            "tflops": sum(flops) / seconds / 1e12,
        }
        if peak := peak_tflops(self.model.device, self.table.precision, self.engine.peak_tflops):
            values["flop_share"] = values["tflops"] / (peak * ranks.size)
        if ranks.size > 1:
            values["communication"] = sum(talks) / ranks.size
        if taken.scale != 1:
            values["loss_scale"] = taken.scale
        return values


def _changing_buffers(module: nn.Module) -> list[Tensor]:
    """What a forward pass in training mode may change (statistics of normalisation layers) outside frozen encoders."""
    frozen = {id(b) for m in module.modules() if isinstance(m, Tower) and m.frozen for b in m.encoder.buffers()}
    return [b for b in module.buffers() if id(b) not in frozen]


def _number(value: float) -> float | str:
    """As JSON has it, which knows no NaN: "nan", "inf" and "-inf" are strings."""
    return value if math.isfinite(value) else str(value)


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
