"""A virtual environment of its own for a test, which sees the packages of the one that runs the tests. No network."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import attrs


@attrs.frozen
class Environment:
    """A virtual environment in which shell commands run as a user types them.

    Attributes:
        folder: where it lies.
        variables: of the commands' environment.
    """

    folder: Path
    variables: dict[str, str]

    def run(self, command: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Bash runs `command`, and stops at the first part that fails; output and errors come as one text."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=cwd, env={**self.variables, **more}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200,
        )  # fmt: skip


def make(folder: Path) -> Environment:
    """A virtual environment in `folder`. pip installs from local folders alone, with the build backends at hand."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=100)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    outer = [path for path in sys.path if path.endswith("site-packages")]
    (own / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in outer))
    commands = {"gentle": "gentle_core.cli:main", "pip": "pip._internal.cli.main:main", "pytest": "pytest:main"}
    for name, target in commands.items():
        module, _, function = target.partition(":")
        script = folder / "bin" / name
        script.write_text(
            f"#!{folder / 'bin' / 'python'}\nimport sys\nfrom {module} import {function} as main\nsys.exit(main())\n"
        )
        script.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GENTLE_", "PIP_", "PYTHON"))}
    variables = {
        **kept,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(folder),
        "GENTLE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",  # what the tests run with is there
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as: no isolation
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    return Environment(folder, variables)
