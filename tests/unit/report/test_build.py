"""Reports from whole, partial and damaged run directories."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gentle_core.errors import DataError, GentleError
from gentle_core.report import build_report
from gentle_core.report.build import render
from gentle_core.report.rundir import read_run

Make = Callable[..., Path]
Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


class Page(html.parser.HTMLParser):
    """Text, ids and attributes of a page; fails on an element that is closed in the wrong place."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link", "path", "use"})

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open and self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u202f", " ").split())


def page_of(run: Path) -> Page:
    return Page(build_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A finished run and its report, drawn once for all tests that look at it."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("report_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = module.write_run(tmp_path_factory.mktemp("whole") / "run")
    return run, build_report(run).read_text(encoding="utf-8")


def test_a_whole_run_has_every_section(whole: tuple[Path, str]) -> None:
    page = Page(whole[1])
    sections = ["verdict", "comparison", "learning", "map", "examples", "data", "towers", "settings", "repeat"]
    assert [i for i in page.ids if i in sections] == sections
    assert {value for tag, name, value in page.attributes if tag == "a" and name == "href"} == {
        f"#{s}" for s in sections
    }
    for expected in (
        "Does the unpaired data help?", "CLIP, pairs only", "CCA, closed form", "Chance", "R@1 at equal length",
        "weight 0.15", "null floor", "modality gap", "mate at rank", "64 matched rows", "Pool mode shuffled",
        "protein/cdconv", "esm2_pdb_small", "73.2 k", "gentle run recipes/protein.toml", "2.13.0",
        'use = "core/gentle"', "skipped · shorter than 40",
        "may still be far apart. Lines join 40 pairs", "drawn from 500 pairs, and from",
    ):  # fmt: skip
        assert expected in page.text, expected


def test_it_is_one_file_that_loads_nothing(whole: tuple[Path, str]) -> None:
    text = whole[1]
    page = Page(text)
    assert len(text.encode()) < 3_000_000
    assert not {"script", "link", "img", "iframe", "object", "embed", "image", "foreignobject"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith("#"), (tag, name, value)
    assert not re.search(r"https?:|@import|file:|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_drawings_take_the_pages_colours_and_have_ids_of_their_own(whole: tuple[Path, str]) -> None:
    page = Page(whole[1])
    assert page.tags.count("svg") >= 12
    assert "#0f0e" not in whole[1], "a placeholder colour was left"
    assert "stroke: var(--m0)" in whole[1] and "fill: var(--m1)" in whole[1]
    assert len(page.ids) == len(set(page.ids))
    used = {value[1:] for _, name, value in page.attributes if name == "xlink:href"}
    used |= set(re.findall(r"url\(#([^)]+)\)", whole[1]))
    assert used <= set(page.ids)


def test_the_same_directory_gives_the_same_bytes(whole: tuple[Path, str], tmp_path: Path) -> None:
    moved = shutil.copytree(whole[0], tmp_path / "run")
    assert build_report(moved).read_text(encoding="utf-8") == whole[1]


def test_modality_colours_follow_the_order_of_the_towers(make_run: Make, no_drawing: None) -> None:
    text = build_report(make_run(towers=("sequence", "structure", "annotation"))).read_text()
    assert '<span class="tower" style="--c: var(--m2)">annotation</span>' in text
    assert text.count("<caption>") == 6 + 1  # six directions, one shortcut


@pytest.mark.parametrize("left_out", ["results", "embedded", "clip_noise", "cca_noise"])
def test_partial_runs(make_run: Make, no_drawing: None, left_out: str) -> None:
    run = make_run(**{left_out: None if left_out.endswith("noise") else False})
    page = page_of(run)
    assert ("map" in page.ids) == (left_out != "embedded")
    if left_out == "results":
        assert "at step 500 during training" in page.text and "validation split" in page.text
    if left_out == "clip_noise":
        assert "Not tested: CLIP on the same pairs was not run" in page.text
    if left_out == "cca_noise":
        assert "CCA was not fitted" in page.text
    if left_out == "embedded":
        assert "estimated from the averages alone" in page.text


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "results.json", "resolved.toml", "recipe.toml"])
def test_any_single_file_is_enough(make_run: Make, no_drawing: None, name: str) -> None:
    run = make_run()
    for path in run.iterdir():
        if path.name != name:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "verdict" in page_of(run).ids


@pytest.mark.parametrize(("pseudo", "words"), [(64, "and no further unmatched rows"), (0, "learned from pairs alone")])
def test_pseudo_pairs_are_unpaired_data(
    make_run: Make, no_drawing: None, edit_json: Edit, pseudo: int, words: str
) -> None:
    run = make_run(clip_noise=None)
    edit_json(
        run / "manifest.json",
        lambda m: m["data"].update(unpaired_rows=dict.fromkeys(m["data"]["unpaired_rows"], 0), pseudo_rows=pseudo),
    )
    page = page_of(run)
    assert words in page.text
    assert ("from matched pairs alone" in page.text) == (pseudo == 0)
    assert ("64 pseudo-pairs, which a teacher proposed" in page.text) == (pseudo > 0)


def test_an_interrupted_run(make_run: Make, no_drawing: None, edit_json: Edit) -> None:
    run = make_run(status="interrupted", results=False, embedded=False, clip_noise=None, cca_noise=None)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= 320]
    (run / "metrics.jsonl").write_text("\n".join(kept) + '\n{"step": 330, "split": "tra')
    page = page_of(run)
    assert "This run was interrupted at step 320 of 500" in page.text
    assert "damaged" not in page.text  # half a line at the end is what an interruption leaves
    assert "at step 300 during training" in page.text
    assert "The run is not complete (status: interrupted)" in page.text


