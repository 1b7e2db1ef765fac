from __future__ import annotations

import numpy as np
import pytest

from gentle_core.api import DataError, Task
from gentle_protein.chain import Structure
from gentle_protein.datasets.cdconv_layout import read_cutoffs, read_function
from gentle_protein.metrics import fmax
from gentle_protein.tasks.config import EcConfig, GoConfig
from gentle_protein.tasks.function import build_ec, build_go

TERMS = ("1.1.1.-", "2.7.2.3", "3.1.-.-", "4.2.1.1", "5.6.2.-")


def own_terms(kind: int) -> list[str]:
    return [TERMS[kind], TERMS[(kind + 1) % 4]]


@pytest.fixture
def chains(tmp_path, write_split):
    """Names by split: train, valid and test chains of the four classes."""
    names = {
        split: [f"{i}{split.upper()[:3]}-A" for i in range(n)]
        for split, n in (("train", 40), ("valid", 12), ("test", 16))
    }
    for split, group in names.items():
        write_split(tmp_path / f"{split}.fasta", tmp_path / "coordinates", group, [i % 4 for i in range(len(group))])
    return names


@pytest.fixture
def ec(tmp_path, chains):
    lines = ["### EC-numbers", "\t".join(TERMS), "### PDB-chain\tEC-numbers"]
    for group in chains.values():
        lines += [f"{name}\t{','.join(own_terms(i % 4))}" for i, name in enumerate(group)]
    (tmp_path / "nrPDB-EC_annot.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def write_cutoffs(path, names):
    """Half of the chains are below 30 % identity, all below 95 %."""
    rows = [f"{name},{int(i < len(names) // 2)},1" for i, name in enumerate(names)]
    path.write_text("\n".join(["PDB-chain,<30%,<95%", *rows]) + "\n")


def test_terms_that_the_features_tell_are_found(ec, model, context):
    task = build_ec(EcConfig(path=ec), context)
    assert isinstance(task, Task)
    found = task.evaluate(model)
    for tower in ("sequence", "structure", "together"):
        assert found[f"{tower}/probe/val"] > 0.85
        assert found[f"{tower}/probe/test"] > 0.85
    # Each of four terms has frequency 1/2: all four are predicted, of which two are right.
    assert found["naive/test"] == pytest.approx(2 * 0.5 / 1.5)
    assert found["facts"]["retained"] == {"train": "40 of 15,551", "val": "12 of 1,729", "test": "16 of 1,919"}


def test_nearest_neighbours_terms_are_predicted(ec, model, context):
    task = build_ec(EcConfig(path=ec, tower="structure"), context)
    train, test = (task.benchmark.splits[split] for split in ("train", "test"))
    x, y = (
        model.embed("structure", [Structure(c.id, c.ca) for c in part.chains], "feature").double().numpy()
        for part in (train, test)
    )
    x, y = (x - x.mean(0)) / x.std(0), (y - x.mean(0)) / x.std(0)
    near = [int(np.argmax([row @ query / np.linalg.norm(row) for row in x])) for query in y]
    expected = fmax(train.labels[near] * 1.0, test.labels)
    assert task.evaluate(model)["structure/1nn/test"] == pytest.approx(expected)
    assert expected > 0.85


def test_identity_cutoffs(ec, chains, model, context):
    write_cutoffs(ec / "nrPDB-EC_test.csv", chains["test"])
    assert read_cutoffs(ec, "EC")[chains["test"][0]] == {30, 95}
    found = build_ec(EcConfig(path=ec, tower="structure"), context).evaluate(model)
    assert found["facts"]["cut-offs"] == {"test<30%": 8, "test<95%": 16}
    assert {"structure/probe/test<30%", "structure/probe/test<95%", "naive/test<30%"} <= set(found)
    assert "structure/probe/test" not in found
    assert "structure/probe/test<40%" not in found
    only = build_ec(EcConfig(path=ec, tower="structure", cutoffs=(95,)), context).evaluate(model)
    assert only["structure/probe/test<95%"] == found["structure/probe/test<95%"]
    assert "structure/probe/test<30%" not in only
    (ec / "nrPDB-EC_test.csv").write_text("PDB-chain,near\nx,1\n")
    with pytest.raises(DataError, match="expected a header like"):
        build_ec(EcConfig(path=ec), context)


def test_go_reads_the_columns_of_its_ontology(tmp_path, chains, model, context):
    blocks = {
        "molecular_function": ("GO:1", "GO:2"),
        "biological_process": ("GO:3", "GO:4", "GO:5"),
        "cellular_component": ("GO:6",),
    }
    lines = []
    for ontology, terms in blocks.items():
        lines += [
            f"### GO-terms ({ontology})",
            "\t".join(terms),
            f"### GO-names ({ontology})",
            "\t".join("n" * len(terms)),
        ]
    lines.append("### PDB-chain\t" + "\t".join(f"GO-terms ({ontology})" for ontology in blocks))
    first, second, third = chains["train"][:3]
    lines += [f"{first}\tGO:2\tGO:3,GO:5\tGO:6", f"{second}\t\tGO:4\t", f"{third}\tGO:1"]
    lines += [f"{name}\tGO:1\tGO:3\t" for name in chains["valid"] + chains["train"][3:]]
    (tmp_path / "nrPDB-GO_annot.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.fasta").unlink()

    wanted = {
        "mf": (("GO:1", "GO:2"), [[0, 1], [0, 0], [1, 0]]),
        "bp": (("GO:3", "GO:4", "GO:5"), [[1, 0, 1], [0, 1, 0], [0, 0, 0]]),
        "cc": (("GO:6",), [[1], [0], [0]]),
    }
    for ontology, (terms, rows) in wanted.items():
        benchmark = read_function(tmp_path, "GO", ontology)
        assert benchmark.classes == terms
        np.testing.assert_array_equal(benchmark.splits["train"].labels[:3], np.array(rows, dtype=bool))
    found = build_go(GoConfig(path=tmp_path, ontology="bp", tower="structure"), context).evaluate(model)
    assert 0 <= found["structure/probe/val"] <= 1
    assert found["facts"]["retained"]["train"] == "40 of 29,898"
    with pytest.raises(DataError, match=r"nrPDB-EC_annot\.tsv: cannot be read"):
        build_ec(EcConfig(path=tmp_path), context)


def test_what_is_no_annotation_file_is_refused(ec, context):
    (ec / "nrPDB-EC_annot.tsv").write_text("name\tterms\n1ABC-A\t1.1.1.1\n")
    with pytest.raises(DataError, match="no DeepFRI annotation file"):
        build_ec(EcConfig(path=ec), context)


def test_real_ec_numbers(real_data, context):
    benchmark = build_ec(EcConfig(path=real_data("protein/ec_cdconv_layout.tar") / "ec"), context).benchmark
    assert {split: part.labels.shape for split, part in benchmark.splits.items()} == {
        "train": (2773, 538),
        "val": (303, 538),
    }
    train = benchmark.splits["train"]
    at = [chain.id for chain in train.chains].index("16PK-A")
    terms = {benchmark.classes[i] for i in np.flatnonzero(train.labels[at])}
    assert terms == {"2.7.2.-", "2.7.2.3"}, "phosphoglycerate kinase"
