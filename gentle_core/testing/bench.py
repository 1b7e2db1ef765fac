"""Where a plugin's components are tried: how they are built, and where their inputs come from.

Options of a component: `configs` of the test, else its spec's `example`, else its defaults.
Raw items of a modality: `samples` of the test, else the plugin's own (its modality spec's `samples`, then its
datasets), else those of any other plugin: several may share a modality.
"""

from __future__ import annotations

import importlib
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from gentle_core.batch import BuildContext
from gentle_core.catalog import Catalog, Entry
from gentle_core.errors import ComponentError, GentleError
from gentle_core.factory import create
from gentle_core.plugins import discover
from gentle_core.recipe.load import component_config
from gentle_core.recipe.structure import Invalid, structure
from gentle_core.split_lists import SPLITS
from gentle_core.suggest import did_you_mean
from gentle_core.testing.cases import CHECKS, Case, NotApplicable, Violation

Samples = Sequence[Any] | Callable[[], Sequence[Any]]

ITEMS = 6
"""Raw items of a modality that are tried."""
TOWERS = ("a", "b", "c")
DIMENSION = 6
"""Of the joint space in which losses are tried."""


class Bench:
    """A plugin and what it is tried with.

    Args:
        plugin: its owner, or its distribution.
        configs: options by component name, instead of the spec's `example`.
        samples: raw items by modality, or a function that returns them.
        files: single-file plugins to load.
        only: names of the components to try; empty for all.
        catalog: what is installed; discovered where it is not given.

    Raises:
        ComponentError: there is no such plugin, or no such component of it.
    """

    def __init__(
        self,
        plugin: str,
        *,
        configs: Mapping[str, Mapping[str, Any]] | None = None,
        samples: Mapping[str, Samples] | None = None,
        files: Sequence[str | Path] = (),
        only: Iterable[str] = (),
        catalog: Catalog | None = None,
    ):
        self.catalog = discover(files=files) if catalog is None else catalog
        self.configs, self.samples = dict(configs or {}), dict(samples or {})
        found = [p for p in self.catalog.plugins if plugin in (p.owner, p.distribution)]
        if not found:
            raise ComponentError(self._no_plugin(plugin))
        self.plugin, self.owner = found[0], found[0].owner
        self.entries = [entry for entry in self.catalog if entry.owner == self.owner]
        only = set(only)
        for name in (only | self.configs.keys()) - {n for e in self.entries for n in (e.name, e.full_name)}:
            known = [entry.name for entry in self.entries]
            raise ComponentError(f"plugin {self.owner!r} has no component {name!r}{did_you_mean(name, known)}")
        self.whole = not only
        if only:
            self.entries = [entry for entry in self.entries if {entry.name, entry.full_name} & only]
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._items: dict[str, list[Any] | str] = {}
        self._memory: dict[str, Any] = {}

    def _no_plugin(self, name: str) -> str:
        broken = [problem for problem in self.catalog.problems if name in (problem.owner, problem.distribution)]
        if broken:
            return f"plugin {broken[0]}"
        known = [n for p in self.catalog.plugins for n in (p.owner, p.distribution)]
        return f"there is no plugin {name!r}; install it (pip install -e .)" + did_you_mean(name, known)

    @property
    def files(self) -> tuple[str, ...]:
        """The plugin's file, if it is a single one."""
        return () if self.plugin.version else (str(Path(self.plugin.distribution).expanduser().resolve()),)

    @property
    def folder(self) -> Path:
        """A temporary folder of this bench."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="gentle-conformance-")
        return Path(self._folder.name)

    def cases(self, quick: bool = False) -> list[Case]:
        """Every check of every component, the plugin's own first. `quick` leaves out what loads torch."""
        from gentle_core.testing import component, plugin  # noqa: F401 - make the checks

        if not quick:
            from gentle_core.testing import augmentations, datasets, encoders, losses, tasks, teachers  # noqa: F401
        wanted = [check for check in CHECKS if check.quick or not quick]
        found = [Case(c, self.owner) for c in wanted if c.kind == "plugin" and self.whole]
        for entry in self.entries:
            kinds = {entry.kind} if entry.kind == "modality" else {entry.kind, "component"}
            found += [Case(c, self.owner, entry) for c in wanted if c.kind in kinds]
        return found

    # -- inputs ------------------------------------------------------------------------------------------------------

    def options(self, entry: Entry) -> Mapping[str, Any]:
        """The options with which a component is tried.

        Raises:
            Violation: its spec's `example` cannot be used.
        """
        return self.remembered(f"options of {entry.kind} {entry.full_name}", lambda: self._find_options(entry))

    def _find_options(self, entry: Entry) -> Mapping[str, Any]:
        for name in (entry.full_name, entry.name):
            if name in self.configs:
                return self.configs[name]
        example = entry.spec.example
        if not isinstance(example, str):
            return example or {}
        folder = self.folder / entry.kind / entry.name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return imported(example)(folder)
        except Exception as error:
            raise Violation(
                f"example={example!r} fails: {one_line(error)}",
                "make it a function that takes a folder, may write small files there, and returns a table of options",
            ) from error

    def config(self, entry: Entry) -> Any:
        """The typed options with which a component is tried.

        Raises:
            Violation: an example or a default that does not fit.
            NotApplicable: it has an option without a default, and no example.
        """
        options = self.options(entry)
        try:
            return structure(dict(options), entry.spec.config)
        except Invalid as error:
            missing = [str(path[0]) for path, message in error.faults if path and message.startswith("is missing")]
            if not options and not missing:
                raise NotApplicable(
                    f"its defaults make no component ({error}): give the spec an example={{…}}, or pass "
                    f"configs={{{entry.name!r}: {{…}}}}"
                ) from error
            if missing and not options:
                raise NotApplicable(
                    f"its option {missing[0]!r} has no default: give the spec an example={{…}}, or "
                    f"example='package.module:function' if that takes files; or pass configs={{{entry.name!r}: {{…}}}}"
                ) from error
            raise Violation(
                f"the options {dict(options)!r} do not fit its config class: {error}",
                "mend the spec's example (or the configs of the test)",
            ) from error

    def build(
        self,
        entry: Entry,
        *,
        seed: int = 0,
        load_weights: bool = True,
        options: Mapping[str, Any] | None = None,
        dimensions: Mapping[str, int] | None = None,
    ) -> Any:
        """A fresh component.

        Raises:
            Violation: it cannot be built with its example.
            NotApplicable: it cannot be built with its defaults, for want of data or weights.
        """
        import torch

        config = self.config(entry) if options is None else component_config(entry, options)
        torch.manual_seed(seed)
        try:
            return create(entry, config, self.context(seed, load_weights, dimensions))
        except GentleError as error:
            if not isinstance(error, ComponentError) and not self.options(entry):
                raise NotApplicable(
                    f"it cannot be built with its defaults here ({one_line(error)}): give the spec an example={{…}}"
                ) from error
            raise Violation(f"it cannot be built: {one_line(error)}", _mend_building(error)) from error

    def context(
        self, seed: int = 0, load_weights: bool = True, dimensions: Mapping[str, int] | None = None
    ) -> BuildContext:
        """A context like the one of a run with the towers "a", "b" and "c"."""

        def part(use: str, options: Mapping[str, Any]) -> Any:
            entry = self.catalog.get("loss", use)
            return create(entry, component_config(entry, options), context)

        cache = self.folder / "cache"
        cache.mkdir(exist_ok=True)
        context = BuildContext(
            cache_dir=cache, seed=seed, load_weights=load_weights, loss=part,
            pairs=tuple(itertools.combinations(TOWERS, 2)), dimensions=dimensions or dict.fromkeys(TOWERS, DIMENSION),
        )  # fmt: skip
        return context

    def items(self, modality: str) -> list[Any]:
        """A few raw items that a component for `modality` must take.

        Raises:
            NotApplicable: nobody provides any.
        """
        if modality not in self._items:
            self._items[modality] = self._find_items(modality)
        found = self._items[modality]
        if isinstance(found, str):
            raise NotApplicable(found)
        return found

    def _find_items(self, modality: str) -> list[Any] | str:
        if modality in self.samples:
            given = self.samples[modality]
            return _spread(given() if callable(given) else given)
        tried: list[str] = []
        sources = [*self.catalog.entries("modality"), *self.catalog.entries("dataset")]
        for entry in sorted(sources, key=lambda e: e.owner != self.owner):  # its own first, modalities before datasets
            if entry.kind == "modality":
                if entry.spec.samples and self.catalog.reads(modality, entry.name):
                    return _spread(imported(entry.spec.samples)())
                continue
            for yielded in entry.spec.modalities:
                if not self.catalog.reads(modality, yielded):
                    continue
                try:
                    dataset = self.dataset(entry)
                    index = next(i for split in SPLITS if yielded in (i := dataset.index(split)))
                    return dataset.load(yielded, _spread(index[yielded].items))
                except NotApplicable:
                    tried.append(f"{entry.full_name} needs an example")
                except Exception as error:
                    tried.append(f"{entry.full_name}: {one_line(error)}")
        return (
            f"no raw items of modality {modality!r} to try: give its ModalitySpec samples='package.module:function', "
            f"add a dataset that yields it, or pass samples={{{modality!r}: […]}}"
            + (f" (tried: {', '.join(dict.fromkeys(tried))})" if tried else "")
        )

    def dataset(self, entry: Entry) -> Any:
        """A dataset, built once."""
        return self.remembered(f"dataset {entry.full_name}", lambda: self.build(entry))

    def remembered(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` returned when it was first asked for under `key`."""
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]


@attrs.frozen
class Subject:
    """What a check looks at: a component (or, without `entry`, the plugin) on its bench."""

    bench: Bench
    entry: Entry

    @property
    def spec(self) -> Any:
        return self.entry.spec

    def config(self) -> Any:
        return self.bench.config(self.entry)

    def build(self, **options: Any) -> Any:
        return self.bench.build(self.entry, **options)

    def items(self, modality: str | None = None) -> list[Any]:
        """Raw items that it takes."""
        return self.bench.items(self.spec.modality if modality is None else modality)

    def modalities(self) -> Iterator[str]:
        """Those of its modalities of which there are raw items.

        Raises:
            NotApplicable: there are items of none.
        """
        reasons = []
        for modality in self.spec.modalities:
            try:
                self.bench.items(modality)
            except NotApplicable as reason:
                reasons.append(str(reason))
            else:
                yield modality
        if len(reasons) == len(self.spec.modalities):
            raise NotApplicable(reasons[0])


def imported(target: str) -> Any:
    """What "package.module:attribute" names."""
    module, _, attribute = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def one_line(error: BaseException) -> str:
    """An exception as one line; what a user is told as it stands, anything else with its type."""
    text = " ".join(str(error).split())
    return text if text and isinstance(error, (GentleError, Violation)) else f"{type(error).__name__}: {text}"


def _spread(items: Sequence[Any]) -> list[Any]:
    """A few of the items, from all over."""
    step = max(len(items) // ITEMS, 1)
    return list(items[::step][:ITEMS])


def _mend_building(error: GentleError) -> str:
    if isinstance(error, ComponentError):
        return "mend the factory that its target names, or the target"
    return "give the spec an example with which it can be built without a network or files of your own"
