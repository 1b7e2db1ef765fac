"""Discovery: which plugins are installed and what they bring. One that breaks is reported; the others go on.

Three sources, all optional:
    entry-point group `gentle.plugins`   name = owner, value = a module (or object) with hook implementations
    entry-point group `gentle.encoders`  value = an EncoderSpec; the owner is the distribution without "gentle-"
    files given with `--plugin FILE`     a module with hook implementations; the owner is the file's stem
The environment variable GENTLE_PLUGINS, where it is set, lists the owners or distributions that may load; a name with
"-" in front may not, and a list of such names alone leaves the others in.

Each plugin is loaded in a thread of its own, so that one that never comes back can be left behind.
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
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pluggy

from gentle_core import hookspecs
from gentle_core.catalog import HEALTH, Catalog, Entry, Plugin, Problem
from gentle_core.errors import ComponentError
from gentle_core.specs import GENTLE_API, KINDS, OLDEST_API, HealthCheck
from gentle_core.suggest import did_you_mean

PLUGINS, ENCODERS = "gentle.plugins", "gentle.encoders"
CORE = "core"
PATIENCE = 10.0
"""Seconds that a plugin may take to load, unless GENTLE_PLUGIN_SECONDS says otherwise."""

SLOW = 3.0
"""Seconds after which a plugin that loads in the end is called slow."""

MOST = 1000
"""Components of one plugin; a hook that yields without end stops there."""

_LOADING = "GENTLE_LOADING"
"""Set while a plugin loads, to "process:owner": a plugin that starts `gentle` would start itself without end."""

_THREAD = "gentle: loading "
_OWNER = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")
_HOOKS = {
    "gentle_modalities": "modality",
    "gentle_encoders": "encoder",
    "gentle_augmentations": "augmentation",
    "gentle_losses": "loss",
    "gentle_datasets": "dataset",
    "gentle_tasks": "task",
    "gentle_health_checks": HEALTH,
    "gentle_teachers": "teacher",
}
_SPECS = KINDS | {HEALTH: HealthCheck}


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
        allow: owners or distributions that may load, or "-name" for those that may not; None reads GENTLE_PLUGINS, and
            without that all may.
        files: single-file plugins. They load when `enabled` is False too, but the lists hold for them as well.

    Returns:
        The catalog. Its `problems` tell what could not be used; this function itself never raises for a plugin.

    Raises:
        ComponentError: a plugin that is being loaded calls this; or GENTLE_PLUGIN_SECONDS is no number.
    """
    process, _, owner = os.environ.get(_LOADING, "").partition(":")
    thread = threading.current_thread().name
    if (owner and process != str(os.getpid())) or thread.startswith(_THREAD):
        owner = owner or thread.removeprefix(_THREAD)
        raise ComponentError(f"the plugin {owner!r} asks which plugins there are while it is being loaded itself")
    finder = _Finder(_patience())
    finder.take(
        _Source(CORE, "gentle-core", _core_version(), PLUGINS, partial(importlib.import_module, "gentle_core.builtin"))
    )
    sources = list(_installed(finder.problems if enabled else []))
    permitted, barred = _lists(allow)
    paths = {file: Path(file).expanduser().resolve() for file in files}

    def refusal(source: _Source) -> str:
        if barred & source.names:
            return "GENTLE_PLUGINS bars it"
        return "" if permitted is None or permitted & source.names else "GENTLE_PLUGINS does not name it"

    for source in sources:
        if why := refusal(source) if enabled else "plugins are switched off":
            finder.left_out[source.owner] = why
        else:
            finder.take(source)
    known = {n for s in sources for n in s.names} | {_normal(path.stem) for path in paths.values()}
    for name in sorted((permitted or set()) - known - {CORE, "gentle-core"}) if enabled else ():
        what, mend = "may load but is not installed", "install it, or mend GENTLE_PLUGINS"
        finder.problems.append(Problem(name, name, "", what, mend))
    for file, path in paths.items():
        source = _Source(path.stem, str(file), "", PLUGINS, partial(_import_file, path))
        if why := refusal(source):
            finder.left_out[source.owner] = why
            what, mend = f"is not loaded, since {why}", f"add {path.stem!r} there to trust it"
            finder.problems.append(Problem(source.owner, str(file), "", what, mend))
        else:
            finder.take(source)
    return Catalog(finder.entries.values(), finder.plugins, finder.problems, finder.left_out)


