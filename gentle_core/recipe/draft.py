"""A recipe on its way from plain values to the typed object: as far as it is sound, with everything that is not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from gentle_core.builtin import hints, needs
from gentle_core.catalog import Catalog, Entry
from gentle_core.errors import ComponentError
from gentle_core.recipe.lines import KeyPath
from gentle_core.recipe.model import (
    Component,
    DatasetTable,
    EncoderTable,
    EngineTable,
    ObjectiveTable,
    Recipe,
    TowerTable,
    TrainTable,
)
from gentle_core.recipe.source import Layer, dotted
from gentle_core.recipe.structure import Fault, Invalid, make, option_names, plain, structure, structure_fields
from gentle_core.specs import LossSpec
from gentle_core.suggest import did_you_mean


@attrs.define
class Findings:
    """What is wrong (`problems`) and what is merely odd (`hints`), each with the key it is about."""

    layer: Layer
    problems: list[Fault] = attrs.field(factory=list)
    hints: list[Fault] = attrs.field(factory=list)

    def problem(self, path: KeyPath, message: str) -> None:
        self.problems.append((path, message))

    def hint(self, path: KeyPath, message: str) -> None:
        if (path, message) not in self.hints:
            self.hints.append((path, message))

    def lines(self, faults: list[Fault]) -> list[str]:
        """`file:line: key: message`, in the order of the lines."""

        def place(fault: Fault) -> tuple[str, int]:
            file, _, line = self.layer.where(fault[0]).rpartition(":")
            return (file, int(line)) if line.isdecimal() else ("\uffff", 0)

        found = []
        for path, message in sorted(faults, key=place):
            where, key = self.layer.where(path), dotted(path)
            known = where.endswith(f" {key}")  # "--set train.steps" names the key already
            found.append(f"{where}: {message}" if known or not key else f"{where}: {key}: {message}")
        return list(dict.fromkeys(found))


@attrs.frozen
class Named:
    """A component that was found: its entry, its options with all defaults, and their typed form."""

    entry: Entry
    options: Mapping[str, Any]
    config: Any


@attrs.define
class Part:
    """A component table: its own keys as far as they are sound, and the component if its name and options are."""

    path: KeyPath
    own: dict[str, Any] = attrs.field(factory=dict)
    entry: Entry | None = None
    named: Named | None = None

    def finished(self, table: Any) -> Any:
        """The typed table `table` with full name, options and config."""
        assert self.named is not None
        named = self.named
        return attrs.evolve(table, use=named.entry.full_name, options=named.options, config=named.config)


@attrs.define
class TowerPart:
    """A tower's table."""

    modality: str | None
    encoder: Part
    augment: list[Part]
    descriptors: list[Part]
    head: Any


