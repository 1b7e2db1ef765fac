"""A made-up run directory with everything that a real one holds, and knobs for each case the report must meet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOWERS = ("sequence", "structure")
MODALITIES = {"sequence": "protein-sequence", "structure": "protein-structure", "annotation": "text"}
RECIPE = """name = "{name}"
description = "ESM-2 features and CDConv on single chains of the PDB sample."
[dataset]
use = "protein/pdb-sample"
paired = 0.5
[towers.sequence]
modality = "protein-sequence"
encoder = {{ use = "protein/esm2", model = "esm2_pdb_small", freeze = true }}
[towers.structure]
modality = "protein-structure"
encoder = {{ use = "protein/cdconv", preset = "small" }}
[objective]
use = "core/gentle"
[train]
steps = {steps}
[report]
map = "{map}"
examples = 6
"""


def unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def embeddings(
    n: int, noise: float, seed: int, towers: Sequence[str] = TOWERS, gap: float = 0.5, d: int = 32
) -> dict[str, np.ndarray]:
    """Unit vectors (n, d) by tower: a shared latent with clusters, plus each tower's own noise and offset."""
    shared = np.random.default_rng(7)
    latent = 0.8 * shared.normal(size=(12, d))[shared.integers(12, size=n)] + shared.normal(size=(n, d))
    latent *= np.geomspace(2.0, 0.3, d)
    rng = np.random.default_rng(seed)
    return {
        tower: unit(latent + noise * rng.normal(size=(n, d)) + gap * (i + 1) * np.eye(d)[i]).astype(np.float32)
        for i, tower in enumerate(towers)
    }


def metrics_of(z: Mapping[str, np.ndarray], lengths: np.ndarray) -> dict[str, float]:
    """Flat metrics as an evaluation writes them, from a plain sort."""
    found: dict[str, float] = {}
    n = len(lengths)
    for a in z:
        for b in z:
            if a == b:
                continue
            rank = 1 + ((z[a] @ z[b].T) > (z[a] * z[b]).sum(1)[:, None] + 1e-6).sum(1)
            prefix = f"retrieval/{a}->{b}"
            found |= {f"{prefix}/queries": n, f"{prefix}/candidates": n}
            found[f"{prefix}/median_rank"] = float(np.median(rank))
            found |= {f"{prefix}/R@{k}": 100.0 * float(np.mean(rank <= k)) for k in (1, 5, 10)}
            found |= {f"{prefix}/R@{k}_chance": 100.0 * min(k, n) / n for k in (1, 5, 10)}
            found[f"{prefix}/median_rank_chance"] = (n + 1) / 2
    pairs = [key.split("/")[1] for key in found if key.endswith("/R@10")]
    for suffix in ("R@1", "R@5", "R@10", "R@10_chance"):
        found[f"retrieval/mean/{suffix}"] = float(np.mean([found[f"retrieval/{p}/{suffix}"] for p in pairs]))
    a, b = list(z)[:2]
    found |= {
        "sdd": 0.004, "sdd_floor": 0.005, "mmd": 0.03, "mmd_floor": 0.006,
        "gap": float(np.linalg.norm(z[a].mean(0) - z[b].mean(0))),
        "alignment": float(((z[a] - z[b]) ** 2).sum(1).mean()),
        "length/oracle/R@1": 13.5, "length/oracle/R@5": 63.0, "length/oracle/R@10": 96.9,
        "length/R@1_equal": 58.0, "length/R@1_equal_chance": 10.4, "length/queries_equal": 614,
    }  # fmt: skip
    for tower in z:
        found |= {f"uniformity/{tower}": -2.1, f"effective_rank/{tower}": 18.4, f"length/R2/{tower}": 0.41}
    return found


