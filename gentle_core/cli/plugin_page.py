"""A plugin's page of reference in Markdown, written from its specs."""

from __future__ import annotations

from collections.abc import Iterator

from gentle_core.catalog import Catalog, Entry, modalities_of
from gentle_core.errors import ComponentError
from gentle_core.recipe.options import option_rows
from gentle_core.specs import KINDS
from gentle_core.suggest import did_you_mean

_TITLES = {
    "modality": "Modalities", "encoder": "Encoders", "augmentation": "Augmentations", "loss": "Losses",
    "dataset": "Datasets", "task": "Tasks", "teacher": "Teachers",
}  # fmt: skip
_FACTS = {
    "needs": "needs in a batch", "scope": "scope", "stage": "stage", "requires": "requires", "licence": "licence",
    "citation": "cite",
}  # fmt: skip


def plugin_page(catalog: Catalog, name: str) -> str:
    """All components of a plugin with their options.

    Raises:
        ComponentError: there is no such plugin.
    """
    plugin = next((p for p in catalog.plugins if name in (p.owner, p.distribution)), None)
    if plugin is None:
        known = [n for p in catalog.plugins for n in (p.owner, p.distribution)]
        raise ComponentError(f"there is no plugin {name!r}{did_you_mean(name, known)}")
    lines = [
        f"# The components of {plugin.distribution}",
        "",
        f"Written by `gentle plugins info {plugin.owner} --markdown` from what the plugin announces.",
    ]
    for kind in KINDS:
        entries = [entry for entry in catalog.entries(kind) if entry.owner == plugin.owner]
        if entries:
            lines += ["", f"## {_TITLES[kind]}"]
        for entry in entries:
            lines += ["", f"### `{entry.full_name}`", "", *_component(entry)]
    return "\n".join(lines) + "\n"


def _component(entry: Entry) -> Iterator[str]:
    spec = entry.spec
    yield f"{spec.summary}."
    facts = []
    if named := ", ".join(f"`{name}`" for name in modalities_of(spec)):
        facts.append(f"- {_RELATION[entry.kind]}: {named}")
    for field, title in _FACTS.items():
        value = getattr(spec, field, "")
        if text := value if isinstance(value, str) else ", ".join(sorted(value)):
            facts.append(f"- {title}: {text}")
    if facts:
        yield ""
        yield from facts
    if entry.kind == "modality":
        return
    yield ""
    if not (rows := option_rows(spec.config)):
        yield "It takes no options."
        return
    yield "| option | type | default | |"
    yield "|---|---|---|---|"
    for row in rows:
        default = "" if row.required else row.default if row.default.startswith("(") else f"`{row.default}`"
        yield f"| `{row.name}` | {_cell(row.type)} | {_cell(default)} | {_cell(row.text)} |"


_RELATION = {
    "modality": "read as", "encoder": "reads", "augmentation": "acts on", "loss": "made for", "dataset": "yields",
    "task": "reads",
}  # fmt: skip


def _cell(text: str) -> str:
    """Text that stands in a table: one line, no bars, no tags."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
