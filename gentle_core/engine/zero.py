"""The DeepSpeed back end: ZeRO stages 0 to 3, half precision with float32 masters, offload to the host.

DeepSpeed holds the towers alone. The objective runs outside it on the gathered projections, and its gradient g goes
back as the surrogate Σ ⟨z, g⟩ of each chunk's projections z: one micro-step a chunk, reduced where the last one says
so. Every parameter thus gets one gradient a backward pass, which is what stages 2 and 3 ask for. DeepSpeed averages
over ranks where the sum is wanted, so the surrogate is multiplied by their number. The loss's own parameters stay
outside too: they are few, have the whole gradient on every rank, and some of them ascend.

A second, ordinary copy of the towers holds the whole weights for evaluation and checkpoints: see `collect`.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gentle_core.engine.backend import Taken, clip_gradients
from gentle_core.engine.budget import BUCKET
from gentle_core.engine.exchanges import time_exchanges
from gentle_core.engine.norms import normalise_in_float32
from gentle_core.engine.optim import LossOptimizer, load_named_state, named_state, rate_factor, set_rates, tower_groups
from gentle_core.engine.ranks import Ranks
from gentle_core.engine.scaling import LossScale
from gentle_core.engine.towers import AlignedModel
from gentle_core.errors import ComponentError, GentleError
from gentle_core.recipe.deepspeed import deepspeed_config, loop_bounds_steps, merged
from gentle_core.recipe.model import Recipe

SLOTS = ("exp_avg", "exp_avg_sq")


def _import(device: torch.device) -> Any:
    """DeepSpeed, told which device to use; it chooses once, when it is imported."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    level = logging.WARNING
    try:
        import deepspeed
        from deepspeed.utils import logger
    except ImportError as error:
        raise ComponentError(f"DeepSpeed cannot be imported ({error}): pip install 'gentle-core[deepspeed]'") from error
    logger.setLevel(level)
    # It calls collectives by names that torch has renamed; each call would say so.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # On CPUs DeepSpeed would compile a reduction over shared memory at first use: that takes a compiler, a minute, and
    # a lock that a killed run leaves behind. Gloo reduces as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


