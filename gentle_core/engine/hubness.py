"""A trained model's ranking with hubness correction, beside the plain one: `[evaluate] hubness`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gentle_core.closed_form.hubness import GRID, choose_hubness
from gentle_core.data.streams import stream
from gentle_core.engine.session import Session
from gentle_core.engine.splits import Split
from gentle_core.engine.towers import AlignedModel
from gentle_core.evaluate.retrieval import describe_all


def correct_hubness(session: Session, model: AlignedModel) -> dict[str, Any]:
    """Choose a correction on validation, and measure every evaluated split with it; concerns the first tower pair.

    Banks are training items through the model: matched ones and unmatched ones, each tower's drawn on its own, so that
    no pairing enters. Scores are cosines.

    Returns:
        "settings" (what was chosen) and "splits" (retrieval figures by split); empty where there is no bank.
    """
    table, pair = session.recipe.evaluate, session.builder.pairs()[0]
    assert session.validation is not None
    banks = _banks(session, model, pair)
    banks = {
        name: bank for name, bank in banks.items() if table.bank in ("auto", name) and (len(bank[0]) or len(bank[1]))
    }
    if not banks:
        session.notice(f"evaluate.bank = {table.bank!r}: there are no such rows, and hubness is not corrected")
        return {}
    grid = [s for s in GRID if table.hubness == "auto" or s.method == table.hubness]
    a, b = pair
    val = session.validation.embed(model)
    chosen = choose_hubness(banks, val.z[a], val.z[b], val.samples[a], val.samples[b], grid=grid, names=pair)
    splits = {}
    for name, split in session.splits.items():
        e = split.embed(model)
        ranks = chosen.corrected.ranks_both(e.z[a], e.z[b], e.samples[a], e.samples[b], pair)
        splits[name] = describe_all(ranks)
    return {"settings": chosen.facts, "splits": splits}


def _banks(session: Session, model: AlignedModel, pair: tuple[str, str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Unit rows of both towers by bank, at most `evaluate.bank_rows` each."""
    rows: dict[str, list[Tensor]] = {"pairs": [], "unpaired": []}
    for tower in pair:
        matched = [p for positions in session.pools.matched[tower] for p in positions.tolist()]
        drawn = {
            name: _draw(session, positions, name, tower)
            for name, positions in (("pairs", matched), ("unpaired", session.pools.unmatched[tower].tolist()))
        }
        # A split keeps what it was asked for first: all positions at once.
        split: Split = session.split("train")
        features = split.features(model, tower, sorted({p for positions in drawn.values() for p in positions}))
        for name, positions in drawn.items():
            rows[name].append(model.head(tower, features[positions]))
    return {name: (parts[0], parts[1]) for name, parts in rows.items()}


def _draw(session: Session, positions: list[int], bank: str, tower: str) -> list[int]:
    order = stream(session.recipe.train.seed, "bank", bank, tower).permutation(len(positions))
    return sorted(positions[i] for i in order[: session.recipe.evaluate.bank_rows])
