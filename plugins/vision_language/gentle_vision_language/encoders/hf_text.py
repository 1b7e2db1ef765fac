"""`vision-language/hf-text`: BERT and its kin, sentence encoders, and the text towers of CLIP and SigLIP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, PretrainedConfig

from gentle_core.api import BuildContext, ComponentError, DataError, EncoderModule, WeightsError, hash_tensors
from gentle_vision_language.encoders import hub, loading
from gentle_vision_language.encoders.config import HfTextConfig
from gentle_vision_language.encoders.tuning import tune

_NO_LIMIT = 100_000
"""A larger model_max_length is transformers' way of saying that there is none."""

MOST_SPECIAL = 4
"""No tokenizer adds more special tokens to a text than this."""

_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


@attrs.frozen(kw_only=True)
class Plan:
    """How text becomes tokens, and token states one vector.

    Attributes:
        pool: "mean", "cls", "eos", "pooler" or "projection".
        limit: tokens of the longest text, special ones included.
        pad: id that fills up shorter texts.
        fill: whether every text is filled up to `limit`: SigLIP was trained so, and attends to the filling.
    """

    pool: str
    limit: int
    pad: int
    fill: bool = False


class TextOf(nn.Module):
    """A text that is part of the weights: a saved model needs no tokenizer file beside it."""

    data: Tensor

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.register_buffer("data", torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8).clone())

    @property
    def text(self) -> str:
        return bytes(self.data.cpu().numpy()).decode()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if (data := state_dict.get(f"{prefix}data")) is not None and data.shape != self.data.shape:
            self.data = torch.empty_like(data, device=self.data.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class HfTextEncoder(EncoderModule):
    """One vector a text.

    Args:
        model: the transformer.
        tokenizer: tokenizer.json as text; empty where a saved model will bring it.
        plan: tokens and pooling.
        config: the options.
        origin: facts about the weights, for the report.
        notify: told once when a text was cut.
    """

    def __init__(
        self, model: Any, tokenizer: str, plan: Plan, config: HfTextConfig, origin: Mapping[str, Any],
        notify: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.plan, self.origin = config, plan, dict(origin)
        self.shape: PretrainedConfig = model.config
        self.width = int(self.shape.projection_dim if plan.pool == "projection" else _hidden(self.shape))
        self.tokenizer_json = TextOf(tokenizer)
        self._tokenizer: Tokenizer | None = None
        self._notify = notify
        if config.gradient_checkpointing:
            loading.checkpoint_gradients(model)
        if config.dropout >= 0:
            _set_dropout(model, config.dropout)
        self.backbone = tune(model, config)

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """{"input_ids": (B, T) int64, "attention_mask": (B, T) int64}, padded on the right.

        Raises:
            DataError: an item is no text, or one that is too long under `too_long = "error"`.
        """
        rows = [self._tokens(item) for item in items]
        length = self.plan.limit if self.plan.fill else max(map(len, rows))
        ids = torch.full((len(rows), length), self.plan.pad, dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        out = self.backbone(input_ids=ids, attention_mask=None if self.plan.fill else mask)
        if self.plan.pool == "projection":
            return out.text_embeds
        if self.plan.pool == "pooler":
            return out.pooler_output
        states = out.last_hidden_state
        if self.plan.pool == "cls":
            return states[:, 0]
        if self.plan.pool == "eos":
            last = mask.sum(1) - 1
            return states[torch.arange(len(states), device=states.device), last]
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)

    def size(self, item: Any) -> int:
        """About the number of tokens."""
        return self.plan.limit if self.plan.fill else min(len(item) // 4 + 3, self.plan.limit)

    def cut(self, items: Sequence[Any]) -> list[int]:
        # No token is shorter than a byte, but for letters that normalisation takes apart.
        short = self.plan.limit - MOST_SPECIAL
        long = [i for i, item in enumerate(items) if len(item) > short or not item.isascii()]
        found = self.tokenizer.encode_batch([str(items[i]) for i in long])
        self._notify = None  # whoever asks will say it
        return [i for i, encoded in zip(long, found, strict=True) if encoded.overflowing]

    def fingerprint(self) -> str:
        options = attrs.asdict(self.plan)
        return hashlib.sha256(
            (json.dumps(options, sort_keys=True) + hash_tensors(self.state_dict())).encode()
        ).hexdigest()

    def facts(self) -> dict[str, Any]:
        return {**self.origin, "pool": self.plan.pool, "max_length": self.plan.limit}

    def portable(self) -> dict[str, Any]:
        dropped = ("path", "model", "package", "revision", "weights", "architecture", "pool", "max_length")
        options = attrs.asdict(self.config, recurse=False, filter=lambda field, _: field.name not in dropped)
        saved = {"config": self.shape.to_dict(), "plan": attrs.asdict(self.plan)}
        return options | {"architecture": json.dumps(saved)}

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.from_str(self.tokenizer_json.text)
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(self.plan.limit)
        return self._tokenizer

    def _load_from_state_dict(self, *args: Any) -> None:
        self._tokenizer = None
        super()._load_from_state_dict(*args)

    def _tokens(self, item: Any) -> list[int]:
        if not isinstance(item, str):
            raise DataError(f"hf-text reads strings, not {type(item).__name__}")
        encoded = self.tokenizer.encode(str(item))
        if encoded.overflowing:
            self._too_long(item, len(encoded.ids) + sum(len(part.ids) for part in encoded.overflowing))
        if not encoded.ids:
            raise DataError("hf-text cannot encode a text without tokens: leave the item out")
        return encoded.ids

    def _too_long(self, item: str, tokens: int) -> None:
        shown = item if len(item) < 60 else f"{item[:57]}…"
        text = f"a text of about {tokens} tokens is longer than the {self.plan.limit} that {self.config.label} reads"
        if self.config.too_long == "error":
            raise DataError(f'{text}: "{shown}"; shorten it, or set too_long = "cut"')
        if self._notify is not None:
            self._notify(f'{text}, and is cut, as others like it will be: "{shown}"')
            self._notify = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what does not travel to loader workers; the tokenizer is made again where it is needed."""
        return self.__dict__ | {"_tokenizer": None, "_notify": None}


def build(config: HfTextConfig, context: BuildContext) -> HfTextEncoder:
    """The encoder that `config` describes.

    Raises:
        WeightsError: the model or its tokenizer cannot be found or read.
        ComponentError: it is no text model, or an option does not fit it.
    """
    if config.architecture:
        saved = json.loads(config.architecture)
        cls, shape = loading.part_class(
            loading.read_config(json.dumps(saved["config"])), "text", saved["plan"]["pool"] == "projection"
        )
        plan = Plan(**saved["plan"])
        model = loading.at_random(cls, shape, context.seed, **_options(shape, plan.pool))
        return HfTextEncoder(_text_model(model), "", plan, config, {}, context.notify)

    found = hub.find(config, context)
    cls, shape = loading.part_class(loading.read_config(found.folder), "text", config.projection)
    tokenizer, tokenizer_limit, pad = _tokenizer(found.folder)
    plan = _plan(found, shape, config, tokenizer_limit, pad)
    origin = {"model": config.label, "source": found.source, "kind": shape.model_type, "licence": found.licence}
    if config.weights == "random" or not context.load_weights or not found.has_weights:
        if config.weights == "required" and context.load_weights:
            raise WeightsError(f'{found.folder} holds config.json but no weights; weights = "random" does without')
        if config.weights == "auto":
            context.notify(f"hf-text starts from RANDOM weights: {found.folder} holds none")
        model = loading.at_random(cls, shape, context.seed, **_options(shape, plan.pool))
        origin |= {"random": True, "wanted": config.weights == "random", "seed": context.seed}
    else:
        model, untrained_pooler = loading.load(cls, shape, found.folder, **_options(shape, plan.pool))
        if untrained_pooler and plan.pool == "pooler":
            raise ComponentError(f"{config.label} brings no weights for its pooled output: pool = 'mean' or 'cls'")
        origin |= {"sha256": found.sha256(), "random": False}
    return HfTextEncoder(_text_model(model), tokenizer, plan, config, origin, context.notify)


def _tokenizer(folder: Path) -> tuple[str, int, int]:
    """tokenizer.json as text, the longest text in tokens, and the id of the padding."""
    if not any((folder / name).is_file() for name in _TOKENIZERS):  # transformers would make an empty one up
        raise WeightsError(f"{folder} has no tokenizer ({', '.join(_TOKENIZERS)})")
    try:
        with loading.quiet():
            found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            text = found.backend_tokenizer.to_str()
    except Exception as error:  # whatever is wrong with the files
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{folder} has no tokenizer that can be used (tokenizer.json or vocab.txt): {line}"
        ) from error
    pad = found.pad_token_id
    return text, int(min(found.model_max_length, _NO_LIMIT)), 0 if pad is None else int(pad)


def _plan(found: hub.Found, shape: PretrainedConfig, config: HfTextConfig, tokenizer_limit: int, pad: int) -> Plan:
    kind = shape.model_type
    positions = int(getattr(shape, "max_position_embeddings", 0) or _NO_LIMIT)
    if kind in ("roberta", "xlm-roberta", "camembert", "mpnet"):  # their positions begin after the padding's
        positions -= int(getattr(shape, "pad_token_id", 1) or 0) + 1
    most = min(tokenizer_limit, positions)
    if config.max_length > positions:
        raise ComponentError(f"max_length = {config.max_length}: {config.label} has {positions} positions")
    sentence = (found.read("sentence_bert_config.json") or {}).get("max_seq_length")
    limit = config.max_length or min(most, int(sentence or most))
    if limit >= _NO_LIMIT:
        raise ComponentError(f"{config.label} names no longest text: give max_length")
    return Plan(pool=_pool(found, shape, config), limit=limit, pad=pad, fill=kind == "siglip_text_model")


def _pool(found: hub.Found, shape: PretrainedConfig, config: HfTextConfig) -> str:
    if shape.model_type == "clip_text_model" and config.pool in ("auto", "pooler"):
        return "projection" if config.projection else "pooler"
    if config.pool != "auto":
        return config.pool
    if shape.model_type == "siglip_text_model":
        return "pooler"
    sentence = found.read("1_Pooling/config.json") or {}
    return "cls" if sentence.get("pooling_mode_cls_token") else "mean"


def _options(shape: PretrainedConfig, pool: str) -> dict[str, Any]:
    """A pooling layer that is not used need not be built."""
    has = shape.model_type in ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra")
    return {"add_pooling_layer": False} if has and shape.model_type != "electra" and pool != "pooler" else {}


def _text_model(model: Any) -> Any:
    if model.main_input_name != "input_ids":
        raise ComponentError(
            f"{model.config.model_type} reads {model.main_input_name}, not text: use hf-image for images"
        )
    return model


def _hidden(shape: PretrainedConfig) -> int:
    return int(getattr(shape, "hidden_size", None) or shape.dim)


def _set_dropout(model: nn.Module, rate: float) -> None:
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = rate
