"""The core's own health checks. What may crash or hang is tried in a child process; torch is not loaded here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from gentle_core.doctor.child import in_child
from gentle_core.health import Finding, HealthContext, Level

GIB = 2**30
STALE = 3600.0
"""Seconds after which a partial file belongs to no run that is alive."""

_TORCH = """
import json, torch
x = torch.randn(64, 32, requires_grad=True)
(x @ x.T).softmax(-1).logsumexp(0).sum().backward()
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
broken = ""
if devices:
    try:
        torch.randn(8, 8, device="cuda").square().sum().item()
    except Exception as error:
        broken = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps({
    "version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip, "devices": devices,
    "broken": broken, "mps": torch.backends.mps.is_available(), "finite": bool(torch.isfinite(x.grad).all()),
    "threads": torch.get_num_threads(), "distributed": torch.distributed.is_available(),
}))
"""

_DEEPSPEED = "import json, deepspeed; print('\\n' + json.dumps(deepspeed.__version__))"


def versions(context: HealthContext) -> Iterator[Finding]:
    """Python, and what the core and the plugins require of other distributions."""
    wanted = ["gentle-core", *sorted({p.distribution for p in context.catalog.plugins if p.version} - {"gentle-core"})]
    bad = []
    for name in wanted:
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            yield Finding("note", f"{name} is not installed as a distribution: its requirements are unknown")
            continue
        bad += [finding for line in lines if (finding := _requirement(name, line))]
    yield from bad
    if not bad:
        names = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in wanted if _version(name))
        yield Finding("ok", f"Python {platform.python_version()}; {names}: all that they require is there")


def _requirement(owner: str, line: str) -> Finding | None:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return Finding("warning", f"{owner} requires {line!r}, which cannot be read", f"tell the authors of {owner}")
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    found = _version(requirement.name)
    short = str(requirement).partition(";")[0].strip()
    if not found:
        return Finding("error", f"{owner} requires {short}, which is not installed", f"pip install {short!r}")
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding("error", f"{owner} requires {short}, and {found} is installed", f"pip install {short!r}")
    return None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def plugins(context: HealthContext) -> Iterator[Finding]:
    """What discovery found, and what could not be used."""
    for problem in context.catalog.problems:
        name = f"{problem.distribution} {problem.version}".rstrip()
        yield Finding("error", f"{name}: {problem.what}", problem.mend)
    for owner, why in context.catalog.left_out.items():
        yield Finding("note", f"{owner} is not loaded, since {why}")
    if not context.catalog.problems:
        loaded = [f"{p.owner} ({p.components})" for p in context.catalog.plugins]
        yield Finding("ok", f"components by plugin: {', '.join(loaded)}")


def torch(context: HealthContext) -> Iterator[Finding]:
    """Which torch it is, what it computes on, and whether it computes."""
    if importlib.util.find_spec("torch") is None:
        yield Finding("error", "torch is not installed", "https://pytorch.org/get-started says which build fits")
        return
    child = in_child(_TORCH, seconds=180)
    if (found := child.result()) is None:
        yield Finding(
            "error", f"torch does not work: {child.ended}", "install it again: https://pytorch.org/get-started"
        )
        return
    build = f"CUDA {found['cuda']}" if found["cuda"] else f"ROCm {found['hip']}" if found["hip"] else "CPU build"
    devices = ", ".join(found["devices"]) or ("Apple GPU" if found["mps"] else "CPU")
    yield Finding("ok", f"torch {found['version']}, {build}; runs on {devices}; {found['threads']} CPU threads")
    if not found["finite"]:
        yield Finding("error", "a gradient on the CPU is not finite", "install torch again")
    if found["broken"]:
        text = f"the GPU does not compute: {found['broken']}"
        yield Finding("error", text, "install a build of torch for this driver")
    if (found["cuda"] or found["hip"]) and not found["devices"]:
        text = "torch is built for GPUs and sees none: runs use the CPU"
        yield Finding("warning", text, "look at the driver (nvidia-smi) and at CUDA_VISIBLE_DEVICES")
    if not found["distributed"]:
        yield Finding("warning", "this torch cannot run several processes", "install another build")


def deepspeed(context: HealthContext) -> Iterator[Finding]:
    """Whether DeepSpeed is there and starts."""
    if importlib.util.find_spec("deepspeed") is None:
        yield Finding("note", 'DeepSpeed is not installed; only [engine] use = "deepspeed" needs it')
        return
    child = in_child(_DEEPSPEED, seconds=180)
    if (version := child.result()) is None:
        mend = "pip install --upgrade deepspeed, or pip uninstall deepspeed"
        yield Finding("warning", f"DeepSpeed {_version('deepspeed')} does not start: {child.ended}", mend)
        return
    yield Finding("ok", f"DeepSpeed {version} starts")


def hub(context: HealthContext) -> Iterator[Finding]:
    """Whether weights could be downloaded. The request says nothing about this machine."""
    import urllib.error
    import urllib.request

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield Finding("note", "HF_HUB_OFFLINE is set: weights come from the local cache alone")
        return
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    mend = "weights must come from the cache or ship with a plugin; HF_HUB_OFFLINE=1 saves the waiting"
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            yield Finding("warning", f"{address} answers with {error.code}", mend)
            return
    except (OSError, ValueError) as error:
        yield Finding("warning", f"{address} cannot be reached: {getattr(error, 'reason', error)}", mend)
        return
    yield Finding("ok", f"{address} can be reached")


def cache(context: HealthContext) -> Iterator[Finding]:
    """Whether the cache can be written, and leftovers and damaged files in it."""
    folder = context.cache_dir
    if (folder.is_symlink() or folder.exists()) and not folder.is_dir():
        yield Finding("error", f"{folder} is no folder", "remove it, or set GENTLE_CACHE to another one")
        return
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        yield Finding("error", f"{folder} cannot be written: {error.strerror}", "set GENTLE_CACHE to another folder")
        return
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    yield Finding("ok", f"{folder}: {len(files)} files, {size / GIB:.2f} GiB; all of it can be computed again")
    stale = [p for p in files if p.suffix == ".partial" and time.time() - p.stat().st_mtime > STALE]
    damaged = [p for p in files if p.suffix == ".safetensors" and not _whole(p)]
    for what, paths in (("left behind by runs that were killed", stale), ("damaged", damaged)):
        if paths and context.fix:
            for path in paths:
                path.unlink(missing_ok=True)
            yield Finding("fixed", f"{len(paths)} files in {folder} were {what}: removed")
        elif paths:
            text = f"{len(paths)} files in {folder} are {what}, {paths[0].name} for instance"
            yield Finding("warning", text, "gentle doctor --fix removes them", fixable=True)
    for link in (path for path in folder.rglob("*") if path.is_symlink()):
        yield Finding("warning", f"{link} is a symbolic link; the feature cache refuses those", "remove it")


def _whole(path: Path) -> bool:
    """Whether a safetensors file has the length that its header announces."""
    import json

    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                return False
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return path.stat().st_size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError, IndexError):
        return False


def disk(context: HealthContext) -> Iterator[Finding]:
    """Room for runs and for the cache, and shared memory for loader processes."""
    nearest = next(path for path in (context.cache_dir, *context.cache_dir.parents) if path.exists())
    for what, folder in {"runs (the working directory)": Path.cwd(), "the cache": nearest}.items():
        free = shutil.disk_usage(folder).free
        level: Level = "ok" if free >= 5 * GIB else "warning" if free >= GIB / 10 else "error"
        mend = "" if level == "ok" else "make room: a checkpoint takes three times the trained weights"
        yield Finding(level, f"{free / GIB:.1f} GiB are free for {what}", mend)
    shared = Path("/dev/shm")
    if sys.platform == "linux" and shared.is_dir() and (free := shutil.disk_usage(shared).free) < GIB / 4:
        text = f"only {free / 2**20:.0f} MiB of shared memory: loader processes may die"
        yield Finding("warning", text, "keep train.workers = 0, or give the container more (docker run --shm-size=2g)")
