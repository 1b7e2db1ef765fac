"""Frozen image features, and the head-only training on them, beside plain transformers + DataLoader code.

    python tests/benchmarks/image_features.py [--images 512] [--width 500 --height 375] [--repeats 3]

Both sides read the same JPEG files into the same randomly initialised ResNet and take turns in one process. Reported:
CPU and wall seconds for pixels alone and for pixels and features, as medians and as ratios plain / ours; what a second
pass costs when the features are in the cache; and the head-only steps of a whole run, with the share of time spent
waiting for data.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from torch.utils.data import DataLoader

from gentle_core.api import BuildContext
from gentle_core.data.features import FeatureStore, encode_all
from gentle_core.engine.progress import Display
from gentle_core.engine.run import run_recipe
from gentle_core.recipe import load_recipe
from gentle_vision_language.encoders.config import HfImageConfig
from gentle_vision_language.encoders.hf_image import build
from gentle_vision_language.items import ImageFile

BATCH = 64
SETTINGS = {
    "do_resize": True, "size": {"shortest_edge": 224}, "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224}, "resample": 3, "image_processor_type": "CLIPImageProcessor",
}  # fmt: skip


def make(folder: Path, count: int, width: int, height: int) -> list[str]:
    """JPEG photographs of a sort: smooth colours with grain."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), 3)
        grain = rng.normal(0, 8, (height, width, 3))
        picture = Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))
        paths.append(str(folder / f"{i:05d}.jpg"))
        picture.save(paths[-1], quality=88)
    rows = [{"image": os.path.basename(p), "caption": f"picture number {i}"} for i, p in enumerate(paths)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return paths


def model(folder: Path) -> Path:
    torch.manual_seed(0)
    shape = hf.ResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], layer_type="basic")
    hf.ResNetModel(shape).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return folder


class Plain:
    """What one would write with transformers and a DataLoader of two workers."""

    def __init__(self, folder: Path, paths: list[str]):
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        self.processor = CLIPImageProcessorPil.from_pretrained(folder)
        self.model = hf.AutoModel.from_pretrained(folder).eval()
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        image = Image.open(self.paths[i]).convert("RGB")
        return self.processor(image, return_tensors="pt")["pixel_values"][0]

    def batches(self) -> DataLoader[Any]:
        return DataLoader(self, batch_size=BATCH, num_workers=2)  # type: ignore[arg-type]

    def pixels(self) -> None:
        for _ in self.batches():
            pass

    @torch.no_grad()
    def features(self) -> torch.Tensor:
        return torch.cat([self.model(pixel_values=x).pooler_output.flatten(1) for x in self.batches()])


def spent(function: Callable[[], Any]) -> tuple[float, float]:
    """(CPU seconds with children, wall seconds)."""
    before, began = os.times(), time.perf_counter()
    function()
    after = os.times()
    return sum(after[:4]) - sum(before[:4]), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["GENTLE_CACHE"] = str(root / "cache")
        (root / "pictures").mkdir()
        paths = make(root / "pictures", args.images, args.width, args.height)
        folder = model(root / "model")
        plain = Plain(folder, paths)
        encoder = build(HfImageConfig(path=folder), BuildContext(cache_dir=root / "cache")).eval()
        items = [ImageFile(path) for path in paths]

        def ours_pixels() -> None:
            for start in range(0, len(items), BATCH):
                encoder.collate(items[start : start + BATCH])

        def ours(store: FeatureStore | None = None) -> torch.Tensor:
            with torch.no_grad():
                return encode_all(
                    lambda part, _: encoder.collate(part), encoder, encoder.size,
                    lambda rows: [items[r] for r in rows], len(items), store=store,
                )  # fmt: skip

        store = FeatureStore(root / "cache", "bench")
        ours(store)
        sides: dict[str, Callable[[], Any]] = {
            "pixels, plain": plain.pixels, "pixels, ours": ours_pixels, "features, plain": plain.features,
            "features, ours": ours, "features again, from the cache": lambda: ours(store),
        }  # fmt: skip
        times: dict[str, list[tuple[float, float]]] = {key: [] for key in sides}
        for _ in range(args.repeats):
            for key, function in sides.items():
                times[key].append(spent(function))
        found = {key: tuple(statistics.median(t[i] for t in given) for i in (0, 1)) for key, given in times.items()}
        print(f"{args.images} JPEG files of {args.width} × {args.height}; {torch.get_num_threads()} torch threads")
        for key, (cpu, wall) in found.items():
            print(f"  {key:<32} CPU {cpu:6.2f} s   wall {wall:6.2f} s")
        for what in ("pixels", "features"):
            cpu, wall = (found[f"{what}, plain"][i] / found[f"{what}, ours"][i] for i in (0, 1))
            print(f"  {what}: plain / ours: CPU {cpu:.2f}, wall {wall:.2f}")
        difference = (plain.features() - ours()).abs().max() / ours().abs().max()
        print(f"  largest difference of a feature, relative to the largest: {difference:.1e}")
        head_only(root, folder)


def head_only(root: Path, folder: Path) -> None:
    """Steps of a run whose image features are cached, and what of a step is waiting for data."""
    encoder = {"use": "vision-language/hf-image", "path": str(folder), "freeze": True}
    recipe = {
        "dataset": {"use": "vision-language/image-captions", "path": str(root / "pictures"), "check": "header",
                    "captions": str(root / "pictures" / "captions.jsonl"), "paired": 0.5},
        "towers": {"a": {"modality": "image", "encoder": encoder}, "b": {"modality": "image", "encoder": encoder}},
        "train": {"steps": 100, "batch_size": 64, "log_every": 1}, "baseline": {"cca": False},
        "evaluate": {"splits": ["val"]},
    }  # fmt: skip
    run = run_recipe(load_recipe(recipe), root / "run", "never", Display(quiet=True))
    lines = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["split"] == "train"][10:]
    rows, wait = (statistics.median(line[key] for line in steps) for key in ("rows_per_second", "data_wait"))
    print(f"  head-only steps: {rows:.0f} rows/s, {100 * wait:.1f} % of a step waiting for data")


if __name__ == "__main__":
    main()
