"""DeepSpeed's own configuration, as it follows from a recipe. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gentle_core.recipe.lines import KeyPath
from gentle_core.recipe.model import EngineTable, TrainTable

FOLLOWS = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.accumulate",
    "gradient_accumulation_steps": "train.accumulate",
    "managed_gradient_accumulation": "train.accumulate",
    "gradient_clipping": "train.clip",
    "optimizer": "train.learning_rate and train.weight_decay",
    "scheduler": "train.schedule",
    "zero_optimization.stage": "engine.zero_stage",
    "zero_optimization.offload_optimizer.device": "engine.offload",
    "zero_optimization.offload_param.device": "engine.offload",
    "zero_allow_untested_optimizer": "Gentle's own AdamW",
    "zero_force_ds_cpu_optimizer": "Gentle's own AdamW",
    "bf16.enabled": "train.precision",
    "bf16.check_grad_overflow": "train.on_nonfinite",
    "fp16.enabled": "train.precision",
    "fp16.loss_scale": "engine.loss_scale",
    "fp16.auto_cast": "train.precision",
    "amp": "train.precision",
    "torch_autocast": "train.precision",
    "activation_checkpointing": "engine.activation_checkpointing",
    "prescale_gradients": "the gradient of the global batch",
    "gradient_predivide_factor": "the gradient of the global batch",
    "sparse_gradients": "the gradient of the global batch",
    "seed": "train.seed",
}
"""Keys of DeepSpeed that a recipe says in its own words, and where."""


def deepspeed_config(train: TrainTable, engine: EngineTable) -> dict[str, Any]:
    """What goes to `deepspeed.initialize`: the recipe's settings, and the table `[engine.deepspeed]` merged into them.

    Every chunk's backward pass is a micro-step of DeepSpeed; where a step ends is said by the loop, so its own count of
    accumulation steps stays at 1. At stage 0 weights stay in float32 (the towers compute in `train.precision`), and the
    loop clips; from stage 1 on DeepSpeed keeps weights in `train.precision` beside float32 masters, clips, and scales.
    """
    zero: dict[str, Any] = {"stage": engine.zero_stage}
    if engine.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if engine.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    if engine.zero_stage == 3 and engine.offload != "none":
        zero["overlap_comm"] = False  # DeepSpeed asks for it where the caller says where a step ends
    config: dict[str, Any] = {
        "managed_gradient_accumulation": loop_bounds_steps(engine) is False,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.clip if engine.zero_stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**62,
    }
    if engine.zero_stage and train.precision == "bfloat16":
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
    if engine.zero_stage and train.precision == "float16":
        config["fp16"] = {"enabled": True, "loss_scale": engine.loss_scale, "hysteresis": 1}
    return merged(config, engine.deepspeed)


def loop_bounds_steps(engine: EngineTable) -> bool:
    """Whether DeepSpeed takes `step()` for the end of a step's micro-steps, instead of a flag before the last one.

    With offload only this is right where a micro-step does not touch all parameters; stage 3 without offload can
    overlap communication only with the flag, and stage 0 reduces gradients before the loop clips them.
    """
    return engine.zero_stage in (1, 2) or (engine.zero_stage == 3 and engine.offload != "none")


def merged(config: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the values of `more`, table by table."""
    found = dict(config)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


def conflicts(train: TrainTable, engine: EngineTable) -> Iterator[tuple[KeyPath, str]]:
    """Entries of `[engine.deepspeed]` that say otherwise than the recipe's own settings, with the path below it."""
    plain = deepspeed_config(train, EngineTable(zero_stage=engine.zero_stage, offload=engine.offload,
                                                loss_scale=engine.loss_scale))  # fmt: skip
    for path, value in _leaves(engine.deepspeed, ()):
        for length in range(1, len(path) + 1):
            name = ".".join(path[:length])
            if name in FOLLOWS and _at(plain, path) != value:
                yield path, f"this follows from {FOLLOWS[name]}: leave it out, and change that"
                break


def _leaves(table: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(table, Mapping) and table:
        for key, value in table.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, table


def _at(table: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table