class _Finder:
    """Collects entries, plugins and problems, one source after the other."""

    def __init__(self, patience: float) -> None:
        self.entries: dict[tuple[str, str], Entry] = {}
        self.plugins: list[Plugin] = []
        self.problems: list[Problem] = []
        self.left_out: dict[str, str] = {}
        self._patience = patience
        self._owners: dict[str, str] = {}
        self._twice: set[tuple[str, str]] = set()

    def take(self, source: _Source) -> None:
        """Load one source and keep what is sound in it."""
        before, torch_before, start = len(self.entries), "torch" in sys.modules, time.perf_counter()
        with _isolated(source, self.problems, "cannot be loaded"):
            self._claim_owner(source)
            for kind, spec in self._read(source):
                with _isolated(source, self.problems, f"{_describe(spec)} cannot be used"):
                    self._add(source, kind, spec)
        took, brought = time.perf_counter() - start, len(self.entries) - before
        with _isolated(source, self.problems, ""):
            if "torch" in sys.modules and not torch_before:
                raise _Broken(
                    "imports torch when it is discovered, which makes every command slow",
                    "import torch in the modules that its targets name, not in the one with the hooks",
                )
            if SLOW < took < self._patience:
                raise _Broken(
                    f"takes {took:.1f} s to load, and every command waits for it",
                    f"tell its authors, or leave it out: {_without(source)}",
                )
        self.plugins.append(Plugin(source.owner, source.distribution, source.version, took, brought))

    def _read(self, source: _Source) -> list[tuple[str, Any]]:
        """Kind and spec of all that the source brings: a thread loads it, and is left behind if it does not return."""
        reader = _Reader(source)
        if source.owner == CORE:
            reader.run()
        else:
            thread = threading.Thread(target=reader.run, name=_THREAD + source.owner, daemon=True)
            os.environ[_LOADING] = f"{os.getpid()}:{source.owner}"
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    self._wait_for(thread, source)
            finally:
                os.environ.pop(_LOADING, None)
            if thread.is_alive():
                where = _place(traceback.extract_stack(sys._current_frames().get(thread.ident or 0)))
                reader.problems.append(
                    _problem(
                        source,
                        f"does not finish loading within {self._patience:g} s{where}",
                        f"leave it out: {_without(source)}; or give it longer: GENTLE_PLUGIN_SECONDS=60",
                    )
                )
                _stop(thread)
        self.problems += reader.problems
        return list(reader.found)  # a copy: a thread left behind may still add to it

    def _wait_for(self, thread: threading.Thread, source: _Source) -> None:
        torch_before = "torch" in sys.modules
        thread.start()
        thread.join(min(SLOW, self._patience))
        if thread.is_alive() and self._patience > SLOW:
            print(f"gentle: still loading the plugin {source.distribution} {source.version} …", file=sys.stderr)
            thread.join(self._patience - SLOW)
        if not torch_before and "torch" in sys.modules:
            thread.join(max(60.0, self._patience))  # half an import of torch would break the run that comes after

    def _add(self, source: _Source, kind: str, spec: Any) -> None:
        if not _is_a(kind, spec):
            wanted = _SPECS[kind].__name__
            raise _Broken(f"{_describe(spec)} stands where {wanted} belongs", f"give {wanted}")
        if not isinstance(spec.api, int) or not OLDEST_API <= spec.api <= GENTLE_API:
            older = isinstance(spec.api, int) and spec.api < OLDEST_API
            raise _Broken(
                f"{kind} {spec.name!r} was written for plugin interface {spec.api}, this Gentle "
                + (f"reads {OLDEST_API} to {GENTLE_API}" if older else f"has {GENTLE_API}"),
                _upgrade(source) if older else "pip install --upgrade gentle-core",
            )
        entry = Entry(kind, source.owner, spec, source.distribution, source.version)
        first = self.entries.setdefault((kind, entry.full_name), entry)
        if first is not entry and (kind, entry.full_name) not in self._twice:
            self._twice.add((kind, entry.full_name))
            raise _Broken(f"{kind} {entry.full_name} is declared twice; the first counts", "rename one of them")

    def _claim_owner(self, source: _Source) -> None:
        if not _OWNER.fullmatch(source.owner):
            raise _Broken(f"{source.owner!r} is no plugin name", "use lower-case letters, digits, single '-' and '_'")
        holder = self._owners.setdefault(source.owner, source.distribution)
        if holder != source.distribution:
            raise _Broken(f"the name {source.owner!r} is already taken by {holder}", "uninstall one of the two")


