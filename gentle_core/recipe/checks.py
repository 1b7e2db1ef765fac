"""What must hold between the tables of a recipe. Each check adds to the findings and raises nothing."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterator

import attrs

from gentle_core.catalog import Entry
from gentle_core.recipe.deepspeed import conflicts
from gentle_core.recipe.draft import Draft, Named
from gentle_core.recipe.lines import KeyPath
from gentle_core.suggest import close_to, did_you_mean, listed

PROVIDED = frozenset({"pairs", "unpaired", "views", "raw", "labels", "pseudo", "reference"})
"""What the training loop puts into a batch (labels: where the dataset has them; pseudo and reference: with a `[pseudo]`
table)."""


def pseudo_pairs(draft: Draft) -> None:
    """A teacher and an objective that listens to it, between two towers that there are."""
    findings, table = draft.findings, draft.fields.get("pseudo")
    needs = draft.objective_needs()
    wanted = bool({"pseudo", "reference"} & needs)
    if wanted and draft.teacher is None:
        what = "pseudo-pairs" if "pseudo" in needs else "a teacher's reference rows"
        message = f'needs {what}: add a table such as [pseudo] teacher = {{ use = "core/cca" }}'
        findings.problem(("objective",), message)
    if table is None:
        return
    if not wanted and draft.objective.named is not None:
        findings.hint(("pseudo",), "nothing in the objective uses pseudo-pairs: add core/pseudo-pairs to it")
    for number, name in enumerate(table.towers or ()):
        if name not in draft.towers:
            message = f"there is no tower {name!r}{did_you_mean(name, draft.towers)}"
            findings.problem(("pseudo", "towers", number), message)
    if table.towers and table.towers[0] == table.towers[1]:
        findings.problem(("pseudo", "towers"), "name two different towers")
    if table.refresh and draft.teacher and draft.teacher.entry and not draft.teacher.entry.spec.changes:
        frozen = all(tower.encoder.own.get("freeze", False) for tower in draft.towers.values())
        if frozen:
            message = "this teacher says the same every time, since all encoders are frozen: leave refresh out"
            findings.hint(("pseudo", "refresh"), message)


def check(draft: Draft) -> None:
    """All checks over tables."""
    for one in CHECKS:
        one(draft)


def components(draft: Draft) -> Iterator[tuple[KeyPath, Entry]]:
    """Every component that was found, with the path of its table."""
    parts = [draft.dataset, *draft.sources, draft.objective] + ([draft.teacher] if draft.teacher else [])
    for tower in draft.towers.values():
        parts += [tower.encoder, *tower.augment, *tower.descriptors]
    for part in parts:
        if part.entry is not None:
            yield part.path, part.entry


def required_distributions(draft: Draft) -> None:
    """Plugins that the recipe asks for, and packages that its components ask for, must be installed."""
    known = {n for p in draft.catalog.plugins if p.components for n in (p.owner, p.distribution)}
    for number, name in enumerate(draft.fields.get("plugins", ())):
        if re.sub(r"[-_.]+", "-", name).lower() not in known:
            broken = [p for p in draft.catalog.problems if name in (p.owner, p.distribution)]
            why = f"cannot be used: {broken[0]}" if broken else f"is not there: pip install {name}"
            draft.findings.problem(("plugins", number), f"{name} {why}")
    for path, entry in components(draft):
        missing = [name for name in entry.spec.requires if not _is_installed(name)]
        if missing:
            needs = " ".join(f"'{name}'" if re.search(r"[<>=!~; ]", name) else name for name in missing)
            draft.findings.problem((*path, "use"), f"{entry.full_name} needs more packages: pip install {needs}")


def _is_installed(requirement: str) -> bool:
    match = re.match(r"[\w.-]+", requirement.strip())
    try:
        return bool(match) and bool(importlib.metadata.version(match[0]))  # type: ignore[index]
    except importlib.metadata.PackageNotFoundError:
        return False


def tower_names(draft: Draft) -> None:
    """Names end up in metrics ("retrieval/a->b/R@10") and file names."""
    for name in draft.towers:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            draft.findings.problem(("towers", name), "a tower's name is made of letters, digits, '_' and '-'")


def run_name(draft: Draft) -> None:
    """A recipe that is no file names its run directory."""
    name = draft.fields.get("name", "")
    if re.search(r"[/\\\0]", name) or name.startswith("."):
        draft.findings.problem(("name",), "names the run directory: no '/' or '\\' in it, and no '.' at its start")


def modalities(draft: Draft) -> None:
    """Dataset, encoder and augmentations of a tower must agree with the tower's modality."""
    catalog, findings, dataset = draft.catalog, draft.findings, draft.dataset.entry
    for name, tower in draft.towers.items():
        path: KeyPath = ("towers", name)
        held = tower.modality
        if held is None:
            continue
        if dataset is not None and held not in dataset.spec.modalities:
            findings.problem((*path, "modality"), _not_yielded(draft, dataset, held))
            continue
        if dataset is None and held not in catalog.modalities():
            findings.problem(
                (*path, "modality"), f"no plugin knows {held!r}" + did_you_mean(held, catalog.modalities())
            )
            continue
        for reader in (tower.encoder, *tower.descriptors):
            encoder = reader.entry
            if encoder is None or catalog.reads(encoder.spec.modality, held):
                continue
            able = [e.full_name for e in catalog.that_take("encoder", held)]
            findings.problem(
                (*reader.path, "use"),
                f"{encoder.full_name} reads {encoder.spec.modality!r}, and this tower holds {held!r}; "
                + (f"its readers are {listed(able, 'and')}" if able else _no_reader(draft, encoder)),
            )
        for part in tower.augment:
            if part.entry is None or any(catalog.reads(m, held) for m in part.entry.spec.modalities):
                continue
            acts = listed(part.entry.spec.modalities, "and")
            able = [e.full_name for e in catalog.that_take("augmentation", held)]
            instead = f"; what acts on that: {listed(able, 'and')}" if able else ""
            findings.problem(
                (*part.path, "use"), f"{part.entry.full_name} acts on {acts}, and this tower holds {held!r}{instead}"
            )


