"""What rounds.json says about policies and rounds."""

from typing import Any

import pytest

from policy.evaluation.progress import (
    RoundResult,
    judge_by_gold,
    judge_by_rewards,
    policy_records,
)
from policy.evaluation.win_rate import WinRate


def sample(policy: str, prompt: str, helpfulness: float, safety: float) -> dict[str, Any]:
    """Of an unsafe prompt where its name begins with u."""
    return {
        "policy": policy,
        "prompt_id": prompt,
        "domain": "safety" if prompt[0] == "u" else "helpfulness",
        "helpfulness_score": helpfulness,
        "safety_score": safety,
    }


SAMPLES = [
    sample("sft", "h1", 1.0, 9.0),
    sample("sft", "u1", 9.0, -1.0),
    sample("sft", "h2", 2.0, 9.0),
    # harmless: higher, then equal; unsafe: lower, whatever the other score says
    sample("v1", "h1", 1.5, 0.0),
    sample("v1", "u1", 99.0, -2.0),
    sample("v1", "h2", 2.0, 0.0),
]


def counts(record: dict[str, Any]) -> tuple[int, int, int]:
    return record["win"], record["tie"], record["loss"]


def test_each_prompt_has_the_judge_of_its_domain() -> None:
    found = judge_by_rewards(SAMPLES)
    assert list(found) == ["v1"]
    assert counts(found["v1"]["helpfulness"]) == (1, 1, 0)
    assert counts(found["v1"]["safety"]) == (0, 0, 1)
    assert counts(found["v1"]["all"]) == (1, 1, 1)
    assert found["v1"]["all"]["win_rate"] == 0.5
    mirrored = judge_by_rewards(SAMPLES[3:] + SAMPLES[:3])["sft"]
    assert counts(mirrored["all"]) == (1, 1, 1) and counts(mirrored["safety"]) == (1, 0, 0)


def test_a_judge_needs_an_answer_to_every_prompt() -> None:
    with pytest.raises(ValueError, match="is longer than"):
        judge_by_rewards(SAMPLES[:-1])


def gold_figures() -> dict[str, Any]:
    return {
        "gold_helpfulness": 0.6,
        "violation_rate": 0.1,
        **WinRate(win=10, tie=4, loss=6).to_record(),
        "safe_prompts": WinRate(win=7, tie=3, loss=5).to_record(),
    }


def test_gold_of_unsafe_prompts_is_what_the_harmless_ones_leave() -> None:
    found = judge_by_gold(gold_figures())
    assert counts(found["safety"]) == (10 - 7, 4 - 3, 6 - 5)
    assert found["safety"]["win_rate"] == 0.75
    assert found["helpfulness"]["win_rate"] == pytest.approx(7 / 12)
    assert found["all"]["win_rate"] == 10 / 16


def test_records_with_and_without_gold() -> None:
    rounds = {"sft": 0, "v1": 1}
    sft = {"gold_helpfulness": 0.4, "violation_rate": 0.5}
    first, second = policy_records(rounds, SAMPLES, {"sft": sft, "v1": gold_figures()})
    assert first == {"policy": "sft", "round": 0, **sft}  # nobody compares it with itself
    assert (second["gold_helpfulness"], second["violation_rate"]) == (0.6, 0.1)
    assert counts(second["by_gold"]["all"]) == (10, 4, 6)
    assert counts(second["by_rewards"]["all"]) == (1, 1, 1)
    unknown = policy_records(rounds, SAMPLES, {})
    assert [set(record) for record in unknown] == [
        {"policy", "round"},
        {"policy", "round", "by_rewards"},
    ]


def test_a_reward_model_is_measured_on_its_own_domain() -> None:
    own, other = ({"accuracy": value, "low": 0.0, "high": 1.0, "n": 9} for value in (0.7, 0.6))
    accuracy = {
        "helpfulness": {"helpfulness": {"all": own}, "safety": {"all": other}},
        "safety": {"helpfulness": {"all": other}},  # the test split has no safety comparisons
    }
    result = RoundResult(number=2, comparisons=10, comparisons_so_far=25, accuracy=accuracy)
    assert result.to_record() == {
        "round": 2,
        "comparisons": 10,
        "comparisons_so_far": 25,
        "reward_accuracy": {"helpfulness": own, "safety": None},
    }