def test_a_failed_run_says_why(make_run: Make, no_drawing: None, edit_json: Edit) -> None:
    run = make_run(status="failed", results=False)
    edit_json(run / "manifest.json", lambda m: m.update(error="term 'sdd' is not finite"))
    assert "This run failed at step 500 of 500: term 'sdd' is not finite." in page_of(run).text


def test_random_weights_are_loud(make_run: Make, no_drawing: None) -> None:
    page = page_of(make_run(random=True, notices=["ESM-2 starts from RANDOM weights."]))
    assert page.text.index("Read this first ESM-2 starts from RANDOM weights.") < page.text.index("Better than chance?")
    assert "No pretrained weights were found for tower sequence" in page.text
    assert "pretrained weights were not found" in page.text


def test_no_notice_no_box(make_run: Make, no_drawing: None) -> None:
    assert "Read this first" not in page_of(make_run()).text


def test_damaged_files_are_named_and_left_out(make_run: Make, no_drawing: None) -> None:
    run = make_run()
    (run / "results.json").write_text('{"splits": ')
    (run / "embeddings" / "test.npz").write_bytes(b"PK\x03\x04 nothing")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], "no json", *lines[1:]]))
    page = page_of(run)
    assert "results.json is damaged and was left out." in page.text
    assert "embeddings/test.npz is damaged and was left out." in page.text
    assert "metrics.jsonl: 1 damaged line left out." in page.text


def test_everything_is_escaped(make_run: Make, no_drawing: None, edit_json: Edit) -> None:
    evil = "<script>alert('&\"')</script>"
    run = make_run(towers=("sequence", "structure"), notices=[evil])

    def poison(manifest: dict[str, Any]) -> None:
        manifest["command"] = manifest["seed"] = manifest["error"] = manifest["started"] = evil
        manifest["versions"][evil] = evil
        manifest["dataset"] = {evil: {evil: [evil]}}
        manifest["data"]["held_out"] = {evil: {"sequence": 3}}
        manifest["towers"]["sequence"] |= {"modality": evil, "encoder": evil, "licence": evil, "citation": evil}
        manifest["towers"]["sequence"]["facts"] = {"source": evil, evil: evil}

    def poison_results(results: dict[str, Any]) -> None:
        results["baselines"][evil] = results["baselines"]["CCA, closed form"]
        results["facts"] = {evil: {evil: evil}}
        neighbour = {"item": evil, "score": 0.5, "mate": True}
        results["examples"] = [{"query": evil, "from": evil, "to": evil, "rank": 1, "neighbours": [neighbour]}]

    edit_json(run / "manifest.json", poison)
    edit_json(run / "results.json", poison_results)
    (run / "recipe.toml").write_text(f"# {evil}\n")
    (run / "resolved.toml").write_text(f'name = """{evil}"""\ndescription = """{evil}"""\n')
    text = build_report(run).read_text()
    page = Page(text)
    assert "<script" not in text and "script" not in page.tags
    assert page.text.count("<script>") >= 18  # it is there, as text
    assert not any("<script" in value for _, name, value in page.attributes if name != "content")


def test_names_reach_the_drawings_escaped(make_run: Make) -> None:
    evil = "<b>$x$&"
    text = build_report(make_run(n=40, steps=50, towers=(evil, "structure"), cca_noise=None)).read_text()
    assert "<b>$x$" not in text
    Page(text)


