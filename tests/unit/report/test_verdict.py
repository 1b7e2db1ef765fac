"""What the report says about each kind of result."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from gentle_core.report.retrieval import Difference
from gentle_core.report.verdict import Evidence, choose_split, find_cca, find_clip, verdict

CLIP, CCA = "CLIP, pairs only", "CCA, closed form"
THIN = "\u202f"


def flat(recall: float, pool: int = 800, **more: float) -> dict[str, float]:
    found: dict[str, float] = {"retrieval/mean/R@10": recall, "retrieval/mean/R@10_chance": 1000 / pool}
    for direction, shift in (("sequence->structure", 0.5), ("structure->sequence", -0.5)):
        prefix = f"retrieval/{direction}"
        found |= {f"{prefix}/R@10": recall + shift, f"{prefix}/candidates": pool, f"{prefix}/queries": pool}
        found[f"{prefix}/R@10_chance"] = 1000 / pool
    return found | more


LENGTH = {"length/R@1_equal_chance": 10.0, "length/queries_equal": 600.0, "length/oracle/R@10": 96.9}


def evidence(recall: float = 38.0, **more: Any) -> Evidence:
    base = Evidence(
        metrics=flat(recall),
        baselines={CLIP: flat(39.0), CCA: flat(30.0)},
        differences={CLIP: Difference(-1.0, -3.1, 1.2), CCA: Difference(8.0, 5.0, 11.0)},
        unpaired_rows=256,
    )
    return attrs.evolve(base, **more)


def finding(e: Evidence, question: str) -> Any:
    return next(f for f in verdict(e).findings if question in f.question)


def plain(text: str) -> str:
    return text.replace(THIN, " ").replace("\u2212", "-")


def test_the_headline_states_recall_chance_and_the_null_result() -> None:
    found = verdict(evidence())
    lead = plain(found.lead)
    assert (
        "Among 800 held-out candidates, the right structure is among the first ten for 38.5 % of the sequence" in lead
    )
    assert "the right sequence for 37.5 % of the structure queries (chance 1.2 %)" in lead
    assert "CLIP on the same pairs reaches 39.0 %: the unpaired terms brought nothing measurable here" in lead
    assert "(this run minus CLIP: -1.0 points, 95 % interval -3.1…+1.2)" in lead
    assert "single seed" in lead
    assert found.title == "The towers were aligned, but the unpaired data brought nothing measurable"
    assert finding(evidence(), "unpaired").tone == "even"


@pytest.mark.parametrize(
    ("difference", "words", "title", "tone"),
    [
        (Difference(4.0, 1.0, 7.0), "helped here", "and the unpaired data helped", "good"),
        (Difference(-4.0, -7.0, -1.0), "did harm here", "but the unpaired data did harm", "bad"),
        (Difference(4.0, -0.1, 8.1), "nothing measurable", "nothing measurable", "even"),
    ],
)
def test_better_and_worse_need_an_interval_without_zero(
    difference: Difference, words: str, title: str, tone: str
) -> None:
    e = evidence(differences={CLIP: difference})
    assert words in finding(e, "unpaired").text and finding(e, "unpaired").tone == tone
    assert title in verdict(e).title


def test_an_interval_from_averages_is_named_as_such() -> None:
    e = evidence(differences={CLIP: Difference(-1.0, -6.0, 4.0, paired=False)})
    assert "estimated from the averages alone" in finding(e, "unpaired").text


def test_nothing_is_claimed_without_an_interval() -> None:
    e = evidence(differences={})
    assert finding(e, "unpaired").tone == "unknown" and "too few held-out queries" in finding(e, "unpaired").text
    assert finding(e, "CCA").tone == "unknown"
    assert "cannot be told" in verdict(e).title


def test_cca_ahead_is_said_in_title_and_lead() -> None:
    e = evidence(baselines={CLIP: flat(39.0), CCA: flat(45.0)}, differences={CCA: Difference(-7.0, -9.0, -5.0)})
    assert verdict(e).title.endswith("; CCA does better")
    assert "Closed-form CCA on the same pairs reaches 45.0 %, which is better." in plain(verdict(e).lead)
    assert finding(e, "CCA").tone == "bad"
    assert "CCA" not in verdict(evidence()).title and "CCA" not in verdict(evidence()).lead


def test_the_strongest_cca_is_the_one_to_beat() -> None:
    other = "CCA on the pairs-only features"
    baselines = {CLIP: flat(39.0), CCA: flat(30.0), other: flat(45.0)}
    assert find_cca(baselines) == other and find_clip(baselines) == CLIP
    e = evidence(baselines=baselines, differences={other: Difference(-7.0, -9.0, -5.0)})
    assert finding(e, "CCA").text.startswith("CCA on the pairs-only features reaches 45.0")


def test_no_cca_difference_is_no_parity() -> None:
    e = evidence(differences={CCA: Difference(0.4, -2.0, 2.8)})
    assert "no measurable difference" in finding(e, "CCA").text and finding(e, "CCA").tone == "even"


def test_near_chance() -> None:
    # 800 queries at 1.25 %: luck alone reaches 1.25 + 1.96 · sqrt(.0125 · .9875 / 800) = 2.02 %
    found = verdict(evidence(recall=1.9))
    assert found.title == "Nothing was learned that held-out data can show"
    assert "cannot be told from guessing" in found.lead
    assert found.findings[0].answer == "No"
    assert verdict(evidence(recall=2.2)).findings[0].answer == "Barely"
    assert verdict(evidence(recall=2.2)).title.startswith("Barely above chance")
    assert verdict(evidence(recall=3.5)).title.startswith("Above chance")


def test_length_that_explains_the_retrieval() -> None:
    # 300 independent queries at 10 %: up to 13.4 % is luck
    e = evidence(metrics=flat(38.0, **LENGTH, **{"length/R@1_equal": 12.5}))
    assert verdict(e).title == "Above chance, but length explains it"
    assert finding(e, "length").tone == "bad"
    assert "no better than guessing: length explains the retrieval" in verdict(e).lead


def test_length_that_does_not() -> None:
    e = evidence(metrics=flat(38.0, **LENGTH, **{"length/R@1_equal": 58.0}))
    found = finding(e, "length")
    assert found.answer == "No" and "know more than the length" in found.text
    assert "Sorting by length alone would give R@10 96.9 %: more than this run reaches" in plain(found.text)
    assert "length" not in verdict(e).lead
    assert (
        "less than this run"
        in finding(evidence(metrics=flat(98.0, **LENGTH, **{"length/R@1_equal": 58.0})), "length").text
    )


def test_random_weights_are_in_the_lead() -> None:
    e = evidence(random_towers=["sequence"])
    assert "No pretrained weights were found for tower sequence" in verdict(e).lead
    assert "started from random ones" in finding(e, "sure").text


def test_seeds() -> None:
    assert finding(evidence(), "sure").answer == "One seed" and finding(evidence(), "sure").tone == "even"
    several = evidence(seeds=5)
    assert finding(several, "sure").answer == "5 seeds" and finding(several, "sure").tone == "good"
    assert "single seed" not in verdict(several).lead


def test_a_run_without_unpaired_rows_says_nothing_about_them() -> None:
    alone = evidence(unpaired_rows=0, baselines={}, differences={})
    assert "from matched pairs alone" in verdict(alone).title
    assert finding(alone, "unpaired").answer == "Not tested"
    assert "helped" not in finding(evidence(unpaired_rows=0), "unpaired").text


def test_without_baselines() -> None:
    e = evidence(baselines={}, differences={})
    assert "was not tested" in verdict(e).title
    assert "pairs_only = true" in finding(e, "unpaired").text
    assert finding(e, "CCA").answer == "Not tested"


@pytest.mark.parametrize("status", ["interrupted", "failed", "running", "finished"])
def test_without_results(status: str) -> None:
    found = verdict(Evidence(status=status))
    assert found.title == "No held-out result yet" and not found.findings
    assert (status in found.lead or "has not reached" in found.lead) == (status != "finished")


def test_figures_from_during_the_training_and_from_validation_are_named() -> None:
    e = evidence(split="val", step=250, status="interrupted")
    assert "Among 800 held-out candidates (validation split), at step 250 during training" in verdict(e).lead
    assert "status: interrupted" in finding(e, "sure").text and "flatters" in finding(e, "sure").text


def test_baselines_that_are_still_to_come() -> None:
    e = evidence(baselines={}, differences={}, pending=True, status="running")
    assert finding(e, "unpaired").answer == "Not yet"
    assert verdict(e).title.endswith("and the baselines are still to come")


def test_in_a_small_pool_the_way_to_perfect_counts() -> None:
    # 10 of 24 by guessing: no model can be three times better
    assert verdict(evidence(metrics=flat(91.7, pool=24))).findings[0].answer == "Yes"
    assert verdict(evidence(metrics=flat(60.0, pool=24))).findings[0].answer == "No"  # luck with 24 queries


def test_many_directions_are_averaged() -> None:
    names = ["a->b", "b->a", "a->c", "c->a"]
    metrics = {f"retrieval/{n}/{k}": v for n in names for k, v in (("R@10", 20.0), ("candidates", 100.0))}
    found = verdict(Evidence(metrics=metrics))
    assert "20.0 % of the queries, averaged over 4 directions (chance 10.0 %)" in plain(found.lead)


def test_test_is_preferred_to_val() -> None:
    assert choose_split({"val": flat(1.0), "test": flat(2.0)}) == "test"
    assert choose_split({"val": flat(1.0), "test": {}}) == "val"
    assert choose_split({"held": flat(1.0)}) == "held"
    assert choose_split({"val": {"loss": 1.0}}) is None
