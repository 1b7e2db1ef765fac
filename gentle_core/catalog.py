"""What is installed: every component by kind and name, the modalities, and the plugins that could not be used.

Names are `owner/name`; a bare name works while it is unique. Nothing here builds a component or imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from gentle_core.errors import ComponentError
from gentle_core.specs import KINDS, ModalitySpec
from gentle_core.suggest import close_to, did_you_mean, listed

_REFERENCE = re.compile(r"(?:(?P<owner>[\w.-]+)/)?(?P<name>[\w.-]+)")
_ARTICLES = {"encoder": "an encoder", "augmentation": "an augmentation"}

FIRST_PARTY = {"protein": "gentle-protein", "vision-language": "gentle-vision-language"}
"""Owners whose distribution is known even where it is not installed."""


HEALTH = "health check"
"""The kind of an entry that is no component."""


@attrs.frozen
class Entry:
    """A component and who brought it."""

    kind: str
    owner: str
    spec: Any
    distribution: str
    version: str

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.spec.name}"


@attrs.frozen
class Plugin:
    """A plugin that was looked at: `seconds` is what loading it took, `components` how many it brought."""

    owner: str
    distribution: str
    version: str
    seconds: float
    components: int


@attrs.frozen
class Problem:
    """Why (a part of) a plugin cannot be used, and how to mend that."""

    owner: str
    distribution: str
    version: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip() + f": {self.what}; {self.mend}"


def modalities_of(spec: Any) -> tuple[str, ...]:
    """The modalities that a spec names: what it reads, acts on, yields, or (a modality) is read as."""
    if isinstance(spec, ModalitySpec):
        return spec.reads_as
    own = getattr(spec, "modality", None)
    return (own,) if own else tuple(getattr(spec, "modalities", ()))


def _article(kind: str) -> str:
    return _ARTICLES.get(kind, f"a {kind}")


class Catalog:
    """All components by kind and name.

    Attributes:
        plugins: what was discovered, by owner.
        problems: what could not be used; the rest works without it.
        health: the checks for `gentle doctor`, which recipes cannot name.
        left_out: why an installed plugin was not loaded, by owner.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        plugins: Iterable[Plugin] = (),
        problems: Iterable[Problem] = (),
        left_out: Mapping[str, str] | None = None,
    ):
        self.plugins = tuple(plugins)
        self.problems = tuple(problems)
        self.left_out = dict(left_out or {})
        self.health = tuple(entry for entry in entries if entry.kind == HEALTH)
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        for entry in sorted((e for e in entries if e.kind != HEALTH), key=lambda e: e.full_name):
            self._entries[entry.kind][entry.full_name] = entry
        self._reads_as: dict[str, set[str]] = {}
        for entry in self._entries["modality"].values():
            self._reads_as.setdefault(entry.name, set()).update(entry.spec.reads_as)

    def __iter__(self) -> Iterator[Entry]:
        for kind in KINDS:
            yield from self._entries[kind].values()

    def entries(self, kind: str) -> list[Entry]:
        """All components of a kind, by full name."""
        return list(self._entries[kind].values())

    def get(self, kind: str, name: str) -> Entry:
        """The component called `name` ("owner/name", or a bare name while it is unique).

        Raises:
            ComponentError: unknown (with close names, or what to install), ambiguous (with all owners), or no name at
                all: dotted paths and code are refused.
        """
        entries = self._entries[kind]
        if name in entries:
            return entries[name]
        if not isinstance(name, str) or not (match := _REFERENCE.fullmatch(name)):
            raise ComponentError(
                f"{name!r} is not a component's name; a recipe names registered components as 'owner/name', "
                "never import paths or code"
            )
        if match["owner"] is None and (same := [e for e in entries.values() if e.name == name]):
            if len(same) == 1:
                return same[0]
            owners = ", ".join(f"{e.full_name} ({e.distribution} {e.version})".replace(" )", ")") for e in same)
            raise ComponentError(f"{_article(kind)} called {name!r} comes from several plugins: write one of {owners}")
        raise ComponentError(self._not_found(kind, name, match["owner"], match["name"]))

    def reads(self, accepted: str, modality: str) -> bool:
        """Whether a component made for modality `accepted` takes items of `modality` (itself or, by way of
        `ModalitySpec.reads_as`, something more special)."""
        seen: set[str] = set()
        waiting = [modality]
        while waiting:
            if (current := waiting.pop()) == accepted:
                return True
            if current not in seen:
                seen.add(current)
                waiting += self._reads_as.get(current, ())
        return False

    def reads_as(self, modality: str) -> list[str]:
        """The more general modalities whose encoders take this one directly, in alphabetical order."""
        return sorted(self._reads_as.get(modality, ()))

    def that_take(self, kind: str, modality: str) -> list[Entry]:
        """Encoders, augmentations, tasks or losses that take items of `modality`, also by reading it as another."""
        return [e for e in self.entries(kind) if any(self.reads(one, modality) for one in modalities_of(e.spec))]

    def that_yield(self, modality: str) -> list[Entry]:
        """Datasets whose items a component made for `modality` takes."""
        return [e for e in self.entries("dataset") if any(self.reads(modality, one) for one in e.spec.modalities)]

    def modalities(self) -> dict[str, str]:
        """Every modality that is declared or that a component names, with its summary, in alphabetical order.

        Several plugins may declare a modality of one name: it is a shared word, and their `reads_as` add up."""
        named: dict[str, str] = {}
        for entry in self:
            if isinstance(entry.spec, ModalitySpec):
                named[entry.name] = named.get(entry.name) or entry.spec.summary
            for modality in modalities_of(entry.spec):
                named.setdefault(modality, "")
        return dict(sorted(named.items()))

    def versions(self) -> dict[str, str]:
        """Version of each distribution that brought something, for the manifest."""
        return {plugin.distribution: plugin.version for plugin in self.plugins if plugin.components}

    def _not_found(self, kind: str, name: str, owner: str | None, bare: str) -> str:
        entries = self._entries[kind]
        message = f"there is no {kind} {name!r}"
        for other in KINDS:
            if other != kind and (name in self._entries[other] or (owner is None and self._bare(other, bare))):
                return f"{name!r} is {_article(other)}, not {_article(kind)}" + did_you_mean(name, entries)
        if owner is not None and (broken := [p for p in self.problems if p.owner == owner]):
            return f"{message}: plugin {broken[0]}"
        if owner in self.left_out:
            return f"{message}: plugin {owner!r} is not loaded, since {self.left_out[owner]}"
        if owner is not None and owner not in self._owners():
            if close := close_to(owner, self._owners()):
                return f"{message}, nor any plugin {owner!r} — did you mean {listed(f'{c}/{bare}' for c in close)}?"
            known = FIRST_PARTY.get(owner)
            way = f"pip install {known}" if known else f"if you trust it, install it (often called 'gentle-{owner}')"
            return f"{message}, and no plugin {owner!r} is installed: {way}"
        if close := close_to(bare, [e.name for e in entries.values()]):
            return f"{message} — did you mean {listed(e.full_name for e in entries.values() if e.name in close)}?"
        if "." in name and owner is None:
            return f"{message}; a recipe names registered components as 'owner/name', never import paths or code"
        return message + (did_you_mean(name, entries) or "; `gentle plugins list` shows what there is")

    def _bare(self, kind: str, name: str) -> bool:
        return any(entry.name == name for entry in self._entries[kind].values())

    def _owners(self) -> set[str]:
        return {entry.owner for entry in self} | {plugin.owner for plugin in self.plugins}
