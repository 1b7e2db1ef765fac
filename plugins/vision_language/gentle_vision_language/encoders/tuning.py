"""Which weights of a pretrained model train: all, the last layers, or low-rank adapters."""

from __future__ import annotations

from typing import Any

from torch import nn

from gentle_core.api import ComponentError
from gentle_vision_language.encoders.config import Tuning


def tune(model: nn.Module, config: Tuning) -> nn.Module:
    """Set up training as `config` says; returns the model, with adapters in it where they are asked for.

    Raises:
        ComponentError: more layers than there are, or peft is not installed.
    """
    if config.lora:
        return _with_adapters(model, config)
    if config.train_layers != "all":
        _train_last(model, int(config.train_layers))
    return model


def layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The stack of layers: the module list with the most weights, with its name."""
    stacks = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part)]
    if not stacks:
        raise ComponentError(
            f"{type(model).__name__} has no stack of layers to train the last of; train_layers = 'all'"
        )
    # Of nested stacks (the blocks of a stage) the outermost holds the most.
    return max(stacks, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def _train_last(model: nn.Module, count: int) -> None:
    """Train the last `count` layers and what comes after the stack: parameters are registered in forward order."""
    name, stack = layers(model)
    if count > len(stack):
        raise ComponentError(f"train_layers={count}: {type(model).__name__} has {len(stack)} layers")
    model.requires_grad_(False)
    names = [key for key, _ in model.named_parameters()]
    last = max(i for i, key in enumerate(names) if key.startswith(f"{name}."))
    after = set(names[last + 1 :])
    for key, parameter in model.named_parameters():
        if key in after:
            parameter.requires_grad_(True)
    for layer in list(stack)[len(stack) - count :]:
        layer.requires_grad_(True)


def _with_adapters(model: nn.Module, config: Tuning) -> nn.Module:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ComponentError("lora needs peft: pip install 'gentle-vision-language[lora]'") from error
    name, stack = layers(model)
    kinds: tuple[Any, ...] = (nn.Linear,) if any(isinstance(m, nn.Linear) for m in stack.modules()) else (nn.Conv2d,)
    targets = [
        key for key, part in model.named_modules()
        if key.startswith(f"{name}.") and isinstance(part, kinds) and getattr(part, "groups", 1) == 1
    ]  # fmt: skip
    adapters = LoraConfig(
        r=config.lora, lora_alpha=config.lora_alpha or 2 * config.lora, lora_dropout=config.lora_dropout,
        target_modules=targets,
    )  # fmt: skip
    return inject_adapter_in_model(adapters, model)
