"""`gentle doctor` finds what is wrong, mends what it may, and survives checks and plugins that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gentle_core import doctor
from gentle_core.catalog import Catalog
from gentle_core.cli import invoke
from gentle_core.doctor import checks, examine
from gentle_core.doctor.child import Child
from gentle_core.health import Finding, HealthContext
from gentle_core.plugins import discover

Install = Callable[..., str]
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))


def findings(check: Callable[[HealthContext], Any], **more: Any) -> list[Finding]:
    context = HealthContext(**{"catalog": Catalog([]), "cache_dir": Path(os.environ["GENTLE_CACHE"]), **more})
    return list(check(context))


def levels(found: list[Finding]) -> list[str]:
    return [finding.level for finding in found]


# -- the command -------------------------------------------------------------------------------------------------------


def test_all_checks_of_the_core_in_json(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENTLE_PLUGINS", "core")
    monkeypatch.setattr(checks, "_DEEPSPEED", "print(1)")  # its import takes seconds
    assert invoke(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert [c["check"] for c in found["checks"]] == [
        f"core/{name}" for name in ("versions", "plugins", "torch", "deepspeed", "hub", "cache", "disk")
    ]  # fmt: skip
    assert all(c["findings"] for c in found["checks"])


def test_error_gives_exit_code_1_and_a_remedy(
    install: Install, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("gentle-bad", "raise ImportError('no luck')", plugins={"bad": "{module}"}, version="0.4")
    monkeypatch.setenv("GENTLE_PLUGINS", "bad")
    assert invoke(["doctor", "plugins"]) == 1
    out, err = capsys.readouterr()
    assert "error    plugins    gentle-bad 0.4: cannot be loaded: ImportError: no luck" in out
    assert "→ tell its authors, or leave it out: GENTLE_PLUGINS=-gentle-bad" in out
    assert "gentle: error: 1 thing does not work" in err


def test_unknown_check(capsys: Output) -> None:
    assert invoke(["doctor", "tirch"]) == 3
    assert "there is no health check 'tirch' — did you mean 'torch'?" in capsys.readouterr().err


def test_it_loads_no_torch_itself() -> None:
    code = "import sys\nfrom gentle_core.cli import invoke\ninvoke(['doctor', 'versions', 'plugins', 'cache'])\n"
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True, timeout=100)


# -- plugins' own checks, and plugins that crash -----------------------------------------------------------------------

CHECKS = """
    from gentle_core.api import Finding, HealthCheck, hookimpl

    def fine(context):
        return [Finding("fixed" if context.fix else "warning", "a spoon is missing", "buy one", fixable=True)]

    def fails(context):
        yield Finding("ok", "the first half")
        raise RuntimeError("the second")

    def nonsense(context):
        return ["no finding"]

    def silent(context):
        return []

    def hangs(context):
        import time
        time.sleep(60)

    @hookimpl
    def gentle_health_checks():
        names = ("fine", "fails", "nonsense", "silent", "hangs")
        return [HealthCheck(name=name, target="{module}:" + name, summary="") for name in names]
