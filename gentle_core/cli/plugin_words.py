"""What `gentle plugins` says about plugins and components: lists, tables, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gentle_core.catalog import Catalog, Entry, Problem, modalities_of
from gentle_core.recipe.options import option_rows
from gentle_core.specs import KINDS


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    first, second = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    return [f"  {a:<{first}}  {b:<{second}}  {c}".rstrip() for a, b, c in rows]


def _reads_or_acts_on(entry: Entry) -> str:
    named = ", ".join(modalities_of(entry.spec))
    return f"reads as {named}" if named and entry.kind == "modality" else named


def by_kind(entries: list[Entry]) -> list[str]:
    lines: list[str] = []
    for kind in KINDS:
        rows = [(e.full_name, _reads_or_acts_on(e), e.spec.summary) for e in entries if e.kind == kind]
        if rows:
            lines += [*([""] if lines else []), kind, *_columns(rows)]
    return lines


def by_modality(catalog: Catalog, entries: list[Entry]) -> list[str]:
    """For each modality what yields it, reads it and acts on it; readers of a more general one count."""
    lines: list[str] = []
    for modality, summary in catalog.modalities().items():
        rows = []
        for entry in entries:
            if entry.kind in ("modality", "loss"):
                continue
            takes = modalities_of(entry.spec)
            if modality in takes:
                rows.append((entry.kind, entry.full_name, entry.spec.summary))
            elif entry.kind != "dataset" and (more := [m for m in takes if catalog.reads(m, modality)]):
                rows.append((entry.kind, entry.full_name, f"{entry.spec.summary} (made for {more[0]})"))
        if rows:
            general = catalog.reads_as(modality)
            name = f"{modality} (reads as {', '.join(general)})" if general else modality
            lines += [*([""] if lines else []), f"{name}  {summary}".rstrip(), *_columns(rows)]
    return lines


def component_lines(catalog: Catalog, entry: Entry) -> Iterable[str]:
    spec = entry.spec
    yield f"{entry.full_name} ({entry.kind}) from {entry.distribution} {entry.version}".rstrip()
    yield f"  {spec.summary}"
    facts = [("reads as" if entry.kind == "modality" else "modalities", ", ".join(modalities_of(spec)))]
    for name in ("needs", "scope", "stage", "requires", "licence", "citation", "target"):
        value = getattr(spec, name, "")
        facts.append((name, value if isinstance(value, str) else ", ".join(sorted(value))))
    facts += _company(catalog, entry)
    facts = [(name, value) for name, value in facts if value]
    width = max(10, *(len(name) for name, _ in facts))
    yield from (f"  {name:<{width}}  {value}" for name, value in facts)
    if entry.kind == "modality":
        return
    rows = option_rows(spec.config)
    yield "  options" if rows else "  it takes no options"
    for row in rows:
        yield f"    {row.name}: {row.type}" + ("" if row.required else f" = {row.default}")
        if row.text:
            yield f"        {row.text}"


def _company(catalog: Catalog, entry: Entry) -> Iterator[tuple[str, str]]:
    """What goes with a component: for a dataset those that take its items, for an encoder those that bring them."""
    spec = entry.spec
    if entry.kind == "dataset":
        for modality in spec.modalities:
            of = f" of {modality}" if len(spec.modalities) > 1 else ""
            for kind in ("encoder", "augmentation"):
                found = catalog.that_take(kind, modality)
                yield f"{kind}s{of}", ", ".join(e.full_name for e in found) or ("none" if kind == "encoder" else "")
    elif entry.kind in ("encoder", "augmentation", "modality"):
        own = (entry.name,) if entry.kind == "modality" else modalities_of(spec)
        for kind in ("encoder", "augmentation") if entry.kind == "modality" else ():
            yield f"{kind}s", ", ".join(e.full_name for m in own for e in catalog.that_take(kind, m))
        yield "datasets", ", ".join(dict.fromkeys(e.full_name for m in own for e in catalog.that_yield(m)))


def as_json(catalog: Catalog, entries: list[Entry]) -> dict[str, Any]:
    def problem(one: Problem) -> dict[str, str]:
        return {"plugin": one.owner, "distribution": one.distribution, "version": one.version,
                "what": one.what, "mend": one.mend}  # fmt: skip

    return {
        "components": [
            {"name": e.full_name, "kind": e.kind, "modalities": list(modalities_of(e.spec)), "summary": e.spec.summary,
             "distribution": e.distribution, "version": e.version,
             "licence": getattr(e.spec, "licence", "")}
            for e in entries
        ],
        "plugins": [
            {"owner": p.owner, "distribution": p.distribution, "version": p.version, "components": p.components,
             "seconds": round(p.seconds, 3)}
            for p in catalog.plugins
        ],
        "problems": [problem(p) for p in catalog.problems],
    }  # fmt: skip
