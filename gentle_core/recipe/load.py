"""From a TOML file (or typed object) and settings to a resolved recipe, or to everything that is wrong with it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from gentle_core.catalog import Catalog, Entry
from gentle_core.errors import RecipeError
from gentle_core.plugins import discover
from gentle_core.recipe.checks import check
from gentle_core.recipe.draft import Draft, Findings
from gentle_core.recipe.model import Component, Recipe
from gentle_core.recipe.source import Layer, dotted, read_file, read_sets, read_text
from gentle_core.recipe.structure import Invalid, plain, structure


@attrs.frozen
class Resolved:
    """A recipe ready to run.

    Attributes:
        recipe: typed; every component has its full `owner/name`, all its options and their parsed form `config`.
        catalog: where the names were found.
        path: the recipe's file, if it came from one.
        source_text: the recipe as it was given.
        warnings: what is legal and probably not meant, one line each.
    """

    recipe: Recipe
    catalog: Catalog = attrs.field(eq=False, repr=False)
    path: Path | None = None
    source_text: str = attrs.field(default="", eq=False, repr=False)
    warnings: tuple[str, ...] = ()

    def to_toml(self) -> str:
        """The recipe with every default and full name written out; loading this gives the same recipe again."""
        return tomli_w.dumps(plain(self.recipe))


def load_recipe(
    recipe: str | os.PathLike[str] | Recipe | Mapping[str, Any],
    sets: Sequence[str] | Mapping[str, Any] = (),
    catalog: Catalog | None = None,
) -> Resolved:
    """Read, check and resolve a recipe. Imports no torch and touches no data.

    Args:
        recipe: a path, TOML text (a string with a line break in it), a typed recipe or its plain tables.
        sets: settings on top: "key=value" strings as for `--set`, or values by dotted key.
        catalog: what is installed; discovered where it is not given.

    Raises:
        RecipeError: with every problem, one line each: `file:line: key: what is wrong`.
    """
    catalog = discover() if catalog is None else catalog
    layer, text, path = _read(recipe)
    layer = read_sets(sets, layer) if sets else layer
    findings = Findings(layer)
    draft = Draft(findings, catalog)
    check(draft)
    if findings.problems:
        raise RecipeError(findings.lines(findings.problems))
    return Resolved(draft.recipe(), catalog, path, text, tuple(findings.lines(findings.hints)))


def derive(resolved: Resolved, recipe: Recipe) -> Resolved:
    """A changed recipe, resolved where `resolved` was."""
    return load_recipe(recipe, catalog=resolved.catalog)


def component_config(entry: Entry, options: Mapping[str, Any]) -> Any:
    """The options of a component as its config class.

    Raises:
        RecipeError: with every option that does not fit.
    """
    try:
        return structure(options, entry.spec.config)
    except Invalid as error:
        raise RecipeError([f"{entry.full_name}: {dotted(path)}: {text}" for path, text in error.faults]) from error


def load_component(
    catalog: Catalog, kind: str, name: str, sets: Sequence[str] | Mapping[str, Any] = ()
) -> tuple[Entry, Any]:
    """A component by itself, with options from settings alone: `gentle eval RUN TASK --set path=data`.

    Raises:
        ComponentError: there is no such component.
        RecipeError: with every option that does not fit.
    """
    entry = catalog.get(kind, name)
    layer = read_sets(sets, Layer({}, {}, entry.full_name))
    try:
        return entry, structure(layer.data, entry.spec.config)
    except Invalid as error:
        raise RecipeError(Findings(layer).lines(error.faults)) from error


def differences(before: str, after: str) -> list[str]:
    """Dotted keys in which two recipes (TOML text) differ."""
    return sorted(_differences(tomllib.loads(before), tomllib.loads(after), ""))


def free_directory(resolved: Resolved, root: Path = Path("runs")) -> Path:
    """The first of `runs/<recipe>-1`, `-2`, … that does not exist yet."""
    name = resolved.path.stem if resolved.path else "-".join(resolved.recipe.name.split()) or "run"
    number = 1
    while (root / f"{name}-{number}").exists():
        number += 1
    return root / f"{name}-{number}"


def _differences(a: Any, b: Any, key: str) -> set[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return {d for k in a.keys() | b.keys() for d in _differences(a.get(k), b.get(k), f"{key}.{k}" if key else k)}
    return set() if a == b and type(a) is type(b) else {key}


def _read(recipe: Any) -> tuple[Layer, str, Path | None]:
    if isinstance(recipe, Recipe):
        _consistent(recipe)
        try:
            recipe = plain(recipe)
        except Invalid as error:
            raise RecipeError([f"recipe: {dotted(path)}: {text}" for path, text in error.faults]) from error
    if isinstance(recipe, Mapping):
        return Layer(dict(recipe), {}), tomli_w.dumps(recipe), None
    if isinstance(recipe, str) and "\n" in recipe:
        return read_text(recipe, "recipe", Path.cwd()), recipe, None
    if not isinstance(recipe, (str, os.PathLike)):
        raise TypeError(f"a recipe is a path, TOML text or gentle_core.recipe.Recipe, not {type(recipe).__name__}")
    path = Path(recipe).expanduser()
    layer, text = read_file(path, str(recipe))
    return layer, text, path


def _consistent(recipe: Recipe) -> None:
    """Options and config of a typed component say the same, or only one of them is there."""
    parts: list[tuple[str, Component]] = [("dataset", recipe.dataset), ("objective", recipe.objective)]
    parts += [(f"dataset.unpaired[{i}]", part) for i, part in enumerate(recipe.dataset.sources)]
    parts += [("pseudo.teacher", recipe.pseudo.teacher)] if recipe.pseudo is not None else []
    for name, tower in recipe.towers.items():
        parts.append((f"towers.{name}.encoder", tower.encoder))
        parts += [(f"towers.{name}.augment[{i}]", part) for i, part in enumerate(tower.augment)]
    problems = [
        f"recipe: {key}: options and config disagree; leave out one of them (options={{}} or config=None)"
        for key, part in parts
        if part.options and part.config is not None and plain(part.config) != plain(part.options)
    ]
    if problems:
        raise RecipeError(problems)
