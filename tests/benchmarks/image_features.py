"""Frozen image features, and the head-only training on them, beside plain transformers + DataLoader code.

    python tests/benchmarks/image_features.py [--images 512] [--width 500 --height 375] [--repeats 3] [--epoch 9000]

Both sides read the same JPEG files into the same randomly initialised ResNet and take turns in one process. Reported:
CPU and wall seconds for pixels alone and for pixels and features, as medians and as ratios plain / ours; what a second
pass costs when the features are in the cache; what batches of a processor's size bring; and whole head-only runs of one
epoch, with the share of a step spent waiting for data.
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
from gentle_core.engine.towers import CPU_BUDGET, EVALUATION_BUDGET
from gentle_core.plugins import discover
from gentle_core.recipe import load_recipe
from gentle_vision_language.encoders import efficientnet
from gentle_vision_language.encoders.config import EfficientNetConfig, HfImageConfig
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
    parser.add_argument("--epoch", type=int, default=9000, help="images of the head-only runs")
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
                    lambda rows: [items[r] for r in rows], len(items), store=store, budget=CPU_BUDGET,
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
        batch_sizes(items[:192])
        head_only(root, args.epoch)


def batch_sizes(items: list[ImageFile], side: int = 160, repeats: int = 3) -> None:
    """An EfficientNet on images in batches of as many patches as a GPU gets, and of as many as a processor gets."""
    encoder = efficientnet.build(EfficientNetConfig(resolution=side), BuildContext(cache_dir=Path())).eval()
    pixels = encoder.collate(items)["pixels"]
    one = encoder.size(items[0])

    @torch.no_grad()
    def encode(budget: int) -> None:
        for part in pixels.split(max(budget // one, 1)):
            encoder({"pixels": part})

    times: dict[int, list[float]] = {EVALUATION_BUDGET: [], CPU_BUDGET: []}
    encode(CPU_BUDGET)
    for _ in range(repeats):
        for budget, found in times.items():
            found.append(spent(lambda budget=budget: encode(budget))[0])  # type: ignore[misc]
    large, small = (statistics.median(found) for found in times.values())
    print(f"  EfficientNet-Lite0 at {side} pixels, images a CPU second: {len(items) / large:.0f} in batches of "
          f"{EVALUATION_BUDGET // one}, {len(items) / small:.0f} in batches of {CPU_BUDGET // one}: "
          f"{large / small:.2f} times as fast")  # fmt: skip


def head_only(root: Path, count: int) -> None:
    """Whole runs of one epoch over `count` images with cached features, and what of a step is waiting for data.

    Features are as wide as EfficientNet's and MiniLM's, and made up: neither steps nor evaluations see a difference.
    """
    folder = root / "small"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows += [{"image": f"{i}.png", "caption": f"caption {k} of picture {i}"} for k in range(5)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plugin = root / "made_up.py"
    plugin.write_text(MADE_UP)
    head = {"dimension": 256, "hidden": 0, "dropout_input": 0.3}
    recipe = {
        "dataset": {"use": "vision-language/image-captions", "path": str(folder), "val_fraction": 0.1,
                    "captions": str(folder / "captions.jsonl"), "paired": 0.1, "test_fraction": 0.1},
        "towers": {
            "image": {"modality": "image", "encoder": {"use": "made_up/pixels", "freeze": True}, "head": head},
            "text": {"modality": "text", "encoder": {"use": "made_up/letters", "freeze": True}, "head": head},
        },
        "train": {"epochs": 1, "paired_rows": 128, "unpaired_rows": 128}, "baseline": {"cca": False},
    }  # fmt: skip
    for name, changes in {"CLIP": {"objective.use": "core/clip", "dataset.paired": 1.0}, "Gentle": {}}.items():
        for attempt in ("features computed", "features cached"):
            out = root / f"run {name} {attempt}"
            resolved = load_recipe(recipe, changes, discover(files=[plugin]))
            cpu, wall = spent(lambda: run_recipe(resolved, out, "never", Display(quiet=True), report=False))  # noqa: B023
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["split"] == "train"]
        rate, wait = (statistics.median(line[key] for line in steps) for key in ("rows_per_second", "data_wait"))
        data = json.loads((out / "manifest.json").read_text())["data"]
        seen = data["paired_rows"] * 2 + sum(data["unpaired_rows"].values())
        print(f"  {name}, one epoch over {count} images ({data['steps']} steps of {seen} rows): "
              f"{data['steps'] * seen / rate:.1f} s at the steps' median pace, {100 * wait:.1f} % of a step waiting "
              f"for data; the whole run {wall:.1f} s ({cpu:.1f} s CPU)")  # fmt: skip


MADE_UP = """
from gentle_core.api import EncoderModule, EncoderSpec, hookimpl
import attrs, torch, zlib
from gentle_core.data.features import content_key

@attrs.frozen
class Config:
    pass

class MadeUp(EncoderModule):
    def __init__(self, width):
        super().__init__()
        self.width = width
        self.register_buffer("basis", torch.randn(64, width, generator=torch.Generator().manual_seed(width)))
    def collate(self, items):
        rows = [torch.frombuffer(bytearray(content_key(item) * 4), dtype=torch.uint8).float() for item in items]
        return {"x": torch.stack(rows) / 128 - 1}
    def forward(self, inputs):
        return inputs["x"] @ self.basis
    def size(self, item):
        return 1

def pixels(config, context):
    return MadeUp(1280)

def letters(config, context):
    return MadeUp(384)

@hookimpl
def gentle_encoders():
    return [EncoderSpec(name=name, modality=modality, config=Config, target=f"{__name__}:{name}", summary="Made up")
            for name, modality in (("pixels", "image"), ("letters", "text"))]
"""


if __name__ == "__main__":
    main()
