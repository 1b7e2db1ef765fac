"""Discovery: which plugins are installed and what they bring. One that breaks is reported; the others go on.

Three sources, all optional:
    entry-point group `gentle.plugins`   name = owner, value = a module (or object) with hook implementations
    entry-point group `gentle.encoders`  value = an EncoderSpec; the owner is the distribution without "gentle-"
    files given with `--plugin FILE`     a module with hook implementations; the owner is the file's stem
The environment variable GENTLE_PLUGINS, where it is set, lists the owners or distributions that may load.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pluggy

from gentle_core import hookspecs
from gentle_core.catalog import Catalog, Entry, Plugin, Problem
from gentle_core.specs import GENTLE_API, KINDS
from gentle_core.suggest import did_you_mean

PLUGINS, ENCODERS = "gentle.plugins", "gentle.encoders"
CORE = "core"
_OWNER = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")
_HOOKS = {
    "gentle_modalities": "modality",
    "gentle_encoders": "encoder",
    "gentle_augmentations": "augmentation",
    "gentle_losses": "loss",
    "gentle_datasets": "dataset",
    "gentle_tasks": "task",
}


@attrs.frozen
class _Source:
    """Something that may bring components. `load` imports it and returns the object with hooks, or the spec."""

    owner: str
    distribution: str
    version: str
    group: str
    load: Callable[[], Any] = attrs.field(eq=False)

    @property
    def names(self) -> set[str]:
        """The names by which an allow-list may mean it."""
        return {_normal(self.owner), self.distribution}


class _Broken(Exception):
    """A defect found by Gentle itself: what is wrong, and how to mend it."""

    def __init__(self, what: str, mend: str = ""):
        super().__init__(what)
        self.what, self.mend = what, mend


def discover(*, enabled: bool = True, allow: Iterable[str] | None = None, files: Sequence[str | Path] = ()) -> Catalog:
    """Everything that is installed.

    Args:
        enabled: False leaves out all that is installed beside the core (files still load).
        allow: owners or distributions that may load; None reads GENTLE_PLUGINS, and without that all may.
        files: single-file plugins. They load when `enabled` is False too, but an allow-list must name them.

    Returns:
        The catalog. Its `problems` tell what could not be used; this function itself never raises for a plugin.
    """
    finder = _Finder()
    finder.take(
        _Source(CORE, "gentle-core", _core_version(), PLUGINS, partial(importlib.import_module, "gentle_core.builtin"))
    )
    sources = list(_installed(finder.problems if enabled else []))
    listed = _allow_list(allow)
    permitted = listed if enabled else set()
    paths = {file: Path(file).expanduser().resolve() for file in files}
    for source in sources:
        if permitted is None or permitted & source.names:
            finder.take(source)
        else:
            finder.left_out[source.owner] = "GENTLE_PLUGINS does not name it" if enabled else "plugins are switched off"
    known = {n for s in sources for n in s.names} | {_normal(path.stem) for path in paths.values()}
    for name in sorted((permitted or set()) - known - {CORE, "gentle-core"}):
        what, mend = "may load but is not installed", "install it, or mend GENTLE_PLUGINS"
        finder.problems.append(Problem(name, name, "", what, mend))
    for file, path in paths.items():
        source = _Source(path.stem, str(file), "", PLUGINS, partial(_import_file, path))
        if listed is None or listed & source.names:
            finder.take(source)
        else:
            finder.left_out[source.owner] = "GENTLE_PLUGINS does not name it"
            what, mend = "is not loaded, since GENTLE_PLUGINS does not name it", f"add {path.stem!r} there to trust it"
            finder.problems.append(Problem(source.owner, str(file), "", what, mend))
    return Catalog(finder.entries.values(), finder.plugins, finder.problems, finder.left_out)


class _Finder:
    """Collects entries, plugins and problems, one source after the other."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], Entry] = {}
        self.plugins: list[Plugin] = []
        self.problems: list[Problem] = []
        self.left_out: dict[str, str] = {}
        self._owners: dict[str, str] = {}

    def take(self, source: _Source) -> None:
        """Load one source and keep what is sound in it."""
        before, torch_before, start = len(self.entries), "torch" in sys.modules, time.perf_counter()
        with self._isolated(source, "cannot be loaded"), contextlib.redirect_stdout(sys.stderr):
            self._claim_owner(source)
            loaded = source.load()
            if source.group == ENCODERS:
                self._add(source, "encoder", loaded)
            else:
                self._call_hooks(source, loaded)
            if "torch" in sys.modules and not torch_before:
                raise _Broken(
                    "imports torch when it is discovered, which makes every command slow",
                    "import torch in the modules that its targets name, not in the one with the hooks",
                )
        took, brought = time.perf_counter() - start, len(self.entries) - before
        self.plugins.append(Plugin(source.owner, source.distribution, source.version, took, brought))

    def _claim_owner(self, source: _Source) -> None:
        if not _OWNER.fullmatch(source.owner):
            raise _Broken(f"{source.owner!r} is no plugin name", "use lower-case letters, digits, single '-' and '_'")
        holder = self._owners.setdefault(source.owner, source.distribution)
        if holder != source.distribution:
            raise _Broken(f"the name {source.owner!r} is already taken by {holder}", "uninstall one of the two")

    def _call_hooks(self, source: _Source, plugin: Any) -> None:
        for name, function in _implementations(plugin):
            with self._isolated(source, f"{name} fails"):
                if name not in _HOOKS:
                    raise _Broken(f"there is no hook {name}" + did_you_mean(name, _HOOKS), "rename the function")
                manager = pluggy.PluginManager(hookspecs.PROJECT)
                manager.add_hookspecs(hookspecs)
                try:
                    manager.register(SimpleNamespace(**{name: function}))
                except pluggy.PluginValidationError as error:
                    wanted = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)
                    raise _Broken(f"{name} has wrong arguments or options", f"write {name}({wanted})") from error
                for result in getattr(manager.hook, name)() or [None]:
                    self._take_result(source, name, result)

    def _take_result(self, source: _Source, name: str, result: Any) -> None:
        if not isinstance(result, Iterable) or isinstance(result, (str, bytes, dict)):
            wanted = KINDS[_HOOKS[name]].__name__
            raise _Broken(f"{name} returns {_describe(result)}", f"return a list of {wanted}")
        for spec in result:
            self._add(source, _HOOKS[name], spec)

    def _add(self, source: _Source, kind: str, spec: Any) -> None:
        with self._isolated(source, f"{_describe(spec)} cannot be used"):
            if not _is_a(kind, spec):
                wanted = KINDS[kind].__name__
                raise _Broken(f"{_describe(spec)} stands where {wanted} belongs", f"give {wanted}")
            if not isinstance(spec.api, int) or spec.api > GENTLE_API:
                raise _Broken(
                    f"{kind} {spec.name!r} was written for plugin interface {spec.api}, this Gentle has {GENTLE_API}",
                    "pip install --upgrade gentle-core",
                )
            entry = Entry(kind, source.owner, spec, source.distribution, source.version)
            first = self.entries.setdefault((kind, entry.full_name), entry)
            if first is not entry:
                raise _Broken(f"{kind} {entry.full_name} is declared twice; the first counts", "rename one of them")

    @contextlib.contextmanager
    def _isolated(self, source: _Source, doing: str) -> Iterator[None]:
        """Turn whatever a plugin does wrong inside the block into a problem of that plugin."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            what, mend = _explain(error, doing)
            out = f"pip uninstall {source.distribution}" if source.version else "mend the file"
            mend = mend or f"tell its authors, or leave it out: {out}"
            self.problems.append(Problem(source.owner, source.distribution, source.version, what, mend))


def _explain(error: BaseException, doing: str) -> tuple[str, str]:
    """What an exception means to somebody who only wants to use the plugin, and a remedy where there is one."""
    if isinstance(error, _Broken):
        return error.what, error.mend
    if isinstance(error, SystemExit):
        return f"{doing}: it tries to end the program (SystemExit: {error.code})", ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = text if len(text) <= 300 else text[:297] + "…"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{doing}: {text}", f"install what provides the module {error.name!r}, or update the plugin"
    return f"{doing}: {text}", ""


def _is_a(kind: str, spec: Any) -> bool:
    return isinstance(spec, KINDS[kind])


def _describe(thing: Any) -> str:
    name = getattr(thing, "name", None)
    return f"{type(thing).__name__} {name!r}" if isinstance(name, str) else f"{type(thing).__name__}"


def _implementations(plugin: Any) -> list[tuple[str, Any]]:
    """Hook name and function of every hook implementation, in the order of their attribute names."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    found = []
    for attribute in dir(plugin):
        if (options := manager.parse_hookimpl_opts(plugin, attribute)) is not None:
            found.append((options.get("specname") or attribute, getattr(plugin, attribute)))
    return found