def sources(draft: Draft) -> None:
    """Each further source of unmatched items has something for a tower."""
    held = {tower.modality for tower in draft.towers.values() if tower.modality is not None}
    for part in draft.sources:
        if part.entry is None or not held:
            continue
        yields = part.entry.spec.modalities
        if not any(draft.catalog.reads(modality, given) for modality in held for given in yields):
            message = f"{part.entry.full_name} yields {listed(yields, 'and')}, which no tower holds"
            draft.findings.problem((*part.path, "use"), message)


def _not_yielded(draft: Draft, dataset: Entry, held: str) -> str:
    """That a dataset has no items for a tower; what to write instead, or which dataset has them."""
    catalog, yields = draft.catalog, dataset.spec.modalities
    message = f"{dataset.full_name} yields {listed(yields, 'and')}, not {held!r}"
    if special := [one for one in yields if catalog.reads(held, one)]:
        return f"{message}: write {listed(special)}; encoders of {held!r} read it too"
    if close := close_to(held, yields, 1):
        return f"{message} — did you mean {listed(close)}?"
    wanted = {tower.modality for tower in draft.towers.values()} - {None}
    able = [e.full_name for e in catalog.entries("dataset") if wanted <= set(e.spec.modalities)]
    if able:
        return f"{message}; datasets for all towers of this recipe: {listed(able, 'and')}"
    able = [e.full_name for e in catalog.that_yield(held)]
    return message + (f"; datasets that do: {listed(able, 'and')}" if able else "")


def _no_reader(draft: Draft, encoder: Entry) -> str:
    """What to do where nothing installed reads a tower's modality."""
    able = [entry.full_name for entry in draft.catalog.that_yield(encoder.spec.modality)]
    other = f"; datasets for {encoder.full_name}: {listed(able, 'and')}" if able else ""
    return f"no installed encoder reads that: install one, or `gentle new plugin` makes one{other}"


def _losses_for(draft: Draft, towers: int) -> str:
    """Losses that align so many towers."""
    able = [
        entry.full_name
        for entry in draft.catalog.entries("loss")
        if entry.spec.min_modalities <= towers <= (entry.spec.max_modalities or towers)
    ]
    return f"; losses for {towers}: {listed(able, 'and')}" if able else ""


