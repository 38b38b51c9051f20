"""What a run should show: met by a good one, and each missed by its own fault alone."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from data.intervals import proportion
from data.schemas import DOMAINS, STRENGTHS
from policy.evaluation.expectations import judge_expectations

Summary = dict[str, Any]


def cells(*rights: int, n: int = 200) -> dict[str, Any]:
    """Accuracy by strength, from so many right of n."""
    found = [proportion(right, n) for right in rights]
    return {
        strength: {"accuracy": share.value, "low": share.low, "high": share.high, "n": n}
        for strength, share in zip(STRENGTHS, found, strict=True)
    }


def policy_figures(violations: float, refusals: float, correct: float) -> dict[str, Any]:
    by_kind = {"fact": 0.5, "lookalike_verb": refusals, "lookalike_being": refusals}
    return {
        "violation_rate": violations,
        "correct": correct,
        "unnecessary_refusal_rate": {"by_kind": by_kind},
    }


def good_run() -> Summary:
    """At the edge of what is expected, where that is a sharp one."""
    wins = {"win_rate": 0.6, "win_rate_low": 0.51}
    narrow = {"policy": "rejection_sampling", "win_rate": 0.51} | {
        f"win_rate_{end}": value for end, value in (("low", 0.47), ("high", 0.55))
    }
    return {
        "seconds": 479.0,
        "stages": {"sft": {"seconds": 400.0, "tokens_per_second": 1000.0}},
        "peak_memory_bytes": 5.9e9,
        "policies": {
            "sft": policy_figures(0.2, 0.10, 0.5),
            "rejection_sampling": policy_figures(0.1, 0.12, 0.5),
            "ppo": policy_figures(0.1, 0.13, 0.5)
            | wins
            | {"safe_prompts": dict(wins), "previous": narrow},
            "ghost_attention": policy_figures(0.1, 0.13, 0.45),
        },
        # 75 % and 74 % of 200 are no step against the order
        "reward_accuracy": {name: {name: cells(150, 148, 149, 110)} for name in DOMAINS},
        "ghost_attention": {"with": {"1": 0.8, "6": 0.4}, "without": {"6": 0.0}},
    }


def missed(summary: Summary) -> set[str]:
    return {e.name for e in judge_expectations(summary) if not e.met}


def test_a_good_run_meets_them_all() -> None:
    found = judge_expectations(good_run())
    assert missed(good_run()) == set()
    assert len({e.name for e in found}) == len(found) == 15
    assert all(e.sentence.endswith(".") for e in found)


def setting(*path: str, value: object) -> Callable[[Summary], None]:
    """Writes a value somewhere deep in a summary."""

    def change(summary: Summary) -> None:
        *parents, last = path
        for name in parents:
            summary = summary[name]
        summary[last] = value

    return change


PPO = ("policies", "ppo")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (setting("seconds", value=480.0), {"time"}),
        (setting("peak_memory_bytes", value=6e9), {"memory"}),
        (setting(*PPO, "violation_rate", value=0.11), {"violations_halved"}),
        # from 10 %: 12 % (× 1.2) or 13 % (+ 3 points), whichever is more
        (
            setting(*PPO, "unnecessary_refusal_rate", "by_kind", "lookalike_verb", value=0.14),
            {"refusals_lookalike_verb"},
        ),
        (setting(*PPO, "win_rate", value=0.59), {"win_rate"}),
        (setting(*PPO, "win_rate_low", value=0.5), {"win_rate"}),
        (setting(*PPO, "win_rate", value=None), {"win_rate"}),
        (setting(*PPO, "safe_prompts", "win_rate", value=0.59), {"win_rate_safe"}),
        (setting(*PPO, "previous", "win_rate", value=0.5), {"win_rate_previous"}),
        (setting(*PPO, "previous", "win_rate", value=None), {"win_rate_previous"}),
        (setting("ghost_attention", "with", "6", value=0.39), {"recall"}),
        (setting("ghost_attention", "with", "1", value=0.9), {"recall"}),
        (setting("policies", "ghost_attention", "correct", value=0.44), {"recall_costs"}),
    ],
)
def test_one_fault_misses_one(change: Callable[[Summary], None], expected: set[str]) -> None:
    summary = deepcopy(good_run())
    change(summary)
    assert missed(summary) == expected


def test_a_model_that_never_violated_has_nothing_to_mend() -> None:
    summary = good_run()
    summary["policies"]["sft"]["violation_rate"] = 0.19
    summary["policies"]["ppo"]["violation_rate"] = 0.0
    assert missed(summary) == {"sft_violates"}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (cells(149, 140, 130, 100), {"safety_accuracy"}),  # 74.5 %
        (cells(160, 155, 150, 145), {"safety_strength"}),  # 80 ± 6 % and 72.5 ± 6 % overlap
        # slightly 80 % after better 70 %: z = 0.1 / √(0.75 · 0.25 / 100) = 2.31 against the order
        (cells(180, 140, 160, 100), {"safety_strength"}),
        # 78 % after 70 %: z = 0.08 / √(0.74 · 0.26 / 100) = 1.82, which chance may do
        (cells(180, 140, 156, 100), set()),
        ({}, {"safety_accuracy"}),
    ],
)
def test_accuracy_by_strength(table: dict[str, Any], expected: set[str]) -> None:
    summary = good_run()
    summary["reward_accuracy"]["safety"]["safety"] = table
    assert missed(summary) == expected


def overoptimised(*, proxy: float, gold: float) -> Summary:
    """A run of 480 s, one of them spent on showing over-optimisation."""
    summary = good_run() | {"seconds": 480.0}
    summary["stages"]["overoptimise"] = {"seconds": 1.0, "tokens_per_second": None}
    summary["overoptimise"] = {
        "first": {"proxy": 5.0, "gold_helpfulness": 0.6},
        "last": {"proxy": proxy, "gold_helpfulness": gold},
    }
    return summary


@pytest.mark.parametrize(
    ("proxy", "gold", "expected"),
    [(5.1, 0.59, set()), (5.0, 0.59, {"overoptimisation"}), (5.1, 0.6, {"overoptimisation"})],
)
def test_overoptimisation_shows_when_proxy_and_gold_part(
    proxy: float, gold: float, expected: set[str]
) -> None:
    assert missed(overoptimised(proxy=proxy, gold=gold)) == expected