class _Reader:
    """Loads one source and asks its hooks; `run` never raises.

    Attributes:
        found: kind and spec of what the source has brought so far.
        problems: what went wrong with it so far.
    """

    def __init__(self, source: _Source):
        self.source = source
        self.found: list[tuple[str, Any]] = []
        self.problems: list[Problem] = []

    def run(self) -> None:
        with _isolated(self.source, self.problems, "cannot be loaded"):
            loaded = self.source.load()
            if self.source.group == ENCODERS:
                self.found.append(("encoder", loaded))
                return
            for name, function in _implementations(loaded):
                with _isolated(self.source, self.problems, f"{name} fails"):
                    self._call(name, function)

    def _call(self, name: str, function: Any) -> None:
        if name not in _HOOKS:
            raise _Broken(
                f"interface {GENTLE_API} has no hook {name}" + did_you_mean(name, _HOOKS),
                "rename the function, or, if the plugin is made for a newer Gentle, pip install --upgrade gentle-core",
            )
        if name in hookspecs.DEPRECATED:
            what, instead = f"{name} is deprecated; it still works", hookspecs.DEPRECATED[name]
            self.problems.append(_problem(self.source, what, f"{instead} ({_upgrade(self.source)} may do)"))
        wanted = _SPECS[_HOOKS[name]].__name__
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(SimpleNamespace(**{name: function}))
        except pluggy.PluginValidationError as error:
            arguments = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)
            raise _Broken(f"{name} has wrong arguments or options", f"write {name}({arguments})") from error
        for result in getattr(manager.hook, name)() or [None]:
            if not isinstance(result, Iterable) or isinstance(result, (str, bytes, dict)):
                raise _Broken(f"{name} returns {_describe(result)}", f"return a list of {wanted}")
            for spec in result:
                if len(self.found) == MOST:
                    raise _Broken(f"it brings more than {MOST} components", f"end the list that {name} gives")
                self.found.append((_HOOKS[name], spec))