def objective_fits(draft: Draft) -> None:
    """The objective's number of towers, their modalities and dimensions, and what it needs in a batch."""
    findings, named = draft.findings, draft.objective.named
    if named is None or not draft.towers:
        return
    title, towers, path = named.entry.full_name, draft.towers, ("objective",)
    specs = [named.entry.spec, *draft.leaves()]
    least = max(spec.min_modalities for spec in specs)
    if len(towers) < least:
        findings.problem(
            ("towers",),
            f"{title} aligns {least} towers or more, and the recipe has {len(towers)}"
            + _losses_for(draft, len(towers)),
        )
    most = min((spec.max_modalities for spec in specs if spec.max_modalities is not None), default=None)
    if most is not None and len(towers) > most:
        findings.problem(
            ("towers",),
            f"{title} aligns at most {most} towers, and the recipe has {len(towers)}" + _losses_for(draft, len(towers)),
        )
    for spec in specs:
        held = {name: tower.modality for name, tower in towers.items() if spec.modalities and tower.modality}
        unfit = [n for n, m in held.items() if not any(draft.catalog.reads(made, m) for made in spec.modalities)]
        if unfit:
            made, held_by = (
                listed(spec.modalities, "and"),
                ", ".join(f"{name!r} holds {held[name]!r}" for name in unfit),
            )
            findings.problem((*path, "use"), f"loss {spec.name!r} is made for {made}; tower {held_by}")
    heads = {name: tower.head.dimension for name, tower in towers.items() if tower.head is not None}
    if len(heads) > 1 and len(set(heads.values())) > 1 and any(spec.same_dimension for spec in specs):
        sizes = ", ".join(f"{name} {size}" for name, size in heads.items())
        last = list(heads)[-1]
        findings.problem(
            ("towers", last, "head", "dimension"), f"all towers must project to one dimension, not {sizes}"
        )
    for need in sorted(draft.objective_needs() - PROVIDED):
        findings.problem((*path, "use"), f"{title} needs {need!r} in every batch, which this version does not provide")


def pairs_name_towers(draft: Draft) -> None:
    """`objective.pairs` names two different towers each, and no pair twice."""
    seen: set[frozenset[str]] = set()
    for number, pair in enumerate(draft.objective.own.get("pairs", ())):
        path: KeyPath = ("objective", "pairs", number)
        for name in pair:
            if draft.towers and name not in draft.towers:
                draft.findings.problem(path, f"there is no tower {name!r}" + did_you_mean(name, draft.towers))
        if pair[0] == pair[1]:
            draft.findings.problem(path, f"pairs {pair[0]!r} with itself")
        elif frozenset(pair) in seen:
            draft.findings.problem(path, "is named twice")
        seen.add(frozenset(pair))


def heads_from_cca(draft: Draft) -> None:
    """Heads that start from CCA are those of the two towers between which it is fitted."""
    wanted = [name for name, tower in draft.towers.items() if tower.head is not None and tower.head.init == "cca"]
    named = draft.objective.own.get("pairs", ())
    first = tuple(named[0] if named else list(draft.towers)[:2])
    if wanted and set(wanted) != set(first):
        message = f'"cca" is fitted between {listed(first, "and")}: give both heads this start, and no other'
        draft.findings.problem(("towers", wanted[-1], "head", "init"), message)


def length_of_training(draft: Draft) -> None:
    """Steps or epochs, not both and not neither."""
    given = draft.train_given
    if not isinstance(given, dict):
        return
    if "steps" in given and "epochs" in given:
        draft.findings.problem(("train", "epochs"), "give steps or epochs, not both")
    elif "steps" not in given and "epochs" not in given:
        draft.findings.problem(("train",), "give steps (or epochs): how long to train")


def rows_of_batch(draft: Draft) -> None:
    """The rules for the make-up of a batch do not contradict one another, and leave something to learn from."""
    findings, train, own = draft.findings, draft.train, draft.dataset.own
    if not draft.train_is_sound:
        return
    if train.proportional is not None:
        for key in ("paired_rows", "unpaired_rows"):
            if getattr(train, key) is not None:
                message = (
                    f"proportional = {train.proportional} sets the rows of a batch already: leave out one of the two"
                )
                findings.problem(("train", key), message)
    paired, unpaired = batch_rows(draft)
    if paired == 0 and unpaired == 0:
        findings.problem(
            ("train",), "a batch would be empty: give paired_rows or unpaired_rows, and a dataset with either"
        )
    elif paired is not None and unpaired is not None and paired + unpaired < 2:
        findings.problem(("train",), "a batch of one row has nothing to compare it with: give more rows")
    leaves = draft.leaves()
    if paired == 0 and leaves and all("pairs" in leaf.needs for leaf in leaves):
        source = ("dataset", "paired") if own.get("paired") == 0 else ("train", "paired_rows")
        name = draft.objective.named.entry.full_name if draft.objective.named else ""
        findings.problem(
            source, f"no pairs, and {name} learns from pairs alone: pair some samples, or add unpaired terms"
        )
    elif paired == 1 and any("pairs" in leaf.needs for leaf in leaves):
        findings.hint(("train", "paired_rows"), "with one pair a batch, the contrastive loss over pairs is 0")
    if type(own.get("paired")) is int and own["paired"] == 1:
        findings.hint(("dataset", "paired"), "1 is a count, one pair; write 1.0 for all pairs")
    rows = paired + unpaired if paired is not None and unpaired is not None else train.proportional
    for message in draft.objective_hints(paired, rows):
        findings.hint(("objective",), message)


