"""Where ESM-2 weights come from: a path, the package, local caches, and last the hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import attrs

from gentle_core.api import BuildContext, WeightsError
from gentle_protein.esm2.config import SHIPPED, Esm2Config

_ORIGIN = "https://dl.fbaipublicfiles.com/fair-esm/models"
_TIMEOUT = 5.0
"""Seconds until a hub that does not answer counts as unreachable."""
_DATA = Path(__file__).parents[1] / "data"


@attrs.frozen
class Weights:
    """Weights on disk.

    Attributes:
        source: where they were found, in words.
        path: a folder in Hugging Face layout, or an original fair-esm `.pt` file.
    """

    source: str
    path: Path

    @property
    def files(self) -> list[Path]:
        """The files that hold the weights themselves."""
        return [self.path] if self.path.is_file() else (weight_files(self.path) or [])

    def sha256(self) -> str:
        """The file's SHA-256, as `sha256sum` prints it; of several shards, the SHA-256 of their names and hashes."""
        hashes = {file.name: _sha256(file) for file in self.files}
        if len(hashes) == 1:
            return next(iter(hashes.values()))
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weight_files(folder: Path) -> list[Path] | None:
    """The weight files of a folder in Hugging Face layout; None where the folder is not complete."""
    if not (folder / "config.json").is_file():
        return None
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            files = [folder / shard for shard in sorted(shards)]
            if all(file.is_file() for file in files):
                return files
    return None


def find(config: Esm2Config, context: BuildContext, *, download: bool = True) -> tuple[Weights | None, list[str]]:
    """The weights that `config` asks for and, for a message, the places that were looked at in vain.

    Order: `config.path`, the package itself, the Hugging Face cache, torch's hub cache, `context.cache_dir`/esm2,
    and the hub. A path that does not lead to weights is an error, not a reason to look elsewhere.

    Raises:
        WeightsError: `config.path` does not lead to weights.
    """
    if config.path is not None:
        return _at(config.path), []
    name = config.model
    missed: list[str] = []
    if name == SHIPPED:
        folder = _DATA / SHIPPED
        found = Weights("shipped with gentle-protein", folder) if weight_files(folder) else None
        return found, [str(folder)]
    for source, place in _local_places(name, context):
        if place is not None and (place.is_file() or (place.is_dir() and weight_files(place))):
            return Weights(source, place), missed
        missed.append(source if place is None else f"{source} ({place})")
    if not download:
        return None, missed
    try:
        return Weights(f"downloaded from huggingface.co/{_repository(name)}", _download(name)), missed
    except Exception as error:  # whatever goes wrong on the way to the hub, the weights are not here
        reason = (str(error) or type(error).__name__).splitlines()[0]
        missed.append(f"huggingface.co ({reason[:120]})")
        return None, missed


def not_found(config: Esm2Config, missed: list[str]) -> str:
    """The three ways to get the weights of `config`, with their commands."""
    name = config.model
    if name == SHIPPED:
        return f"the package's own weights {name} are missing from {missed[0]}: reinstall gentle-protein"
    return "\n".join(
        (
            f"the weights of {name} were not found; looked in " + ", ".join(missed) + ".",
            "Three ways to get them:",
            f"  1. from the hub, once, on a machine with a network:  hf download {_repository(name)}",
            f"  2. from a file:  curl -O {_ORIGIN}/{name}.pt",
            f'     and in the encoder table of the recipe:  path = "{name}.pt"  (or a folder in Hugging Face layout)',
            f'  3. the small model that comes with the package:  model = "{SHIPPED}"',
            'Or start from random weights:  weights = "auto"',
        )
    )


def _repository(name: str) -> str:
    return f"facebook/{name}"


def _at(path: Path) -> Weights:
    """Weights at a path that the user gave."""
    path = path.expanduser()
    if path.is_file():
        if path.suffix == ".pt":
            return Weights("the recipe's path", path)
        if weight_files(path.parent) and path in (weight_files(path.parent) or []):
            return Weights("the recipe's path", path.parent)
        raise WeightsError(f"path {path}: give a fair-esm .pt file or a folder in Hugging Face layout")
    if not path.is_dir():
        raise WeightsError(f"path {path}: there is no such file or folder")
    if weight_files(path):
        return Weights("the recipe's path", path)
    checkpoints = [p for p in sorted(path.glob("*.pt")) if not p.stem.endswith("-contact-regression")]
    if len(checkpoints) == 1:
        return Weights("the recipe's path", checkpoints[0])
    raise WeightsError(
        f"path {path}: needs config.json with model.safetensors (Hugging Face layout), or one fair-esm .pt file; "
        f"{len(checkpoints)} .pt files are there"
    )


def _local_places(name: str, context: BuildContext) -> list[tuple[str, Path | None]]:
    import torch

    places: list[tuple[str, Path | None]] = [
        ("the Hugging Face cache", _in_hub_cache(name)),
        ("torch's hub cache", Path(torch.hub.get_dir()) / "checkpoints" / f"{name}.pt"),
    ]
    if context.cache_dir is not None:
        folder = Path(context.cache_dir) / "esm2"
        places += [("Gentle's cache", folder / name), ("Gentle's cache", folder / f"{name}.pt")]
    return places


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(_repository(name), "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _download(name: str) -> Path:
    """Fetch configuration and weights into the Hugging Face cache; safetensors where the hub has them."""
    from huggingface_hub import HfApi, snapshot_download

    files = [s.rfilename for s in HfApi().model_info(_repository(name), timeout=_TIMEOUT).siblings or ()]
    ending = ".safetensors" if any(f.endswith(".safetensors") for f in files) else ".bin"
    wanted = [f for f in files if f == "config.json" or f.endswith((ending, f"{ending}.index.json"))]
    folder = Path(snapshot_download(_repository(name), allow_patterns=wanted, etag_timeout=_TIMEOUT))
    if weight_files(folder) is None:
        raise WeightsError(f"{_repository(name)} holds no weights that can be read")
    return folder
