"""Files extend one another, settings come on top, and every key remembers where it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from gentle_core.errors import RecipeError
from gentle_core.recipe.source import Layer, dotted, read_file, read_sets
from gentle_core.recipe.structure import Sourced


def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> Layer:
    """Write the files, name.toml each, and read main.toml."""
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        path = Path(f"{name.replace('__', '/')}.toml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return read_file(Path("main.toml"), "main.toml")[0]


def errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        layers(tmp_path, monkeypatch, **files)
    return caught.value.problems


BASE = (
    '[train]\nsteps = 5\nseed = 1\n[dataset]\nuse = "a/b"\npath = "data"\npaired = 0.5\nlist = [{ p = 1 }, { p = 2 }]\n'
)


def test_tables_merge_lists_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = 'extends = "base.toml"\n[train]\nseed = 2\n[dataset]\nlist = [3]\n[new]\nx = 1\n'
    layer = layers(tmp_path, monkeypatch, base=BASE, main=main)
    assert layer.data == {
        "train": {"steps": 5, "seed": 2},
        "dataset": {"use": "a/b", "path": "data", "paired": 0.5, "list": [3]},
        "new": {"x": 1},
    }
    assert layer.where(("train", "steps")) == "base.toml:2"
    assert layer.where(("train", "seed")) == "main.toml:3"
    assert layer.where(("dataset", "list", 0, "p")) == "main.toml:5", "lines of the replaced list are forgotten"
    assert layer.where(("new", "absent")) == "main.toml:6"
    assert layer.where(("nowhere",)) == "main.toml:1"


def test_several_parents_later_ones_win_and_folders_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layers(
        tmp_path,
        monkeypatch,
        sub__a='x = 1\ny = 1\npath = "here"\n',
        sub__b='extends = "c.toml"\ny = 2\n',
        sub__c="y = 3\nz = 3\n",
        main='extends = ["sub/a.toml", "sub/b.toml"]\nw = "there"\n',
    )
    assert layer.data == {"x": 1, "y": 2, "z": 3, "path": "here", "w": "there"}
    assert layer.where(("z",)) == "sub/c.toml:2"
    assert isinstance(layer.data["path"], Sourced) and layer.data["path"].folder == tmp_path / "sub"
    assert layer.data["w"].folder == tmp_path


def test_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = errors(tmp_path, monkeypatch, main='\nextends = "a.toml"\n', a='extends = "main.toml"\n')
    assert problem == "a.toml:1: extends: goes in a circle: main.toml → a.toml → main.toml"
    (problem,) = errors(tmp_path, monkeypatch, main='extends = "main.toml"\n')
    assert "main.toml → main.toml" in problem


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = errors(tmp_path, monkeypatch, main='\n\nextends = "gone.toml"\n')
    assert problem == f"main.toml:3: extends: there is no file {tmp_path / 'gone.toml'}"
    (problem,) = errors(tmp_path, monkeypatch, main="extends = 3\n")
    assert problem.startswith("main.toml:1: extends: should be a file name")
    (problem,) = errors(tmp_path, monkeypatch, main="a = 1\nb c = 2\n")
    assert problem.startswith("main.toml:2: not valid TOML: ")
    (problem,) = errors(tmp_path, monkeypatch, main="a = 1\nb = [1,\n")
    assert problem.startswith("main.toml:2: not valid TOML: ")
    (problem,) = errors(tmp_path, monkeypatch, main='extends = "a.toml"\n', a="a = \n")
    assert problem.startswith("a.toml:1: not valid TOML: ")
    Path("main.toml").write_bytes(b"a = '\xff'\n")
    with pytest.raises(RecipeError, match="main.toml: is not UTF-8 text"):
        read_file(Path("main.toml"))
    with pytest.raises(RecipeError, match="gone.toml: no such file$"):
        read_file(Path("gone.toml"))
    with pytest.raises(RecipeError, match="mian.toml: no such file — did you mean 'main.toml'"):
        read_file(Path("mian.toml"))
    with pytest.raises(RecipeError, match=r"\.: is a directory"):
        read_file(Path("."))


def test_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_file(tmp_path / "a.toml")[0].data == {"a": 1}


@pytest.mark.parametrize(
    ("base", "over", "kept"),
    [
        ("steps = 5", "epochs = 2", {"epochs": 2}),
        ("epochs = 2", "steps = 5", {"steps": 5}),
        ("paired_rows = 5\nunpaired_rows = 6", "proportional = 2", {"proportional": 2}),
        ("proportional = 2", "unpaired_rows = 6", {"unpaired_rows": 6}),
        ("paired_rows = 5\nsteps = 1", "unpaired_rows = 6", {"paired_rows": 5, "unpaired_rows": 6, "steps": 1}),
        ("steps = 5", "steps = 6\nepochs = 2", {"steps": 6, "epochs": 2}),
    ],
)
def test_one_of_two_exclusive_keys_replaces_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, over: str, kept: dict[str, int]
) -> None:
    main = f'extends = "base.toml"\n[train]\n{over}\n'
    assert layers(tmp_path, monkeypatch, base=f"[train]\n{base}\n", main=main).data["train"] == kept


def test_another_component_does_not_inherit_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = BASE + '[towers.a.encoder]\nuse = "p/x"\nwidth = 3\nfreeze = true\n'
    main = 'extends = "base.toml"\n[dataset]\nuse = "other"\n[towers.a.encoder]\nuse = "y"\ndepth = 1\n'
    data = layers(tmp_path, monkeypatch, base=base, main=main).data
    assert data["dataset"] == {"use": "other", "paired": 0.5}, "Gentle's own keys stay, the options go"
    assert data["towers"]["a"]["encoder"] == {"use": "y", "depth": 1}
    same = 'extends = "base.toml"\n[dataset]\nuse = "b"\n'
    assert layers(tmp_path, monkeypatch, base=base, main=same).data["dataset"]["path"] == "data", (
        "only spelt differently"
    )


def put(*sets: str, base: str = BASE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layer:
    return read_sets(sets, layers(tmp_path, monkeypatch, main=base))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("1e-3", 1e-3),
        ("true", True),
        ("True", "True"),
        ('"7"', "7"),
        ("esm2_t6_8M_UR50D", "esm2_t6_8M_UR50D"),
        ("protein/esm2", "protein/esm2"),
        ("/a b/c", "/a b/c"),
        ("[1, 2]", [1, 2]),
        ("{ a = 1 }", {"a": 1}),
        ("a=b", "a=b"),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_values_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: object) -> None:
    layer = put(f"new.key={text}", tmp_path=tmp_path, monkeypatch=monkeypatch)
    assert layer.data["new"]["key"] == value and type(layer.data["new"]["key"]) is type(value)


def test_settings_reach_into_arrays_remove_and_remember(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = put(
        "dataset.list.1.p=9",
        "dataset.list.1.q=8",
        "train.steps=",
        "train.seed=3",
        "train.seed=4",
        'quoted."a.b".c=1',
        tmp_path=tmp_path,
        monkeypatch=monkeypatch,
    )
    assert layer.data["dataset"]["list"] == [{"p": 1}, {"p": 9, "q": 8}]
    assert layer.data["train"] == {"seed": 4}
    assert layer.data["quoted"] == {"a.b": {"c": 1}}
    assert layer.where(("dataset", "list", 1, "p")) == "--set dataset.list.1.p"
    assert layer.where(("dataset", "list", 0, "p")) == "main.toml:8"
    assert layer.where(("train", "absent")) == "main.toml:1", "a table that a setting only passes through"
    assert dotted(("quoted", "a.b", 0, "c")) == 'quoted."a.b"[0].c'


def test_options_set_beside_another_component_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("dataset.folder=x", "dataset.use=c/d")
    layer = put(*sets, tmp_path=tmp_path, monkeypatch=monkeypatch)
    assert layer.data["dataset"] == {"use": "c/d", "folder": "x", "paired": 0.5}


def test_wrong_settings_are_all_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError) as caught:
        put("nonsense", "a b=1", "x=[1,", "dataset.list.5.p=1", tmp_path=tmp_path, monkeypatch=monkeypatch)
    no_value, no_key, no_toml, no_entry = caught.value.problems
    assert no_value == "--set nonsense: write it as KEY=VALUE"
    assert no_key == "--set a b: 'a b' is no key"
    assert no_toml.startswith("--set x: [1, is not valid TOML")
    assert no_entry == "--set dataset.list.5.p: dataset.list has 2 entries, counted from 0; there is no 5"


def test_a_setting_reaches_into_an_array_that_another_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = layers(tmp_path, monkeypatch, main=BASE)
    given = {"dataset": {"use": "c/d", "parts": [{"p": 1, "q": 1}, {"p": 2}]}}
    sets = given | {"dataset.parts.1.p": 5, "dataset.parts.0.q": None, "dataset.parts.1.r.s": "deep"}
    layer = read_sets(sets, base)
    assert layer.data["dataset"]["parts"] == [{"p": 1}, {"p": 5, "r": {"s": "deep"}}]
    assert given["dataset"]["parts"][1] == {"p": 2}, "what was given stays as it is"
    assert layer.where(("dataset", "parts", 1, "p")) == "override dataset.parts.1.p"
    with pytest.raises(RecipeError, match=r"dataset.parts has 2 entries, counted from 0; there is no 2"):
        read_sets(given | {"dataset.parts.2.p": 5}, base)


def test_settings_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = layers(tmp_path, monkeypatch, main=BASE)
    layer = read_sets({"train.steps": 3, "dataset.path": tmp_path, "train.seed": None, "name": "3"}, base)
    assert layer.data["train"] == {"steps": 3} and layer.data["name"] == "3"
    assert layer.where(("train", "steps")) == "override train.steps"