def write_lines(path: Path, z: Mapping[str, np.ndarray], final: Mapping[str, float], steps: int, gentle: bool) -> None:
    """A plausible metrics.jsonl: noisy falling losses, and validation that approaches the final figures."""
    rng = np.random.default_rng(3)
    rows = []
    for step in range(10, steps + 1, 10):
        t = step / steps
        line: dict[str, Any] = {"step": step, "split": "train", "clip": 1.2 + 3 * np.exp(-4 * t) + 0.08 * rng.normal()}
        if gentle:
            line |= {f"ssl/{tower}": 0.3 + 2 * np.exp(-(5 + i) * t) + 0.05 * rng.normal() for i, tower in enumerate(z)}
            line |= {"mmd": 0.02 + 0.25 * np.exp(-6 * t) * abs(1 + 0.1 * rng.normal()), "weight/mmd": 0.2}
            line |= {"sdd": 0.006 + 0.06 * np.exp(-8 * t), "sdd_floor": 0.008 + 0.0005 * rng.normal()}
            line["weight/sdd"] = 1.0
            line |= {f"weight/ssl/{tower}": 0.15 for tower in z} | {"weight/clip": 1.0}
        line["loss"] = sum(value for key, value in line.items() if key in ("clip", "mmd", "sdd"))
        line |= {"grad_norm": 0.5 + t, "grad_norm/clip": 0.4 + t, "learning_rate": 3e-3 * (1 - t)}
        line["rows_per_second"] = 900 + 30 * t
        rows.append(line)
        if step % (steps // 5) == 0:
            rows.append({"step": step, "split": "val", **{k: v * (0.4 + 0.6 * t) for k, v in final.items()}})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def save_embeddings(folder: Path, split: str, z: Mapping[str, np.ndarray], lengths: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    ids = np.array([f"{i % 9 + 1}{letters[i % 26]}{letters[i // 26 % 26]}{i % 7}_{i}" for i in range(len(lengths))])
    arrays: dict[str, np.ndarray] = {}
    for tower, rows in z.items():
        arrays |= {f"{tower}.z": rows, f"{tower}.items": ids, f"{tower}.samples": ids, f"{tower}.attr.length": lengths}
    np.savez_compressed(folder / f"{split}.npz", **arrays)  # type: ignore[arg-type]


def write_run(
    path: Path,
    *,
    n: int = 120,
    steps: int = 500,
    noise: float = 1.0,
    clip_noise: float | None = 1.0,
    cca_noise: float | None = 1.3,
    towers: Sequence[str] = TOWERS,
    name: str = "protein",
    method: str = "pca",
    status: str = "finished",
    notices: Sequence[str] = (),
    random: bool = False,
    results: bool = True,
    embedded: bool = True,
) -> Path:
    """Write a run directory. A `None` noise leaves that baseline out; larger noise makes a worse model."""
    path.mkdir(parents=True)
    recipe = RECIPE.format(name=name, steps=steps, map=method)
    (path / "recipe.toml").write_text(recipe)
    (path / "resolved.toml").write_text(recipe)
    lengths = np.random.default_rng(1).integers(40, 165, size=n)
    z = embeddings(n, noise, 1, towers)
    final = metrics_of(z, lengths)
    write_lines(path / "metrics.jsonl", z, final, steps, gentle=True)
    facts = {
        "sequence": {"model": "esm2_pdb_small", "source": "random initialisation" if random else "shipped",
                     "sha256": "9c5f0d1e7a", "licence": "MIT", "random": random, "layers": 6},
        "structure": {"weights": "trained from scratch", "neighborhood": "ball", "input": "displacement, local frame"},
    }  # fmt: skip
    manifest = {
        "gentle": "0.1.0", "plugins": {"gentle-protein": "0.1.0"}, "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "git": {"commit": "8e11d3f8d0c1b2", "changed": False}, "host": {"system": "Linux", "machine": "x86_64"},
        "seed": 0,
        "command": "gentle run recipes/protein.toml --out runs/protein", "started": "2025-11-23T00:41:09+0000",
        "seconds": 252.4, "status": status, "notices": list(notices),
        "dataset": {"source": "RCSB PDB", "licence": "CC0-1.0", "chains": 1500, "shortcuts": ["length"],
                    "skipped": {"shorter than 40": 12, "no coordinates": 3}},
        "data": {"pairs": 500, "pools": dict.fromkeys(towers, 500), "paired_rows": 64, "pool": "shuffled",
                 "steps": steps, "unpaired_rows": dict.fromkeys(towers, 128), "device": "cpu",
                 "held_out": {"val": dict.fromkeys(towers, n), "test": dict.fromkeys(towers, n)}},
        "towers": {t: {"modality": MODALITIES.get(t, t), "encoder": "protein/esm2" if i == 0 else "protein/cdconv",
                       "frozen": i == 0, "parameters": 1_530_000 if i == 0 else 73_216, "licence": "MIT",
                       "trainable": 41_000 + i * 73_216, "citation": "Lin et al. 2023", "facts": facts.get(t, {})}
                   for i, t in enumerate(towers)},
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest))
    baselines: dict[str, Any] = {}
    for label, folder, level in (
        ("CLIP, pairs only", "pairs_only", clip_noise),
        ("CCA, closed form", "cca", cca_noise),
    ):
        if level is None:
            continue
        other = embeddings(n, level, 2 if folder == "pairs_only" else 3, towers)
        baselines[label] = {"test": metrics_of(other, lengths)}
        if embedded:
            save_embeddings(path / "baselines" / folder / "embeddings", "test", other, lengths)
        if folder == "pairs_only":
            (path / "baselines" / folder).mkdir(parents=True, exist_ok=True)
            lines = path / "baselines" / folder / "metrics.jsonl"
            write_lines(lines, other, baselines[label]["test"], steps, gentle=False)
    if embedded:
        save_embeddings(path / "embeddings", "test", z, lengths)
    if results:
        found = {"splits": {"test": final}, "baselines": baselines, "facts": {}}
        (path / "results.json").write_text(json.dumps(found))
    return path


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run` into a fresh folder."""

    def make(**options: Any) -> Path:
        return write_run(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", **options)

    return make


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Change a JSON file in place: `edit_json(path, lambda content: …)`."""

    def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out where only the text around them matters."""
    for module in ("curves", "figures", "maps"):
        monkeypatch.setattr(f"gentle_core.report.{module}.draw", lambda name, *rest, **more: "<svg></svg>")