class Draft:
    """Reads every part of the values in `findings.layer`; faults go to `findings`, nothing is raised."""

    def __init__(self, findings: Findings, catalog: Catalog):
        self.findings, self.catalog = findings, catalog
        data = findings.layer.data
        self.fields = structure_fields(data, Recipe, findings.problems)
        self.dataset = self._part("dataset", DatasetTable, data.get("dataset"), ("dataset",))
        unpaired = data["dataset"].get("unpaired") if isinstance(data.get("dataset"), Mapping) else None
        self.sources = [
            self._part("dataset", Component, item, ("dataset", "unpaired", number))
            for number, item in enumerate(unpaired if isinstance(unpaired, (list, tuple)) else ())
            if isinstance(item, Mapping)
        ]
        self.objective = self._part("loss", ObjectiveTable, data.get("objective", {}), ("objective",))
        pseudo = data.get("pseudo")
        self.teacher: Part | None = None
        if isinstance(pseudo, Mapping):
            self.teacher = self._part("teacher", Component, pseudo.get("teacher"), ("pseudo", "teacher"))
        towers = data.get("towers")
        self.towers = {
            name: self._tower(name, table)
            for name, table in (towers.items() if isinstance(towers, Mapping) else ())
            if isinstance(table, Mapping)
        }
        self.train_given = data.get("train", {})
        sound = _sound_fields(self.train_given, TrainTable)
        self.train = TrainTable(**sound)
        self.train_is_sound = isinstance(self.train_given, Mapping) and set(sound) == set(self.train_given)

        self.engine = EngineTable(**_sound_fields(data.get("engine", {}), EngineTable))

    def recipe(self) -> Recipe:
        """The typed recipe. Only where there were no problems."""
        towers = {
            name: attrs.evolve(
                table,
                encoder=self.towers[name].encoder.finished(table.encoder),
                augment=tuple(p.finished(t) for p, t in zip(self.towers[name].augment, table.augment, strict=True)),
                descriptors=tuple(
                    p.finished(t) for p, t in zip(self.towers[name].descriptors, table.descriptors, strict=True)
                ),
            )
            for name, table in self.fields["towers"].items()
        }
        dataset = self.dataset.finished(self.fields["dataset"])
        if isinstance(dataset.unpaired, tuple):
            parts = iter(self.sources)
            finished = tuple(next(parts).finished(p) if isinstance(p, Component) else p for p in dataset.unpaired)
            dataset = attrs.evolve(dataset, unpaired=finished)
        objective = self.objective.finished(self.fields.get("objective", ObjectiveTable()))
        pseudo = self.fields.get("pseudo")
        if pseudo is not None and self.teacher is not None:
            pseudo = attrs.evolve(pseudo, teacher=self.teacher.finished(pseudo.teacher))
        changed = {"dataset": dataset, "towers": towers, "objective": objective, "pseudo": pseudo}
        return Recipe(**self.fields | changed)

    def loss(self, name: str) -> LossSpec:
        """The spec of a loss, as `gentle_core.builtin` looks it up."""
        return self.catalog.get("loss", name).spec

    def objective_needs(self) -> frozenset[str]:
        named = self.objective.named
        return needs(named.entry.spec, named.config, self.loss) if named else frozenset()

    def objective_hints(self, paired_rows: int | None, rows: int | None) -> list[str]:
        named = self.objective.named
        if named is None:
            return []
        return hints(named.entry.spec, named.config, self.loss, paired_rows=paired_rows, rows=rows)

    def leaves(self) -> list[LossSpec]:
        """The losses that the objective comes down to: itself, or what it is composed of."""
        named = self.objective.named
        return _leaves(named.entry.spec, named.config, self.loss) if named else []

    # -- reading -------------------------------------------------------------------------------------------------

    def _tower(self, name: str, table: Mapping[str, Any]) -> TowerPart:
        path: KeyPath = ("towers", name)
        sound = _sound_fields(table, TowerTable)
        return TowerPart(
            modality=sound.get("modality"),
            encoder=self._part("encoder", EncoderTable, table.get("encoder"), (*path, "encoder")),
            augment=self._parts("augmentation", table.get("augment"), (*path, "augment")),
            descriptors=self._parts("encoder", table.get("descriptors"), (*path, "descriptors")),
            head=sound.get("head", attrs.fields(TowerTable).head.default if "head" not in table else None),
        )

    def _parts(self, kind: str, tables: Any, path: KeyPath) -> list[Part]:
        listed = tables if isinstance(tables, (list, tuple)) else ()
        return [self._part(kind, Component, item, (*path, number)) for number, item in enumerate(listed)]

    def _part(self, kind: str, cls: type, table: Any, path: KeyPath) -> Part:
        own = _sound_fields(table, cls)
        options = own.pop("options", {})
        default = attrs.fields_dict(cls)["use"].default
        has_default = isinstance(default, str) and isinstance(table, Mapping) and "use" not in table
        use = own.pop("use", default if has_default else None)
        part = Part(path, own)
        if use is not None:
            own_keys = [name for name in option_names(cls) if name not in ("use", "options", "config")]
            part.entry, part.named = self._component(kind, use, options, path, own_keys)
        return part

    def _component(
        self, kind: str, use: str, options: Mapping[str, Any], path: KeyPath, own_keys: list[str]
    ) -> tuple[Entry | None, Named | None]:
        """Look a component up and read its options; for losses, those of the losses inside it too."""
        try:
            entry = self.catalog.get(kind, use)
        except ComponentError as error:
            self.findings.problem((*path, "use"), str(error))
            return None, None
        before = len(self.findings.problems)
        self._known_keys(entry, options, path, own_keys)
        cls = entry.spec.config
        config = self._config(entry, {k: v for k, v in options.items() if k in option_names(cls)}, path)
        if config is None:
            return entry, None
        try:
            full = plain(config)
            if kind == "loss":
                full = self._with_children(config, full, path)
            # Once more from the written-out options: what the run sees is what the resolved recipe says.
            config = structure(full, cls)
        except Invalid as error:
            self._add(path, error)
        return entry, Named(entry, full, config) if len(self.findings.problems) == before else None

    def _known_keys(self, entry: Entry, options: Mapping[str, Any], path: KeyPath, own_keys: list[str]) -> None:
        names = option_names(entry.spec.config)
        for key in options:
            if key not in names:
                meant = did_you_mean(key, names + own_keys)
                self.findings.problem((*path, key), f"unknown key for {entry.full_name}{meant}")
        for key in sorted(set(names) & {"use", *own_keys}):
            message = f"{entry.full_name} has an option {key!r}, which is Gentle's own key here: tell its authors"
            self.findings.problem((*path, key), message)

    def _config(self, entry: Entry, options: Mapping[str, Any], path: KeyPath) -> Any:
        """The typed options; where some are wrong, what the right ones make, so that more can be looked at."""
        cls = entry.spec.config
        faults: list[Fault] = []
        try:
            sound = structure_fields(options, cls, faults)
            config = make(cls, sound) if not faults else _attempt(cls, sound)
        except Invalid as error:
            faults, config = faults + error.faults, None
        except Exception as error:  # a defect of the plugin's config class, not of the recipe
            text = " ".join(f"{type(error).__name__}: {error}".split())
            faults.append(((), f"the options of {entry.full_name} ({entry.distribution}) cannot be read: {text}"))
            config = None
        self.findings.problems += [((*path, *inner), message) for inner, message in faults]
        return config

    def _with_children(self, config: Any, options: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        children = getattr(config, "children", None)
        if not callable(children):
            return options
        try:
            found = children()
        except (TypeError, ValueError) as error:
            raise Invalid(str(error)) from error
        for child in found:
            steps = _child_path(child.key)
            _, named = self._component("loss", child.use, child.options, (*path, *steps), ["weight"])
            if named is not None:
                _write(options, steps, {"use": named.entry.full_name, **named.options})
        return options

    def _add(self, path: KeyPath, error: Invalid) -> None:
        self.findings.problems += [((*path, *inner), message) for inner, message in error.faults]


def _sound_fields(table: Any, cls: type) -> dict[str, Any]:
    return structure_fields(table, cls, []) if isinstance(table, Mapping) else {}


def _attempt(cls: type, fields: Mapping[str, Any]) -> Any:
    try:
        return cls(**fields)
    except Exception:
        return None


def _leaves(spec: LossSpec, config: Any, lookup: Any) -> list[LossSpec]:
    children = getattr(config, "children", None)
    if not callable(children):
        return [spec]
    found = []
    for child in children():
        inner = lookup(child.use)
        found += _leaves(inner, structure(child.options, inner.config), lookup)
    return found


def _child_path(key: str) -> KeyPath:
    """ "terms[0]" is ("terms", 0)."""
    return tuple(int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", key))


def _write(options: Any, path: KeyPath, values: Mapping[str, Any]) -> None:
    """Put `values` into the table at `path`, over what is there; their "use" comes first."""
    for part in path[:-1]:
        options = options[part]
    last = path[-1]
    present = options[last] if isinstance(last, int) else options.get(last, {})
    options[last] = {"use": values["use"], **present, **values}
