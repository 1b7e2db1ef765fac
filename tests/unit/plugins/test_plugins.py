"""Discovery finds what is installed, and a plugin that breaks harms nobody but itself."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from gentle_core import api, hookspecs
from gentle_core.catalog import HEALTH, Catalog, Problem
from gentle_core.errors import ComponentError
from gentle_core.plugins import _HOOKS, discover
from gentle_core.specs import GENTLE_API, KINDS, OLDEST_API

GOOD = """
    from gentle_core.api import AugmentationSpec, DatasetSpec, EncoderSpec, ModalitySpec, hookimpl

    @hookimpl
    def gentle_modalities():
        return [ModalitySpec(name="audio", summary="Waveforms")]

    @hookimpl
    def gentle_encoders():
        return [EncoderSpec(name="cnn", modality="audio", target="{module}:build", summary="A CNN")]

    @hookimpl
    def gentle_datasets():
        yield DatasetSpec(name="tones", modalities=("audio", "text"), target="{module}:tones", summary="Tones")
"""

Install = Callable[..., str]


def problems(catalog: Catalog, distribution: str) -> list[Problem]:
    return [p for p in catalog.problems if p.distribution == distribution]


def names(catalog: Catalog, owner: str) -> set[str]:
    return {f"{e.kind}:{e.full_name}" for e in catalog if e.owner == owner}


ALL_GOOD = {"modality:audio/audio", "encoder:audio/cnn", "dataset:audio/tones"}


def test_every_hook_has_a_kind_and_an_example() -> None:
    declared = {name for name in vars(hookspecs) if name.startswith("gentle_")}
    assert set(_HOOKS) == declared
    assert set(_HOOKS.values()) == set(KINDS) | {HEALTH}
    for name in declared:
        assert "@hookimpl" in getattr(hookspecs, name).__doc__, f"{name} shows no example"


def test_every_hook_has_a_version() -> None:
    assert set(hookspecs.SINCE) == set(_HOOKS)
    assert all(OLDEST_API <= 1 <= version <= GENTLE_API for version in hookspecs.SINCE.values())
    assert set(hookspecs.DEPRECATED) <= set(_HOOKS)


def test_deprecated_hook_works_and_is_reported(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hookspecs.DEPRECATED, "gentle_datasets", "write gentle_collections")
    install("gentle-audio", GOOD, plugins={"audio": "{module}"})
    catalog = discover()
    assert names(catalog, "audio") == ALL_GOOD
    (problem,) = problems(catalog, "gentle-audio")
    assert "gentle_datasets is deprecated; it still works" in problem.what
    assert "write gentle_collections" in problem.mend


def test_former_name_works_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "RENAMED", {"OldSpec": "EncoderSpec", "OldModule": "EncoderModule"})
    with pytest.warns(DeprecationWarning, match=r"gentle_core.api.OldSpec is now EncoderSpec; .* interface 2"):
        assert api.OldSpec is api.EncoderSpec
    with pytest.warns(DeprecationWarning):
        assert api.OldModule is api.EncoderModule


def test_installed_plugin_is_found(install: Install) -> None:
    install("gentle-audio", GOOD, plugins={"audio": "{module}"}, version="2.3")
    catalog = discover()
    assert names(catalog, "audio") == ALL_GOOD
    entry = catalog.get("encoder", "cnn")
    assert (entry.full_name, entry.distribution, entry.version) == ("audio/cnn", "gentle-audio", "2.3")
    assert not problems(catalog, "gentle-audio")
    assert catalog.versions()["gentle-audio"] == "2.3"


def test_owner_is_the_entry_point_not_the_distribution(install: Install) -> None:
    install("Some_Other.Name", GOOD, plugins={"audio": "{module}"})
    catalog = discover()
    assert names(catalog, "audio") == ALL_GOOD
    assert catalog.get("encoder", "audio/cnn").distribution == "some-other-name"


@pytest.mark.parametrize(("distribution", "owner"), [("gentle-mpnn", "mpnn"), ("Protein_MPNN", "protein-mpnn")])
def test_single_encoder_without_hooks(install: Install, distribution: str, owner: str) -> None:
    code = """
        from gentle_core.api import EncoderSpec
        SPEC = EncoderSpec(name="ca", modality="protein-structure", target="{module}:build", summary="From its paper")
    """
    install(distribution, code, encoders={"ca": "{module}:SPEC"})
    assert discover().get("encoder", f"{owner}/ca").spec.modality == "protein-structure"


BROKEN = {
    "ImportError": ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
    "SystemExit": ("import sys; sys.exit(3)", "tries to end the program (SystemExit: 3)"),
    "exception": ("raise RuntimeError('boom\\nand more')", "RuntimeError: boom and more"),
    "recursion": ("def f(): return f()\nf()", "RecursionError"),
    "syntax": ("def f(:", "SyntaxError"),
    "odd exception": ("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_module_that_cannot_be_loaded(install: Install, case: str) -> None:
    code, message = BROKEN[case]
    install("gentle-audio", GOOD, plugins={"audio": "{module}"})
    install("gentle-bad", code, plugins={"bad": "{module}"}, version="0.7")
    catalog = discover()
    (problem,) = problems(catalog, "gentle-bad")
    assert message in problem.what
    assert problem.version == "0.7" and problem.owner == "bad" and problem.mend
    assert "\n" not in str(problem)
    assert names(catalog, "audio") == ALL_GOOD


HOOK = "from gentle_core.api import EncoderSpec, LossSpec, hookimpl\n"
FINE = "@hookimpl\ndef gentle_encoders():\n    return [EncoderSpec(name='e', modality='x', target='m:f', summary='')]\n"
BROKEN_HOOKS = {
    "wrong arguments": ("@hookimpl\ndef gentle_losses(config): return []", "wrong arguments", "gentle_losses()"),
    "misspelt": ("@hookimpl\ndef gentle_loses(): return []", "did you mean 'gentle_losses'?", "rename"),
    "raises": ("@hookimpl\ndef gentle_losses(): return 1/0", "ZeroDivisionError", "GENTLE_PLUGINS=-gentle-bad"),
    "exits": ("@hookimpl\ndef gentle_losses(): raise SystemExit", "SystemExit", "GENTLE_PLUGINS=-gentle-bad"),
    "returns None": ("@hookimpl\ndef gentle_losses(): pass", "gentle_losses returns NoneType", "a list of LossSpec"),
    "returns a spec": (
        "@hookimpl\ndef gentle_losses(): return LossSpec(name='a', target='m:f', summary='')",
        "returns LossSpec 'a'",
        "a list of LossSpec",
    ),
    "wrong kind": (
        "@hookimpl\ndef gentle_losses(): return [EncoderSpec(name='a', modality='x', target='m:f', summary='')]",
        "EncoderSpec 'a' stands where LossSpec belongs",
        "give LossSpec",
    ),
    "string in list": ("@hookimpl\ndef gentle_losses(): return ['m:f']", "str stands where", "give LossSpec"),
    "bad target": (
        "@hookimpl\ndef gentle_losses(): return [LossSpec(name='a', target='m.f', summary='')]",
        "target='m.f': write it as 'package.module:factory'",
        "GENTLE_PLUGINS=-gentle-bad",
    ),
    "unknown field": (
        "@hookimpl\ndef gentle_losses(): return [LossSpec(name='a', target='m:f', summary='', shiny=1)]",
        "unexpected keyword argument 'shiny'",
        "pip install --upgrade gentle-core",
    ),
    "newer": (
        "@hookimpl\ndef gentle_losses(): return [LossSpec(name='a', target='m:f', summary='', api=99)]",
        "plugin interface 99",
        "--upgrade gentle-core",
    ),
    "older": (
        "@hookimpl\ndef gentle_losses(): return [LossSpec(name='a', target='m:f', summary='', api=0)]",
        "plugin interface 0, this Gentle reads 1 to 1",
        "pip install --upgrade gentle-bad",
    ),
    "hook of a newer Gentle": (
        "@hookimpl\ndef gentle_trackers(): return []",
        "interface 1 has no hook gentle_trackers",
        "pip install --upgrade gentle-core",
    ),
    "generator fails midway": (
        "@hookimpl\ndef gentle_losses():\n  yield LossSpec(name='a', target='m:f', summary='')\n  raise OSError('no')",
        "OSError: no",
        "GENTLE_PLUGINS=-gentle-bad",
    ),
}


@pytest.mark.parametrize("case", BROKEN_HOOKS)
def test_hook_that_fails_leaves_the_others(install: Install, case: str) -> None:
    code, what, mend = BROKEN_HOOKS[case]
    install("gentle-bad", HOOK + code + "\n" + FINE, plugins={"bad": "{module}"})
    catalog = discover()
    (problem,) = problems(catalog, "gentle-bad")
    assert what in problem.what and mend in problem.mend, str(problem)
    assert "encoder:bad/e" in names(catalog, "bad"), "the sound hook of the same plugin is lost"


def test_name_declared_twice_keeps_the_first(install: Install) -> None:
    spec = "EncoderSpec(name='e', modality='x', target='m:f', summary='{}')"
    code = HOOK + f"@hookimpl\ndef gentle_encoders(): return [{spec.format('first')}, {spec.format('second')}]"
    install("gentle-bad", code, plugins={"bad": "{module}"})
    catalog = discover()
    assert catalog.get("encoder", "bad/e").spec.summary == "first"
    assert "declared twice" in problems(catalog, "gentle-bad")[0].what


def test_owner_claimed_twice_goes_to_the_distribution_of_that_name(install: Install) -> None:
    install("aaa-impostor", GOOD, plugins={"audio": "{module}"})
    install("gentle-audio", GOOD, plugins={"audio": "{module}"})
    catalog = discover()
    assert catalog.get("encoder", "audio/cnn").distribution == "gentle-audio"
    assert "already taken by gentle-audio" in problems(catalog, "aaa-impostor")[0].what


def test_nobody_else_may_be_core(install: Install) -> None:
    install("gentle-evil", GOOD, plugins={"core": "{module}"})
    catalog = discover()
    assert "already taken by gentle-core" in problems(catalog, "gentle-evil")[0].what
    assert "core/cnn" not in {e.full_name for e in catalog}


def test_malformed_entry_points_of_a_stranger_do_not_matter(install: Install) -> None:
    install("gentle-audio", GOOD, plugins={"audio": "{module}"})
    install("aa-stranger", "", entry_points="[console_scripts]\nthis is no entry point\n")
    install("gentle-mangled", "", entry_points="[gentle.plugins]\nthis is no entry point\n")
    catalog = discover()
    assert names(catalog, "audio") == ALL_GOOD
    assert "gentle-mangled" in {p.distribution for p in catalog.problems}
    assert "aa-stranger" not in {p.distribution for p in catalog.problems}


def test_encoder_entry_point_that_is_no_spec(install: Install) -> None:
    install("mpnn", "SPEC = 3", encoders={"ca": "{module}:SPEC", "gone": "{module}:MISSING"})
    first, second = problems(discover(), "mpnn")
    assert "int stands where" in first.what
    assert "AttributeError" in second.what


def test_allow_list(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("gentle-audio", GOOD, plugins={"audio": "{module}"})
    install("gentle-other", GOOD, plugins={"o_ther": "{module}"})
    owners = lambda catalog: {e.owner for e in catalog} & {"audio", "o_ther"}  # noqa: E731
    assert owners(discover()) == {"audio", "o_ther"}
    assert owners(discover(allow=["audio"])) == {"audio"}
    assert owners(discover(allow=["gentle_other"])) == {"o_ther"}, "a distribution's name counts too"
    assert owners(discover(enabled=False)) == set()
    with pytest.raises(ComponentError, match="plugin 'audio' is not loaded, since plugins are switched off"):
        discover(enabled=False).get("encoder", "audio/cnn")
    with pytest.raises(ComponentError, match="plugin 'audio' is not loaded, since GENTLE_PLUGINS does not name it"):
        discover(allow=["core"]).get("encoder", "audio/cnn")
    monkeypatch.setenv("GENTLE_PLUGINS", "o_ther, no-such")
    catalog = discover()
    assert owners(catalog) == {"o_ther"}
    assert "not installed" in problems(catalog, "no-such")[0].what
    monkeypatch.setenv("GENTLE_PLUGINS", "")
    assert owners(discover()) == set()


def test_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "solo_sound.py"
    path.write_text(textwrap.dedent(GOOD.replace("{module}", "solo_sound")))
    catalog = discover(enabled=False, files=[path])
    assert catalog.get("encoder", "solo_sound/cnn").spec.target == "solo_sound:build"
    sys.modules.pop("solo_sound")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("absent.py", "no file"),
        ("two-words.py", "cannot be imported"),
        ("json.py", "belongs to another module"),
        ("a.txt", "Python"),
    ],
)
def test_single_file_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    if name != "absent.py":
        (tmp_path / name).write_text("")
    catalog = discover(enabled=False, files=[tmp_path / name])
    assert what in next(p.what for p in catalog.problems if p.owner == Path(name).stem)


def test_what_a_plugin_prints_stays_off_stdout(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("gentle-loud", "print('hello')", plugins={"loud": "{module}"})
    discover()
    assert capsys.readouterr().out == ""


def test_discovery_imports_no_torch_and_names_the_plugin_that_does(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import torch")
    code = f"""
        import sys
        from gentle_core.plugins import discover
        discover()
        assert "torch" not in sys.modules, "discovery imports torch"
        problems = discover(enabled=False, files=[{str(tmp_path / "heavy.py")!r}]).problems
        (problem,) = (p for p in problems if p.owner == "heavy")
        assert "imports torch" in problem.what, problem
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)