def test_engine_extras_are_used(make_run: Make, no_drawing: None, edit_json: Edit) -> None:
    run = make_run()
    interval = {"first": 1.0, "second": 2.0, "difference": -1.25, "low": -3.5, "high": 1.5}
    example = {"query": "1abc_A", "from": "sequence", "to": "structure", "rank": 7, "candidates": 120, "neighbours": []}
    example["neighbours"] = [{"item": "2xyz_B", "score": 0.71, "mate": False}]

    def add(results: dict[str, Any]) -> None:
        results["comparisons"] = {"CLIP, pairs only": {"test": {"mean/R@10": interval}}}
        results["examples"] = {"split": "test", "sequence->structure": [example]}

    edit_json(run / "results.json", add)
    text = page_of(run).text
    assert "−1.2 points, 95 % interval −3.5…+1.5" in text
    assert "1abc_A" in text and "2xyz_B" in text and "mate at rank 7 of 120" in text


def test_figures_with_one_item_a_sample_have_tables_of_their_own(
    make_run: Make, no_drawing: None, edit_json: Edit
) -> None:
    run = make_run()
    assert "one fixed item a sample" not in page_of(run).text

    def add(results: dict[str, Any]) -> None:
        test = results["splits"]["test"]
        one = {k.replace("retrieval/", "retrieval_one/", 1): v for k, v in test.items() if k.startswith("retrieval/")}
        test |= one | {"retrieval_one/sequence->structure/R@5": 12.3}

    edit_json(run / "results.json", add)
    text = page_of(run).text
    assert "With one fixed item a sample" in text and "12.3" in text


def test_a_closing_evaluation_does_not_bend_the_curve(make_run: Make) -> None:
    run = make_run()
    before = read_run(run).lines["val"][-1]
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 500, "split": "val", "loss": 99.0, "final": True}) + "\n")
    assert read_run(run).lines["val"][-1] == before


def test_a_ranking_that_is_not_the_recorded_one_is_not_used(make_run: Make, no_drawing: None, edit_json: Edit) -> None:
    """An objective with a scorer of its own ranks differently: recomputed cosines must not stand in for it."""
    run = make_run(noise=1.5, clip_noise=1.5)

    def shift(results: dict[str, Any]) -> None:
        for key in results["splits"]["test"]:
            if key.endswith("/R@10"):
                results["splits"]["test"][key] += 9.0

    edit_json(run / "results.json", shift)
    assert "estimated from the averages alone" in page_of(run).text


WRONG: tuple[Any, ...] = (None, 3, "text", [], [1], {}, {"x": None}, True, float("nan"))


@pytest.mark.parametrize("name", ["manifest.json", "results.json"])
def test_fields_of_the_wrong_kind_do_no_harm(make_run: Make, no_drawing: None, name: str) -> None:
    run = make_run(n=30, steps=50, embedded=False)
    content = json.loads((run / name).read_text())
    places = [(key,) for key in content]
    places += [(key, inner) for key, value in content.items() if isinstance(value, dict) for inner in value]
    for number, place in enumerate(places):
        changed = json.loads(json.dumps(content))
        parent = changed[place[0]] if len(place) == 2 else changed
        parent[place[-1]] = WRONG[number % len(WRONG)]
        (run / name).write_text(json.dumps(changed))
        Page(render(read_run(run)))


def test_odd_embeddings(make_run: Make, no_drawing: None) -> None:
    run = make_run(n=30, steps=50)
    path = run / "embeddings" / "test.npz"
    with np.load(path) as arrays:
        whole_arrays = {key: arrays[key] for key in arrays.files}
    none = np.array([], str)
    for change in (
        {"sequence.z": np.full((30, 32), np.nan, np.float32)},
        {"sequence.z": np.zeros((30, 8), np.float32)},
        {"sequence.samples": np.array([f"other{i}" for i in range(30)])},
        {"sequence.z": np.zeros((0, 32), np.float32)} | dict.fromkeys(("sequence.items", "sequence.samples"), none),
        {"sequence.z": np.ones((30, 32), np.float32), "structure.z": np.ones((30, 32), np.float32)},
    ):  # fmt: skip
        np.savez(path, **(whole_arrays | change))  # type: ignore[arg-type]
        page_of(run)
    np.savez(path, **{k: v for k, v in whole_arrays.items() if k.startswith("sequence")})
    page_of(run)
    np.savez(path, evil=np.array([{"a": 1}], dtype=object))
    page_of(run)


def test_what_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run directory"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a run directory"):
        build_report(tmp_path)


def test_a_report_that_cannot_be_written(make_run: Make, no_drawing: None) -> None:
    run = make_run(n=30, steps=50)
    (run / "report.html").mkdir()
    with pytest.raises(GentleError, match="cannot write"):
        build_report(run)
    assert not list(run.glob(".report*"))