@contextlib.contextmanager
def _isolated(source: _Source, problems: list[Problem], doing: str) -> Iterator[None]:
    """Turn whatever a plugin does wrong inside the block into a problem of that plugin."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        what, mend = _explain(error, doing)
        problems.append(_problem(source, what, mend or f"tell its authors, or leave it out: {_without(source)}"))


def _problem(source: _Source, what: str, mend: str) -> Problem:
    return Problem(source.owner, source.distribution, source.version, what, mend)


def _upgrade(source: _Source) -> str:
    return f"pip install --upgrade {source.distribution}" if source.version else "mend the file"


def _without(source: _Source) -> str:
    """How to go on without a plugin."""
    return f"GENTLE_PLUGINS=-{source.distribution}" if source.version else "drop --plugin"


def _stop(thread: threading.Thread) -> None:
    """Ask a thread that is left behind to end, lest it burn a core. One that sleeps or catches everything goes on."""
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


def _place(frames: Iterable[traceback.FrameSummary]) -> str:
    """ " (at file.py:12)": the innermost line that is neither Gentle's nor the import machinery's, if there is one."""
    ours = (os.path.dirname(hookspecs.__file__), os.path.dirname(threading.__file__) + os.sep + "importlib")
    for frame in reversed(list(frames)):
        if not frame.filename.startswith((*ours, "<")) and os.path.dirname(pluggy.__file__) not in frame.filename:
            return f" (at {os.sep.join(Path(frame.filename).parts[-2:])}:{frame.lineno})"
    return ""


def _explain(error: BaseException, doing: str) -> tuple[str, str]:
    """What an exception means to somebody who only wants to use the plugin, and a remedy where there is one."""
    if isinstance(error, _Broken):
        return error.what, error.mend
    if isinstance(error, SystemExit):
        return f"{doing}: it tries to end the program (SystemExit: {error.code}){_raised_at(error)}", ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = text if len(text) <= 300 else text[:297] + "…"
    text += _raised_at(error)
    if isinstance(error, TypeError) and "Spec" in text and "unexpected keyword argument" in text:
        mend = "mend the name, or, if the plugin is made for a newer Gentle, pip install --upgrade gentle-core"
        return f"{doing}: {text}", mend
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{doing}: {text}", f"install what provides the module {error.name!r}, or update the plugin"
    return f"{doing}: {text}", ""


def _raised_at(error: BaseException) -> str:
    return _place(traceback.extract_tb(error.__traceback__, limit=-20))


def _is_a(kind: str, spec: Any) -> bool:
    return isinstance(spec, _SPECS[kind])


def _describe(thing: Any) -> str:
    name = vars(thing).get("name") if hasattr(thing, "__dict__") else getattr(thing, "name", None)
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
    Metadata is parsed only where the entry points speak of Gentle, which saves most of the time.
    """
    sources: list[_Source] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name, version = "", ""
        try:
            if (text := distribution.read_text("entry_points.txt")) is None or "[gentle." not in text:
                continue
            name, version = _normal(distribution.metadata["Name"]), distribution.version
            if name in seen or _shadowed(name, text):
                continue
            seen.add(name)
            for point in distribution.entry_points:
                if point.group == PLUGINS:
                    sources.append(_Source(point.name, name, version, PLUGINS, point.load))
                elif point.group == ENCODERS:
                    sources.append(_Source(name.removeprefix("gentle-"), name, version, ENCODERS, point.load))
        except Exception as error:
            what, _ = _explain(error, "its metadata cannot be read")
            folder = str(getattr(distribution, "_path", "a distribution without a name"))
            name = name or _normal(Path(folder).stem)
            mend = f"reinstall {name}: other programs read these files too, and torch does not start with a broken one"
            problems.append(Problem(name.removeprefix("gentle-"), name, version, what, mend))
    yield from sorted(sources, key=lambda s: (s.owner, s.distribution != f"gentle-{s.owner}", s.distribution, s.group))


def installed_owners() -> list[str]:
    """Owners of the installed plugins that GENTLE_PLUGINS lets load. None of their code is loaded."""
    permitted, barred = _lists(None)
    found = [s for s in _installed([]) if not barred & s.names and (permitted is None or permitted & s.names)]
    return sorted({source.owner for source in found})


def _shadowed(name: str, text: str) -> bool:
    """Whether another copy of the distribution comes first on sys.path, with other entry points than these."""
    try:
        return importlib.metadata.distribution(name).read_text("entry_points.txt") != text
    except importlib.metadata.PackageNotFoundError:
        return False


def _lists(allow: Iterable[str] | None) -> tuple[set[str] | None, set[str]]:
    """The names that may load (None: all) and those that may not."""
    if allow is None:
        if (listed := os.environ.get("GENTLE_PLUGINS")) is None:
            return None, set()
        allow = listed.split(",")
    names = [name.strip() for name in allow if name.strip()]
    barred = {_normal(name[1:]) for name in names if name.startswith("-")}
    permitted = {_normal(name) for name in names if not name.startswith("-")}
    return (None if barred and not permitted else permitted), barred


def _patience() -> float:
    text = os.environ.get("GENTLE_PLUGIN_SECONDS", "")
    try:
        seconds = float(text or PATIENCE)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise ComponentError(f"GENTLE_PLUGIN_SECONDS={text!r}: give a number of seconds, 30 for instance")
    return seconds


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