def batch_rows(draft: Draft) -> tuple[int | None, int | None]:
    """Matched rows, and unmatched rows a tower, as far as the recipe alone tells (None: it takes the data to know)."""
    train, own = draft.train, draft.dataset.own
    nothing_paired = own.get("paired", 1.0) == 0
    if train.proportional is not None:
        return (0, train.proportional) if nothing_paired else (None, None)
    paired = train.batch_size if train.paired_rows is None else train.paired_rows
    unpaired = train.batch_size if train.unpaired_rows is None else train.unpaired_rows
    return 0 if nothing_paired else paired, 0 if own.get("unpaired", 1.0) == 0 else unpaired


def frozen_encoders(draft: Draft) -> None:
    """Settings of a tower that its frozen encoder makes costly or idle, and views that would not differ."""
    wants_views = "views" in draft.objective_needs()
    for name, tower in draft.towers.items():
        own = tower.encoder.own
        views, place = own.get("views", 0), ("towers", name, "encoder", "views")
        if views and not own.get("freeze"):
            draft.findings.problem(place, "only features of a frozen encoder can be kept: set freeze = true")
        if not own.get("freeze"):
            continue
        if views and not tower.augment:
            draft.findings.hint(place, "has no effect: the tower has no augmentation")
        elif views == 1 and wants_views:
            draft.findings.hint(place, "the two views of a row are the same one: keep two or more")
        elif tower.augment and not views:
            message = (
                "augmenting before a frozen encoder means that it runs at every step; encoder.views = 4 would compute "
                "four views of each item once"
            )
            draft.findings.hint(("towers", name, "augment"), message)
        elif wants_views and tower.head is not None and not (tower.head.dropout or tower.head.dropout_input):
            message = "the two views of a row are the same: give the head dropout, or the tower an augmentation"
            draft.findings.hint(("towers", name), message)
        idle = ["learning_rate"] * (own.get("learning_rate") is not None) + _idle_when_frozen(tower.encoder.named)
        for option in idle:
            draft.findings.hint(("towers", name, "encoder", option), "has no effect: the encoder is frozen")


def _idle_when_frozen(encoder: Named | None) -> list[str]:
    """Options, given other values than their defaults, of which the encoder's config says that they speak of training
    alone."""
    if encoder is None:
        return []
    named = getattr(type(encoder.config), "idle_when_frozen", ())
    fields = [f for f in attrs.fields(type(encoder.config)) if f.name in named]
    return [f.name for f in fields if getattr(encoder.config, f.name) != f.default]


def selection(draft: Draft) -> None:
    """`train.select` names towers of the recipe, and there are checkpoints to select from."""
    if draft.train.select and not draft.train.evaluate_every:
        draft.findings.hint(("train", "select"), "selects nothing without evaluate_every: there is only the last step")
    for name in re.findall(r"([\w-]+)->([\w-]+)", draft.train.select):
        for tower in name:
            if draft.towers and tower not in draft.towers:
                message = f"there is no tower {tower!r}" + did_you_mean(tower, draft.towers)
                draft.findings.problem(("train", "select"), message)


def engine(draft: Draft) -> None:
    """The back end's settings fit together, and its package is there."""
    table, train, findings = draft.engine, draft.train, draft.findings
    if table.loss_scale and train.precision != "float16":
        findings.hint(("engine", "loss_scale"), f"has no effect: train.precision is {train.precision!r}")
    if table.use == "local":
        if table.offload != "none":
            findings.problem(("engine", "offload"), 'only DeepSpeed moves state to the host: use = "deepspeed"')
        if table.deepspeed:
            findings.hint(("engine", "deepspeed"), 'has no effect with use = "local"')
        return
    if not _is_installed("deepspeed"):
        findings.problem(("engine", "use"), "DeepSpeed is not installed: pip install 'gentle-core[deepspeed]'")
    needed = {"none": 0, "optimizer": 1, "parameters": 3}[table.offload]
    if table.zero_stage < needed:
        findings.problem(("engine", "offload"), f"{table.offload!r} needs zero_stage = {needed} or more")
    for path, message in conflicts(train, table):
        findings.problem(("engine", "deepspeed", *path), message)


CHECKS: tuple[Callable[[Draft], None], ...] = (
    required_distributions,
    tower_names,
    run_name,
    modalities,
    sources,
    objective_fits,
    pseudo_pairs,
    pairs_name_towers,
    heads_from_cca,
    length_of_training,
    rows_of_batch,
    frozen_encoders,
    selection,
    engine,
)
