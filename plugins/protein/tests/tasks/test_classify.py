from __future__ import annotations

import json

import pytest

from gentle_core.api import DataError, Task
from gentle_protein.tasks.classify import build_fold, build_reaction
from gentle_protein.tasks.config import FoldConfig, ReactionConfig

FOLDS = ("a.1", "b.7", "c.3", "d.9")


@pytest.fixture
def fold(tmp_path, write_split):
    """Train, validation and one test split; the other test splits are not there."""
    (tmp_path / "class_map.txt").write_text("".join(f"{fold}\t{i}\n" for i, fold in enumerate(FOLDS)))
    for split, size in {"training": 48, "validation": 16, "test_superfamily": 20}.items():
        names, kinds = [f"{split[:6]}{i}_" for i in range(size)], [i % 4 for i in range(size)]
        write_split(tmp_path / f"{split}.fasta", tmp_path / "coordinates" / split, names, kinds)
        rows = [f"{name}\tnot-this-column\t{FOLDS[kind]}\n" for name, kind in zip(names, kinds, strict=True)]
        (tmp_path / f"{split}.txt").write_text("".join(rows))
    return tmp_path


def test_classes_that_the_features_tell_are_found(fold, model, context):
    task = build_fold(FoldConfig(path=fold), context)
    assert isinstance(task, Task)
    found = task.evaluate(model)
    for tower in ("sequence", "structure", "together"):
        for split in ("val", "test_superfamily"):
            assert found[f"{tower}/probe/{split}"] > 85
            assert found[f"{tower}/1nn/{split}"] > 70
    assert found["majority/val"] == 25
    assert model.asked == {"feature"}
    facts = json.loads(json.dumps(found["facts"]))
    assert facts["retained"] == {"train": "48 of 12,312", "val": "16 of 736", "test_superfamily": "20 of 1,254"}
    assert "cannot be compared" in facts["notice"]
    assert facts["not scored"] == "test_fold, test_family: not in the folder"
    assert set(facts["C (chosen on val)"]) == {"sequence", "structure", "together"}


def test_shuffled_labels_are_not_found(fold, model, context):
    rows = (fold / "test_superfamily.txt").read_text().splitlines()
    labels = [row.split("\t")[-1] for row in rows]
    wrong = [row.rsplit("\t", 1)[0] + "\t" + labels[(i + 1) % len(labels)] for i, row in enumerate(rows)]
    (fold / "test_superfamily.txt").write_text("\n".join(wrong))
    found = build_fold(FoldConfig(path=fold, tower="structure"), context).evaluate(model)
    assert found["structure/probe/test_superfamily"] < 25
    assert found["structure/probe/val"] > 85


def test_tower_space_and_level_can_be_chosen(fold, model, context):
    found = build_fold(FoldConfig(path=fold, tower="structure", space="joint", level="superfamily"), context).evaluate(
        model
    )
    assert {key.split("/")[0] for key in found} == {"structure", "majority", "facts"}
    assert model.asked == {"joint"}
    with pytest.raises(DataError, match=r"has no test_fold\.fasta"):
        build_fold(FoldConfig(path=fold, level="fold"), context)


def test_wrong_towers_are_named(fold, model, context):
    with pytest.raises(DataError, match=r"'image' does not exist .* sequence \(protein-sequence\)"):
        build_fold(FoldConfig(path=fold, tower="image"), context).evaluate(model)
    model.towers = {"picture": "image"}
    with pytest.raises(DataError, match=r"no tower reads protein-sequence or .* picture \(image\)"):
        build_fold(FoldConfig(path=fold), context).evaluate(model)


def test_missing_and_unfit_coordinates_are_counted(fold, model, context):
    folder = fold / "coordinates" / "validation"
    (folder / "valida0_.npy").unlink()
    (folder / "valida1_.npy").write_bytes(b"nonsense")
    (folder / "valida2_.npy").write_bytes((fold / "coordinates" / "training" / "traini0_.npy").read_bytes()[:-120])
    found = build_fold(FoldConfig(path=fold, tower="structure"), context).evaluate(model)
    assert found["facts"]["retained"]["val"] == "13 of 736"
    assert found["facts"]["dropped"]["val"] == {"without coordinates": 1, "unreadable coordinates": 2}


def test_bad_folders_say_what_is_missing(fold, context, tmp_path):
    (fold / "validation.txt").write_text("valida0_\tz.99\n")
    with pytest.raises(DataError, match=r"class 'z\.99' is not in class_map"):
        build_fold(FoldConfig(path=fold), context)
    (fold / "validation.fasta").unlink()
    with pytest.raises(DataError, match=r"validation\.fasta: no such file"):
        build_fold(FoldConfig(path=fold), context)
    with pytest.raises(DataError, match=r"class_map\.txt: cannot be read"):
        build_fold(FoldConfig(path=tmp_path / "nowhere"), context)


def test_reaction(tmp_path, write_split, model, context):
    rows = []
    for split, size in {"training": 40, "validation": 12}.items():
        names = [f"{split[:3]}{i}.A" for i in range(size)]
        kinds = [i % 4 for i in range(size)]
        write_split(tmp_path / f"chain_{split}.fasta", tmp_path / "coordinates" / split, names, kinds)
        rows += [f"{name},{kind}\n" for name, kind in zip(names, kinds, strict=True)]
    (tmp_path / "chain_functions.txt").write_text("".join(rows))
    found = build_reaction(ReactionConfig(path=tmp_path, tower="structure"), context).evaluate(model)
    assert found["structure/probe/val"] > 85
    assert found["facts"]["not scored"] == "test: not in the folder"
    assert not any("test" in key for key in found)
    (tmp_path / "chain_functions.txt").write_text("1abc.A;3\n")
    with pytest.raises(DataError, match="expected lines of an id, a comma and a class number"):
        build_reaction(ReactionConfig(path=tmp_path), context)


def test_real_folds(real_data, model, context):
    benchmark = build_fold(FoldConfig(path=real_data("protein/fold_cdconv_layout.tar") / "fold"), context).benchmark
    assert {split: len(part) for split, part in benchmark.splits.items()} == {"train": 2094, "val": 185}
    assert len(benchmark.classes) == 1195
    train = benchmark.splits["train"]
    at = [chain.id for chain in train.chains].index("d1a6ma_")
    assert benchmark.classes[train.labels[at]] == "a.1", "myoglobin is a globin"


def test_real_reactions(real_data, context):
    folder = real_data("protein/reaction_cdconv_layout.tar") / "reaction"
    benchmark = build_reaction(ReactionConfig(path=folder), context).benchmark
    assert {split: len(part) for split, part in benchmark.splits.items()} == {"train": 2001, "val": 208}
    assert len(benchmark.classes) == 384
