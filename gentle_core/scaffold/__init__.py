"""`gentle new plugin`: a plugin that works at once, as a package or a single file, or a package made of such a file.

The templates lie beside this module. What is in `parts` is shared by the package and the single file.
"""

from __future__ import annotations

import ast
import datetime
import importlib.util
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from gentle_core import __version__
from gentle_core.catalog import Catalog
from gentle_core.errors import ComponentError, DataError
from gentle_core.plugins import discover

TEMPLATES = Path(__file__).parent / "templates"
BANDS, PAIRED = 16, 60
LONGEST = 40
"""Letters of a plugin's name, so that what is made with it keeps to lines of 120."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")


@attrs.frozen
class Made:
    """What was made: where, which files, and remarks for the user."""

    path: Path
    files: tuple[Path, ...]
    names: Names
    notes: tuple[str, ...] = ()


@attrs.frozen
class Names:
    """A plugin's names: `my-audio` belongs to distribution gentle-my-audio, package gentle_my_audio, file my_audio.py.

    Attributes:
        owner: what recipes write before the slash.
    """

    owner: str

    @property
    def distribution(self) -> str:
        return f"gentle-{self.owner.replace('_', '-')}"

    @property
    def module(self) -> str:
        return self.owner.replace("-", "_")

    @property
    def package(self) -> str:
        return f"gentle_{self.module}"


def new_file(name: str, folder: Path) -> Made:
    """A plugin in a single file with a recipe beside it.

    Raises:
        ComponentError: the name cannot be used.
        DataError: there is a file of that name.
    """
    _check_name(name)
    names = Names(name.replace("-", "_"))  # the owner is the file's name
    if names.module in sys.stdlib_module_names or _importable(names.module, folder):
        raise ComponentError(f"the name {names.module!r} belongs to another Python module: choose another one")
    _check_free(names, _installed())
    values = {**_values(names), "single": True}
    texts = {Path(path): text for path, text in _rendered("single", names, values)}
    for path in texts:
        if (folder / path).exists():
            raise DataError(f"{folder / path} exists already: choose another name, or another folder with --into")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        (folder / path).write_text(text, encoding="utf-8")
    return Made(folder, tuple(sorted(texts)), names)


def new_package(name: str, folder: Path) -> Made:
    """A plugin as a package in `folder/gentle-<name>`.

    Raises:
        ComponentError: the name cannot be used, or is taken by an installed plugin.
        DataError: the folder exists.
    """
    _check_name(name)
    names = Names(name)
    _check_free(names, _installed())
    values = {**_values(names), "recipe": True, "components": _FRESH}
    values["components"] = [(f"{name}/{name}-{component}", kind, text) for component, kind, text in _FRESH]
    return _write(folder / names.distribution, names, dict(_rendered("package", names, values)))


def package_from(file: Path, name: str | None, folder: Path) -> Made:
    """A package in `folder/gentle-<name>` around the single-file plugin `file`, whose text is kept.

    Recipes beside it that name the plugin go along. The owner stays, unless `name` is another one.

    Raises:
        ComponentError: the file does not load as a plugin, or the name cannot be used.
        DataError: the file cannot be read, needs files beside it, or the folder exists.
    """
    file = file.expanduser().resolve()
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    names = Names(file.stem if name is None else name)
    _check_name(names.owner)
    catalog = discover(files=[file])
    _check_free(names, catalog, but=file)
    for problem in catalog.problems:
        if problem.distribution == str(file):
            raise ComponentError(f"{file.name} does not load as it is: {problem.what}; {problem.mend}")
    entries = [entry for entry in catalog if entry.distribution == str(file)]
    if not entries:
        raise ComponentError(f"{file.name} announces no component: write a hook, gentle_encoders for instance")
    if beside := sorted(_imported_from_beside(file)):
        raise DataError(f"{file.name} imports {', '.join(beside)} from its folder: move what it needs into it first")

    text, renamed = _with_targets(file.read_text(encoding="utf-8"), file.stem, f"{names.package}.plugin")
    notes = [f'{renamed} targets changed from "{file.stem}:…" to "{names.package}.plugin:…"'] if renamed else []
    recipes = {path.name: path.read_text(encoding="utf-8") for path in sorted(file.parent.glob("*.toml"))
               if _names_owner(path, file.stem)}  # fmt: skip
    if names.owner != file.stem:
        recipes = {key: recipe.replace(f'"{file.stem}/', f'"{names.owner}/') for key, recipe in recipes.items()}
        notes.append(f"recipes now write {names.owner}/… instead of {file.stem}/…")
    values = {**_values(names), "source": file.name, "recipe": next(iter(recipes), "").removesuffix(".toml")}
    values["components"] = [
        (f"{names.owner}/{e.name}", e.kind, e.spec.summary) for e in entries if e.kind != "modality"
    ]
    texts = dict(_rendered("package", names, values))
    for unused in ("encoders.py", "data.py"):
        texts.pop(f"{names.package}/{unused}")
    texts.pop(f"recipes/{names.module}.toml")
    texts[f"{names.package}/plugin.py"] = text
    if not recipes:
        texts.pop("tests/test_recipes.py")
    return _write(folder / names.distribution, names, texts | {f"recipes/{k}": v for k, v in recipes.items()}, notes)


_FRESH = (
    ("cnn", "encoder", "signals, one convolution"),
    ("words", "encoder", "text, embeddings of words"),
    ("pairs", "dataset", "signals and the words that name them"),
    ("noise", "augmentation", "normal noise on a signal"),
    ("forget", "augmentation", "leaves words out"),
)


def _values(names: Names) -> dict[str, Any]:
    return {
        "owner": names.owner, "distribution": names.distribution, "package": names.package, "module": names.module,
        "modality": names.owner, "bands": BANDS, "paired": PAIRED, "author": _author(names), "gentle": __version__,
        "year": datetime.date.today().year, "summary": f"A plugin for Gentle: {names.owner}", "single": False,
    }  # fmt: skip


def _rendered(kind: str, names: Names, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and text of every file of a kind of plugin."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=False
    )
    values = {"source": "", "recipe": "", "components": (), "configs": "", **values}
    for template in sorted((TEMPLATES / kind).rglob("*.jinja")):
        path = template.relative_to(TEMPLATES / kind).as_posix().removesuffix(".jinja")
        for word, meant in {"PACKAGE": names.package, "MODULE": names.module, "dot-": "."}.items():
            path = path.replace(word, meant)
        text = environment.get_template(template.relative_to(TEMPLATES).as_posix()).render(values)
        yield path, text.rstrip("\n") + "\n"


def _write(path: Path, names: Names, texts: Mapping[str, str], notes: list[str] | None = None) -> Made:
    """All files or none: they are written beside the folder, which then takes its name."""
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise DataError(f"{path} exists already: choose another name, or another folder with --into")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        for name, text in texts.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
        partial.chmod(0o777 & ~_umask())
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Made(path, tuple(Path(name) for name in sorted(texts)), names, tuple(notes or ()))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# -- names -----------------------------------------------------------------------------------------------------------


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        close = re.sub(r"[^a-z0-9]+", "-", plain.removeprefix("gentle-")).strip("-0123456789")
        hint = f" — {close!r} for instance" if _NAME.fullmatch(close) else ""
        raise ComponentError(f"{name!r} is no plugin name: use lower-case letters, digits and single '-'{hint}")
    if len(name) > LONGEST:
        raise ComponentError(f"{name!r} has {len(name)} letters; {LONGEST} are the most that fit: choose a shorter one")
    if name.startswith(("gentle-", "gentle_")):
        raise ComponentError(f"leave 'gentle-' out: the distribution of {name[7:]!r} will be called gentle-{name[7:]}")
    if name in ("core", "text") or keyword.iskeyword(name):
        meaning = "a word of Python" if keyword.iskeyword(name) else "a word of Gentle's own"
        raise ComponentError(f"{name!r} is {meaning}: choose another name")


def _installed() -> Catalog:
    return discover()


def _check_free(names: Names, catalog: Catalog, but: Path | None = None) -> None:
    for plugin in catalog.plugins:
        if plugin.owner.replace("-", "_") == names.module and plugin.distribution != str(but):
            raise ComponentError(
                f"the name {names.owner!r} is taken by the installed plugin {plugin.distribution} {plugin.version}: "
                "choose another one"
            )


def _importable(module: str, folder: Path) -> bool:
    """Whether a module of that name comes from somewhere else than `folder`."""
    found = importlib.util.find_spec(module)
    return found is not None and (found.origin is None or Path(found.origin).resolve().parent != folder.resolve())


def _author(names: Names) -> str:
    """The name git knows its user by, or a word for whoever it is."""
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, timeout=5, check=True)
        return " ".join(done.stdout.split()) or f"The {names.distribution} authors"
    except (OSError, subprocess.SubprocessError):
        return f"The {names.distribution} authors"


# -- making a package of a file --------------------------------------------------------------------------------------


def _imported_from_beside(file: Path) -> set[str]:
    """Modules that `file` imports from its own folder."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in {name.partition(".")[0] for name in modules} - {"", file.stem}:
            if (file.parent / f"{module}.py").is_file() or (file.parent / module / "__init__.py").is_file():
                found.add(module)
    return found


def _with_targets(text: str, old: str, new: str) -> tuple[str, int]:
    """`text` with targets "old:factory" written as "new:factory" in its string literals, and how many there were."""
    lines, count = text.splitlines(keepends=True), 0
    strings = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    for node in sorted(strings, key=lambda n: (n.lineno, n.col_offset), reverse=True):
        if isinstance(node.value, str) and re.fullmatch(rf"{re.escape(old)}:[A-Za-z_][\w.]*", node.value):
            before = "".join(lines)
            line = lines[node.lineno - 1].encode()
            head, tail = line[: node.col_offset].decode(), line[node.col_offset :].decode()
            lines[node.lineno - 1] = head + tail.replace(f"{old}:", f"{new}:", 1)
            count += "".join(lines) != before
    return "".join(lines), count


def _names_owner(recipe: Path, owner: str) -> bool:
    """Whether a recipe names a component of `owner`."""
    return (
        re.search(rf"""use\s*=\s*["']{re.escape(owner)}/""", recipe.read_text(encoding="utf-8", errors="replace"))
        is not None
    )