class DeepSpeedBackend:
    """See the module. The engine is made when it is first needed, with the weights that the whole model has then."""

    def __init__(self, model: AlignedModel, loss: Any, recipe: Recipe, ranks: Ranks):
        self.deepspeed = _import(model.device)
        self.recipe, self.table, self.ranks = recipe, recipe.train, ranks
        self.stage = recipe.engine.zero_stage
        self.flagged = not loop_bounds_steps(recipe.engine)
        self.half = self.stage > 0 and recipe.train.precision != "float32"
        self.whole = model
        self.loss = LossOptimizer(loss, recipe.train)
        self.scale = LossScale(recipe.engine.loss_scale, self.stage == 0 and recipe.train.precision == "float16")
        self._engine: Any = None

    # -- the engine ---------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Any:
        if self._engine is None:
            self._start()
        return self._engine

    @property
    def model(self) -> AlignedModel:
        module: AlignedModel = self.engine.module
        return module

    def _start(self) -> None:
        # DeepSpeed looks into the environment even where the process group exists; so may a second run of this process.
        place = self.ranks.place
        names: dict[str, Any] = {
            "RANK": self.ranks.rank,
            "WORLD_SIZE": self.ranks.size,
            "LOCAL_RANK": self.ranks.local_rank,
        }
        names |= {"MASTER_ADDR": place.address, "MASTER_PORT": place.port} if place else {}
        for name, value in names.items():
            os.environ.setdefault(name, str(value))
        # Frozen encoders are shared where DeepSpeed neither casts nor divides them.
        shared = {} if self.half or self.stage == 3 else {
            id(tower.encoder): tower.encoder
            for tower in map(self.whole.tower, self.whole.tower_modules) if tower.frozen
        }  # fmt: skip
        model = copy.deepcopy(self.whole, shared)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self.adamw = torch.optim.AdamW(tower_groups(model, self.recipe))
        trainable = [p for p in model.parameters() if p.requires_grad]
        bucket = min(BUCKET, max(sum(p.numel() for p in trainable), 1))
        sizes = {"zero_optimization": {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}}
        config = merged(sizes, deepspeed_config(self.table, self.recipe.engine))
        try:
            with self._encoders_as_leaves(model):
                self._engine, *_ = self.deepspeed.initialize(
                    model=model, optimizer=self.adamw, config=config, dist_init_required=False
                )
        except (ValueError, AssertionError, TypeError) as error:
            half = ' (train.precision = "float16" needs a GPU or a processor that computes in it, "bfloat16" does not)'
            hint = half if "fp16 is not supported" in str(error) else ""
            raise GentleError(f"DeepSpeed refuses its configuration: {error}{hint}") from error
        time_exchanges(self.deepspeed.comm.comm.cdb)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.data = buffers[name]  # DeepSpeed casts them to half precision as well
        if self.half:
            normalise_in_float32(model)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if self.half:  # masters begin as the exact weights, not as their half-precision copies
            self._set(dict(self.whole.named_parameters()))

    @contextlib.contextmanager
    def _encoders_as_leaves(self, model: AlignedModel) -> Iterator[None]:
        """While DeepSpeed's engine is made: let stage 3 gather an encoder whose calls vary all at once, lest the ranks
        wait for one another in unlike layers.

        DeepSpeed would reduce such a leaf's gradients when those of its inputs are there, which at the beginning of a
        model (tokens have no gradient) is before there are any. So it is told of leaves where it fetches weights, and
        not where it reduces.
        """
        encoders = [model.tower(name).encoder for name in model.tower_modules]
        vary = [encoder for encoder in encoders if getattr(encoder, "calls_vary", False)]
        if self.stage < 3 or not vary:
            yield
            return
        for encoder in vary:
            self.deepspeed.utils.set_z3_leaf_module(encoder, True)
        stage3: Any = importlib.import_module("deepspeed.runtime.zero.stage3")
        told = stage3.z3_leaf_parameter
        stage3.z3_leaf_parameter = lambda parameter: False
        try:
            yield
        finally:
            stage3.z3_leaf_parameter = told

    # -- passes -------------------------------------------------------------------------------------------------------

    def project(self, tower: str, inputs: Any, cached: bool) -> Tensor:
        projections: Tensor = self.engine(tower, inputs, cached)
        return projections

    def backward(self, roots: Sequence[Tensor], gradients: Sequence[Tensor], last: bool) -> None:
        surrogate = sum((root * gradient).sum() for root, gradient in zip(roots, gradients, strict=True))
        if self.flagged:
            self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(surrogate * (self.ranks.size * self.scale.value), scale_wrt_gas=False)

    def zero(self) -> None:
        self.loss.zero()

    def step(self, step: int, steps: int) -> Taken:
        factor = rate_factor(self.table, step, steps)
        set_rates(self.adamw, factor)
        taken = self._step_whole() if self.stage == 0 else self._step_divided()
        if taken.applied:
            self.loss.step(factor)
        return Taken(taken.applied, taken.norm, self.table.learning_rate * factor, taken.scale, taken.rescaled)

    def _step_whole(self) -> Taken:
        norm, scale = clip_gradients(list(self.parameters.values()), self.table.clip, self.scale), self.scale.value
        finite = math.isfinite(norm)
        rescaled = self.scale.follow(not finite)
        if finite:
            self.engine.step()
        else:
            self.engine.zero_grad()
        return Taken(finite, norm, 0.0, scale, rescaled)

    def _step_divided(self) -> Taken:
        dynamic = self.table.precision == "float16" and not self.recipe.engine.loss_scale
        scale = float(self.engine.optimizer.loss_scale) if self.half else 1.0
        try:
            self.engine.step()
        except Exception as error:
            if "minimum" not in str(error):  # a loss scale that can fall no further
                raise
            return Taken(False, math.inf, 0.0, scale)
        self._forget()
        applied = bool(self.engine.was_step_applied())
        norm = self.engine.get_global_grad_norm()
        return Taken(applied, math.inf if norm is None else float(norm), 0.0, scale, not applied and dynamic)

    def _forget(self) -> None:
        """Clear gradients that DeepSpeed keeps beyond the step. It overwrites them in the next step's first micro-step,
        but ours touches one tower alone: the others' would be added to these."""
        wrapped = self.engine.optimizer
        kept = [wrapped.grad_partitions_flat_buffer] if self.stage == 3 else []
        if self.recipe.engine.offload != "none":
            kept += getattr(wrapped, "accumulated_grads_in_cpu", {}).values()
            kept += [flat.grad for flat in self._flat() if flat.grad is not None]
        for gradient in kept:
            gradient.zero_()

    # -- state --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self) -> AlignedModel:
        if self._engine is None:
            return self.whole
        whole = dict(self.whole.named_parameters())
        for name, parameter in self.parameters.items():
            whole[name].copy_(self._full(parameter))
        buffers = dict(self.whole.named_buffers())
        for name, buffer in self.model.named_buffers():
            buffers[name].copy_(buffer)
        return self.whole

    def _full(self, parameter: Tensor) -> Tensor:
        if self.stage == 0:
            return parameter
        value: Tensor = self.deepspeed.utils.safe_get_full_fp32_param(parameter)
        return value

    def optimizer_state(self) -> dict[str, Tensor]:
        loss = self.loss.state() | self.scale.state()
        if self._engine is None:
            return loss
        if self.stage == 0:
            return named_state(self.adamw, self.model, "model") | loss
        states = [self.adamw.state[flat] for flat in self._flat() if flat in self.adamw.state]
        found: dict[str, Tensor] = {}
        if states:
            self._link()
            count = states[0]["step"]
            for name, parameter in self.parameters.items():
                for slot in SLOTS:
                    value = self.deepspeed.utils.safe_get_full_optimizer_state(parameter, slot)
                    found[f"model.{name}/{slot}"] = value.reshape(self._shape(parameter)).clone()
                found[f"model.{name}/step"] = torch.as_tensor(count).clone()
        if self.half and self.table.precision == "float16" and not self.recipe.engine.loss_scale:
            scaler = self.engine.optimizer.loss_scaler
            found["scale/value"] = torch.tensor(float(scaler.cur_scale))
            found["scale/steps"] = torch.tensor(scaler.cur_iter - scaler.last_overflow_iter - 1)
        return found | loss

    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        self.whole.load_state_dict(weights, strict=False)
        self.loss.load(optimizer)
        self.scale.load(optimizer)
        if self._engine is not None:
            self._engine.destroy()
            self._engine = None
        self._start()
        if self.stage == 0:
            load_named_state(self.adamw, self.model, "model", optimizer)
            return
        counts = [value for name, value in optimizer.items() if name.startswith("model.") and name.endswith("/step")]
        if counts:
            for flat in self._flat():
                self.adamw.state[flat] = {
                    "step": counts[0].clone(), **{slot: torch.zeros_like(flat.data) for slot in SLOTS}
                }  # fmt: skip
            self._link()
            for slot in SLOTS:
                self._set({name: optimizer[f"model.{name}/{slot}"] for name in self.parameters}, slot)
        if self.half and "scale/value" in optimizer and not self.recipe.engine.loss_scale:
            scaler = self.engine.optimizer.loss_scaler
            scaler.cur_scale = float(optimizer["scale/value"])
            scaler.cur_iter = scaler.last_overflow_iter + 1 + int(optimizer["scale/steps"])

    def _link(self) -> None:
        """Let parameters find their part of the optimiser's state: DeepSpeed does so after the first step of the first
        group, when the other groups have none yet."""
        if self.stage < 3:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat(self) -> list[Tensor]:
        """The tensors that the optimiser sees in place of the parameters: this rank's part of each group."""
        wrapped = self.engine.optimizer
        return list(
            wrapped.fp32_partitioned_groups_flat if self.stage == 3 else wrapped.single_partition_of_fp32_groups
        )

    def _shape(self, parameter: Tensor) -> torch.Size:
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor], slot: str | None = None) -> None:
        """Set master weights, or a slot of the optimiser's state."""
        utils = self.deepspeed.utils
        for name, parameter in self.parameters.items():
            value = values[name].detach().to(device=self.whole.device, dtype=torch.float32)
            if self.stage < 3:
                if slot is None:
                    utils.safe_set_full_fp32_param(parameter, value)
                else:
                    utils.safe_set_full_optimizer_state(parameter, value, slot)
                continue
            each = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
            padded = value.new_zeros(each * self.ranks.size)
            padded[: value.numel()] = value.reshape(-1)
            mine = padded[each * self.ranks.rank : each * (self.ranks.rank + 1)]
            if slot is None:
                utils.safe_set_local_fp32_param(parameter, mine)
            else:
                utils.safe_set_local_optimizer_state(parameter, mine, slot)
