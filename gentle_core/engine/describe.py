"""What a run was built from: said at its start, and written into its manifest."""

from __future__ import annotations

from torch import nn

from gentle_core.engine.session import Session

NAMED = 100
"""How many of the items that an encoder cuts are named in the manifest; the counts are exact."""


def describe(session: Session, trains: bool = True) -> None:
    """Put what was built into the manifest and say it; batches and steps only where something is trained."""
    towers = {}
    for name, table in session.recipe.towers.items():
        tower = session.model.tower(name)
        total, _ = _count_parameters(tower.encoder)
        _, trainable = _count_parameters(tower)
        spec = session.resolved.catalog.get("encoder", table.encoder.use).spec
        towers[name] = {
            "modality": table.modality, "encoder": table.encoder.use, "frozen": table.encoder.freeze,
            "parameters": total, "trainable": trainable, "licence": spec.licence, "citation": spec.citation,
            "facts": dict(tower.encoder.facts()),
        }  # fmt: skip
        if name in session.cut:
            towers[name]["cut"] = {
                split: {"count": len(items), "items": items[:NAMED]} for split, items in session.cut[name].items()
            }
    data = {
        "pairs": session.pools.pairs, "pools": session.pools.pool_sizes, "pool": session.recipe.dataset.pool,
        "device": str(session.device),
        "held_out": {name: {t: len(i) for t, i in split.index.items()} for name, split in session.splits.items()},
    }  # fmt: skip
    if trains:
        data |= {
            "paired_rows": session.rows.paired, "unpaired_rows": dict(session.rows.unpaired),
            "steps": session.rows.steps, "steps_per_epoch": session.rows.steps_per_epoch,
            "pseudo_rows": _pseudo_rows(session),
        }  # fmt: skip
    session.run.update_manifest(towers=towers, data=data, dataset=dict(session.dataset.facts()))
    pools = ", ".join(f"{tower} {size}" for tower, size in session.pools.pool_sizes.items())
    session.display.say(f"data: {session.pools.pairs} pairs; unmatched pools: {pools}")
    if not trains:
        return
    rows = ", ".join(f"{tower} {count}" for tower, count in session.rows.unpaired.items())
    pseudo = f"; {n} pseudo-pairs" if (n := _pseudo_rows(session)) else ""
    session.display.say(
        f"batch: {session.rows.paired} matched rows; unmatched rows: {rows}{pseudo}; {session.rows.steps} steps"
    )


def _pseudo_rows(session: Session) -> int:
    """Pseudo-pairs of a batch: none where the pools are empty."""
    table = session.recipe.pseudo
    wanted = table is not None and "pseudo" in session.needs and all(session.pools.pool_sizes.values())
    return table.rows if table is not None and wanted else 0


def _count_parameters(module: nn.Module) -> tuple[int, int]:
    """All parameters and those that train."""
    return (
        sum(p.numel() for p in module.parameters()),
        sum(p.numel() for p in module.parameters() if p.requires_grad),
    )