def _installed(problems: list[Problem]) -> Iterator[_Source]:
    """Sources among the installed distributions. With one owner claimed twice, `gentle-<owner>` comes first.

    Distributions are read one by one: importlib.metadata.entry_points() fails as a whole when one file is malformed.
    """
    sources: list[_Source] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name, version = "?", ""
        try:
            name = _normal(distribution.metadata["Name"])
            if name in seen:  # a second copy further down sys.path is shadowed by the first
                continue
            seen.add(name)
            version = distribution.version
            for point in distribution.entry_points:
                if point.group == PLUGINS:
                    sources.append(_Source(point.name, name, version, PLUGINS, point.load))
                elif point.group == ENCODERS:
                    sources.append(_Source(name.removeprefix("gentle-"), name, version, ENCODERS, point.load))
        except Exception as error:
            what, _ = _explain(error, "its metadata cannot be read")
            # An unreadable stranger is none of our business; one that carries our name is.
            if name.startswith("gentle-"):
                problems.append(Problem(name.removeprefix("gentle-"), name, version, what, f"reinstall {name}"))
    yield from sorted(sources, key=lambda s: (s.owner, s.distribution != f"gentle-{s.owner}", s.distribution, s.group))


def _allow_list(allow: Iterable[str] | None) -> set[str] | None:
    if allow is None:
        if (listed := os.environ.get("GENTLE_PLUGINS")) is None:
            return None
        allow = listed.split(",")
    return {_normal(name.strip()) for name in allow if name.strip()}


def _normal(name: str) -> str:
    """The canonical form of a distribution's name (PyPA: lower case, runs of '-', '_', '.' become '-')."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _core_version() -> str:
    from gentle_core import __version__

    return __version__


def _import_file(path: Path) -> Any:
    """Import a single-file plugin under its stem, so that targets such as "audio:build" find it, in workers too."""
    if not path.is_file():
        raise _Broken(f"there is no file {path}", "give the path of a Python file")
    if path.suffix != ".py":
        raise _Broken(f"{path.name} is not a Python file", "give a file that ends in .py")
    if not path.stem.isidentifier():
        raise _Broken(f"{path.stem!r} cannot be imported", "rename the file: letters, digits and '_'")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
        importlib.invalidate_caches()
    found = importlib.util.find_spec(path.stem)
    if found is None or found.origin is None or Path(found.origin).resolve() != path:
        raise _Broken(f"the name {path.stem!r} already belongs to another module", "rename the file")
    return importlib.import_module(path.stem)
