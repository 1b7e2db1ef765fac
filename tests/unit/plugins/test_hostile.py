"""More than twenty harmful packages, installed side by side as pip leaves them: all are told, nothing else suffers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAD = "from gentle_core.api import EncoderSpec, LossSpec, hookimpl\n"
SPEC = "EncoderSpec(name='{name}', modality='sound', target='m:f', summary=''{more})"
HOOK = "@hookimpl\ndef {hook}({arguments}):\n    {body}\n"


def hook(body: str, name: str = "gentle_encoders", arguments: str = "") -> str:
    return HEAD + HOOK.format(hook=name, arguments=arguments, body=body)


def encoder(name: str = "tiny", more: str = "") -> str:
    return SPEC.format(name=name, more=more)


HOSTILE = {
    "import-error": ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
    "import-name": ("from gentle_core.api import NoSuchSpec", "cannot import name 'NoSuchSpec'"),
    "system-exit": ("raise SystemExit(3)", r"tries to end the program \(SystemExit: 3\)"),
    "exit-in-hook": (hook("import sys; sys.exit(0)"), r"tries to end the program \(SystemExit: 0\)"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "odd-exception": ("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"),
    "syntax": ("def f(:", "SyntaxError"),
    "wrong-arguments": (hook("return []", arguments="config"), "gentle_encoders has wrong arguments"),
    "misspelt-hook": (hook("return []", name="gentle_encoder"), r"did you mean 'gentle_encoders'\?"),
    "returns-none": (hook("pass"), "gentle_encoders returns NoneType"),
    "wrong-kind": (hook(f"return [{encoder()}]", name="gentle_losses"), "stands where LossSpec belongs"),
    "endless-list": (hook(f"while True: yield {encoder()}"), "more than 1000 components"),
    "newer": (hook(f"return [{encoder(more=', api=99)').removesuffix(')')}]"), "written for plugin interface 99"),
    "infinite": ("while True: pass", r"does not finish loading within 2 s \(at .*hostile_infinite.py:1\)"),
    "asleep": ("import time\ntime.sleep(3600)", r"does not finish loading within 2 s \(at .*hostile_asleep.py:2\)"),
    "stubborn": (
        "import time\nwhile True:\n    try: time.sleep(0.1)\n    except BaseException: pass",
        "does not finish loading",
    ),
    "asks-input": ("import select, os\nr, w = os.pipe()\nos.read(r, 1)", "does not finish loading"),
    "recursion": ("def f(): return f()\nf()", "RecursionError"),
    "discovers": ("from gentle_core.plugins import discover\ndiscover()", "while it is being loaded itself"),
    "starts-gentle": (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'from gentle_core.plugins import discover; discover()'], check=True)",
        "CalledProcessError|does not finish loading",  # the latter on a machine that is busy
    ),
    "torch": ("import torch", "imports torch"),
    "twice": (hook(f"return [{encoder()}, {encoder()}]"), "declared twice"),
    "no-module": (None, "No module named"),
}
"""Name of the distribution after "gentle-", its module's code, and a pattern for what must be said of it."""


def install(site: Path, name: str, module: str, code: str | None, entry: str, version: str = "0.3") -> None:
    """What pip leaves behind: a module, and a dist-info folder."""
    if code is not None:
        (site / f"{module}.py").write_text(code)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site-packages")
    for name, (code, _) in HOSTILE.items():
        module = "hostile_" + name.replace("-", "_")
        install(site, f"gentle-{name}", module, code, f"[gentle.plugins]\n{name} = {module}\n")
    good = hook(f"return [{encoder('good')}]")
    install(site, "gentle-good", "hostile_good", good, "[gentle.plugins]\ngood = hostile_good\n")
    install(site, "aaa-thief", "hostile_thief", good, "[gentle.plugins]\ngood = hostile_thief\n")
    lone = HEAD + f"SPEC = {encoder('lone')}\n"
    install(site, "lone", "hostile_lone", lone, "[gentle.encoders]\nlone = hostile_lone:SPEC\n", "7")
    return site


def gentle(site: Path, *arguments: str, plugins: str, seconds: float = 2) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "GENTLE_PLUGINS": plugins}
    environment["GENTLE_PLUGIN_SECONDS"] = str(seconds)
    command = [sys.executable, "-c", "from gentle_core.cli import main; main()", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def listing(site: Path) -> dict[str, Any]:
    done = gentle(site, "plugins", "list", "--json", plugins=",".join([*HOSTILE, "good", "lone"]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_there_are_twenty(listing: dict[str, Any]) -> None:
    hostile = {p["distribution"] for p in listing["problems"]}
    assert hostile == {f"gentle-{name}" for name in HOSTILE} | {"aaa-thief"}
    assert len(hostile) >= 20


@pytest.mark.parametrize("name", HOSTILE)
def test_each_is_named_with_what_is_wrong(listing: dict[str, Any], name: str) -> None:
    problem, *more = [p for p in listing["problems"] if p["distribution"] == f"gentle-{name}"]
    assert re.search(HOSTILE[name][1], problem["what"]), problem
    assert ["declared twice" in p["what"] for p in more] == [True] * (name == "endless-list")
    assert problem["version"] == "0.3" and problem["mend"]


def test_the_rest_works(listing: dict[str, Any]) -> None:
    found = {c["name"]: c["distribution"] for c in listing["components"]}
    assert found["good/good"] == "gentle-good" and found["lone/lone"] == "lone" and "core/gentle" in found
    (thief,) = [p for p in listing["problems"] if p["distribution"] == "aaa-thief"]
    assert "already taken by gentle-good" in thief["what"]


def test_a_deny_list_silences_them(site: Path) -> None:
    barred = ",".join(f"-{name}" for name in [*HOSTILE, "aaa-thief"])
    done = gentle(site, "plugins", "list", "--json", plugins=barred, seconds=60)
    found = json.loads(done.stdout)
    assert {p["distribution"] for p in found["problems"]} == set()
    assert {"good/good", "lone/lone"} <= {c["name"] for c in found["components"]}


def test_a_command_that_left_plugins_behind_ends(site: Path) -> None:
    done = gentle(site, "plugins", "info", "lone/lone", plugins="lone,stubborn,infinite")
    assert done.returncode == 0 and done.stdout.startswith("lone/lone (encoder) from lone 7")