"""


def test_checks_of_a_plugin(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("gentle-kitchen", CHECKS, plugins={"kitchen": "{module}"})
    monkeypatch.setattr(doctor, "PATIENCE", 20.0)
    names = ["fine", "fails", "nonsense", "kitchen/silent"]
    found = {report.check: report.findings for report in examine(names)}
    assert found["kitchen/fine"] == (Finding("warning", "a spoon is missing", "buy one", True),)
    first, second = found["kitchen/fails"]
    assert first.text == "the first half"
    assert second.level == "error" and "the check itself fails: RuntimeError: the second" in second.text
    assert "gentle-kitchen 1.0" in second.mend
    assert "gives str instead of Finding" in found["kitchen/nonsense"][0].text
    assert levels(list(found["kitchen/silent"])) == ["ok"]
    assert [r.findings[0].level for r in examine(["fine"], fix=True)] == ["fixed"]
    monkeypatch.setattr(doctor, "crashing_plugins", dict)
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    (report,) = examine(["hangs"])
    assert "does not end" in report.findings[0].text


def test_health_checks_are_no_components(install: Install) -> None:
    install("gentle-kitchen", CHECKS, plugins={"kitchen": "{module}"})
    catalog = discover(allow=["kitchen"])
    assert "kitchen/fine" in {entry.full_name for entry in catalog.health}
    assert not [entry for entry in catalog if entry.owner == "kitchen"]


@pytest.mark.parametrize("death", ["import os; os._exit(3)", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"])
def test_a_plugin_that_crashes_the_interpreter(install: Install, monkeypatch: pytest.MonkeyPatch, death: str) -> None:
    install("gentle-deadly", death, plugins={"deadly": "{module}"})
    install("gentle-kitchen", CHECKS, plugins={"kitchen": "{module}"})
    monkeypatch.setenv("GENTLE_PLUGINS", "deadly, kitchen")
    first, second = examine(["plugins"])
    assert first.findings[0].level == "error" and "plugin 'deadly' ends the program" in first.findings[0].text
    assert "exit code 3" in first.findings[0].text or "SIGSEGV" in first.findings[0].text
    assert "GENTLE_PLUGINS=-deadly" in first.findings[0].mend
    assert second.check == "core/plugins" and "kitchen" in second.findings[-1].text
    assert "protein is not loaded" in str(second.findings)
    monkeypatch.setenv("GENTLE_PLUGINS", "-protein,-vision-language,-remote-sensing")
    assert list(doctor.crashing_plugins()) == ["deadly"]
    monkeypatch.setenv("GENTLE_PLUGINS", "-deadly")
    assert doctor.crashing_plugins() == {}


# -- the checks --------------------------------------------------------------------------------------------------------


def test_versions(install: Install, tmp_path: Path) -> None:
    install("gentle-picky", "", plugins={"picky": "{module}"})
    metadata = tmp_path / "site-packages/gentle_picky-1.0.dist-info/METADATA"
    wants = ["attrs>=1", "attrs>=999", "no-such-distribution>=2", "not a requirement", 'colour; extra == "more"']
    metadata.write_text(metadata.read_text() + "".join(f"Requires-Dist: {line}\n" for line in wants))
    found = findings(checks.versions, catalog=discover(allow=["picky"]))
    assert levels(found) == ["error", "error", "warning"]
    assert "gentle-picky requires attrs>=999, and" in found[0].text and found[0].mend == "pip install 'attrs>=999'"
    assert "no-such-distribution>=2, which is not installed" in found[1].text


def test_torch_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "in_child", lambda *_, **__: Child(1, "", "Traceback\nImportError: libcudart.so.13"))
    (found,) = findings(checks.torch)
    assert found.level == "error" and "exit code 1, ImportError: libcudart.so.13" in found.text


def test_torch_for_gpus_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "version": "2.13.0", "cuda": "13.0", "hip": None, "devices": [], "broken": "", "mps": False, "finite": True,
        "threads": 2, "distributed": True,
    }  # fmt: skip
    monkeypatch.setattr(checks, "in_child", lambda *_, **__: Child(0, f"noise\n{json.dumps(facts)}\n", ""))
    assert levels(findings(checks.torch)) == ["ok", "warning"]


def test_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    assert levels(findings(checks.deepspeed)) == ["note"]
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(checks, "in_child", lambda *_, **__: Child(-6, "", ""))
    (found,) = findings(checks.deepspeed)
    assert found.level == "warning" and "signal SIGABRT" in found.text


def test_hub_that_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(findings(checks.hub)) == ["note"]
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for address in ("http://127.0.0.1:9", "nonsense"):
        monkeypatch.setenv("HF_ENDPOINT", address)
        (found,) = findings(checks.hub)
        assert found.level == "warning" and address in found.text


def test_cache_leftovers_go_with_fix_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache/features/key"
    folder.mkdir(parents=True)
    save_file({"keys": np.zeros((2, 16), np.uint8), "features": np.ones((2, 3), np.float32)}, folder / "ok.safetensors")
    whole = (folder / "ok.safetensors").read_bytes()
    damaged = {
        "short": whole[:-3],
        "empty": b"",
        "long": whole + b"x",
        "noise": b"\xff" * 40,
        "json": b"\2" + bytes(7) + b"[]",
    }
    for name, content in damaged.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    for name, age in (("old", 2 * checks.STALE), ("fresh", 0.0)):
        (folder / f"{name}.partial").write_bytes(b"x")
        os.utime(folder / f"{name}.partial", (time.time() - age,) * 2)
    before = sorted(folder.iterdir())
    found = findings(checks.cache)
    assert levels(found) == ["ok", "warning", "warning"] and all(f.fixable for f in found[1:])
    assert "1 files" in found[1].text and "5 files" in found[2].text
    assert sorted(folder.iterdir()) == before, "without --fix nothing changes"
    assert levels(findings(checks.cache, fix=True)) == ["ok", "fixed", "fixed"]
    assert sorted(p.name for p in folder.iterdir()) == ["fresh.partial", "ok.safetensors"]
    assert levels(findings(checks.cache)) == ["ok"]


def test_cache_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (found,) = findings(checks.cache, cache_dir=tmp_path / "file")
    assert found.level == "error" and "is no folder" in found.text


def test_disk_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = {"free": 1 << 40}
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: type("Usage", (), usage))
    assert set(levels(findings(checks.disk))) == {"ok"}
    usage["free"] = 1 << 20
    assert "error" in levels(findings(checks.disk))
