"""The health of PPO: figures by hand, and what each alarm listens to."""

from typing import Any

import pytest
import torch

from policy.health import (
    correlation,
    favourite_token,
    health_figures,
    raised_alarms,
    repeated_ngrams,
    scores_by_length,
)
from rlhf.types import Experience, Rollout

HEALTHY: dict[str, Any] = {
    "objective/kl": 2.0,
    "objective/scores_helpfulness": 3.0,
    "objective/scores_safety": 1.0,
    "policy/clipfrac_avg": 0.05,
    "policy/approxkl_avg": 0.01,
    "policy/entropy_avg": 1.0,
    "val/explained_variance": 0.4,
    "response/tokens": 40.0,
    "health/probability_gap": 0.001,
    "health/eos_share": 0.9,
    "health/repeated_ngrams": 0.05,
    "health/score_length_correlation": 0.4,
    "health/favourite_token": 7.0,
    "health/favourite_kl": 0.5,
    "health/favourite_said_share": 0.9,
}


def course(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [HEALTHY | change | {"step": float(n)} for n, change in enumerate(changes)]


def names(*changes: dict[str, Any]) -> list[str]:
    return [alarm.name for alarm in raised_alarms(course(*changes), str)]


def batch() -> Experience:
    """Responses 5 6 5 6 5, cut off; 9 EOS; 5 9 EOS. The policy learned to say 5 and to end."""
    responses = [[5, 6, 5, 6, 5], [9, 2], [5, 9, 2]]
    rollouts = [
        Rollout(
            prompt_id=str(n),
            prompt_ids=[1, 5],
            response_ids=ids,
            response_logprobs=[-1.0] * len(ids),
            finish_reason="eos" if ids[-1] == 2 else "length",
            policy_version=0,
        )
        for n, ids in enumerate(responses)
    ]
    rows = Experience.from_rollouts(rollouts, pad_id=0)
    # log π − log π_0: 1.5 for token 5, 9 for EOS, −0.5 for 6 and 0 for 9
    gains = torch.zeros(10)
    gains[[5, 2, 6]] = torch.tensor([1.5, 9.0, -0.5])
    return rows.with_(ref_logprobs=(rows.logprobs - gains[rows.tokens]) * rows.response_mask)


def test_repeated_ngrams_by_hand() -> None:
    # 1 2 3 1 2 3: 123 231 312 123, of which the last was there before; 4 5 6: one, new
    assert repeated_ngrams([[1, 2, 3, 1, 2, 3], [4, 5, 6]], 3) == pytest.approx(1 / 5)
    assert repeated_ngrams([[7] * 12], 3) == pytest.approx(0.9)  # 10 of them, all the same
    assert repeated_ngrams([[1, 2], []], 3) == 0.0
    assert repeated_ngrams([[1, 2, 3], [1, 2, 3]], 3) == 0.0  # in another response


def test_correlation_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert correlation(x, 5 - 2 * x) == pytest.approx(-1.0)
    # deviations −1 0 1 and −1 1 0: product 1, both squares 2
    assert correlation(x, torch.tensor([1.0, 3.0, 2.0])) == pytest.approx(0.5)
    assert correlation(x, torch.ones(3)) == 0.0


def test_scores_by_length_by_hand() -> None:
    scores = torch.tensor([6.0, 1.0, 5.0, 2.0, 4.0, 3.0])
    lengths = torch.tensor([60, 10, 50, 20, 40, 30])
    found = scores_by_length(scores, lengths)
    assert found == {
        "health/score_short": 1.5,
        "health/score_middle": 3.5,
        "health/score_long": 5.5,
    }
    assert set(scores_by_length(scores[:1], lengths[:1])) == {"health/score_short"}


def test_the_favourite_token_by_hand() -> None:
    # token 5 stands four times in two of the three responses (a prompt's does not count):
    # 4 · 1.5 / 3 nats per response; EOS, which gained more, is left out
    assert favourite_token(batch()) == {
        "health/favourite_token": 5,
        "health/favourite_kl": pytest.approx(2.0),
        "health/favourite_said_share": pytest.approx(2 / 3),
    }
    rows = batch()
    assert favourite_token(rows.with_(ref_logprobs=rows.logprobs)) == {}


def test_figures_of_a_batch() -> None:
    # lengths 5, 2, 3; scores 2, −1, 0 = length − 3
    found = health_figures(batch(), torch.tensor([2.0, -1.0, 0.0]))
    assert found["health/eos_share"] == pytest.approx(2 / 3)
    assert found["health/score_length_correlation"] == pytest.approx(1.0)
    assert found["health/repeated_ngrams"] == pytest.approx(1 / 4)  # 565 656 565, and 592
    assert (found["health/score_short"], found["health/score_long"]) == (-1.0, 2.0)


def test_a_healthy_run_raises_no_alarm() -> None:
    assert names(*[{}] * 30) == []


@pytest.mark.parametrize(
    ("name", "change", "harmless"),
    [
        ("step_too_large", {"policy/clipfrac_avg": 0.4}, {"policy/clipfrac_avg": 0.25}),
        ("step_too_large", {"policy/approxkl_avg": 0.2}, {"policy/approxkl_avg": 0.09}),
        ("kl_high", {"objective/kl": 21.0}, {"objective/kl": 19.0}),
        ("kl_negative", {"objective/kl": -1.5}, {"objective/kl": -0.5}),
        ("sampler_differs", {"health/probability_gap": 0.02}, {"health/probability_gap": 0.009}),
        ("entropy_collapse", {"policy/entropy_avg": 0.1}, {"policy/entropy_avg": 0.3}),
        ("no_end", {"health/eos_share": 0.5}, {"health/eos_share": 0.7}),
        ("reward_pays_for_length", {"response/tokens": 70.0}, {"response/tokens": 55.0}),
        ("responses_shrink", {"response/tokens": 15.0}, {"response/tokens": 25.0}),
        ("repetition", {"health/repeated_ngrams": 0.3}, {"health/repeated_ngrams": 0.2}),
        (
            "helpfulness_falls",
            {"objective/scores_helpfulness": 1.5, "objective/scores_safety": 2.0},
            {"objective/scores_helpfulness": 2.5, "objective/scores_safety": 2.0},
        ),
        (
            "safety_falls",
            {"objective/scores_helpfulness": 4.0, "objective/scores_safety": -0.5},
            {"objective/scores_helpfulness": 2.9, "objective/scores_safety": -0.5},
        ),
        ("favourite_phrase", {"health/favourite_kl": 1.2}, {"health/favourite_said_share": 0.7}),
    ],
)
def test_each_alarm(name: str, change: dict[str, Any], harmless: dict[str, Any]) -> None:
    assert names({}, change, change, change) == [name]
    assert names({}, harmless, harmless, harmless) == []


def test_alarms_that_need_their_circumstances() -> None:
    longer = {"response/tokens": 70.0, "health/score_length_correlation": 0.1}
    assert names({}, *[longer] * 3) == []  # longer, but not because it pays
    assert names({"health/eos_share": 0.0}) == ["no_end"]  # from the start
    useless = {"val/explained_variance": -0.5}
    assert names(*[useless] * 19) == []
    assert names(*[useless] * 20) == ["critic_useless"]


def test_one_odd_iteration_raises_no_alarm() -> None:
    # the mean of three: (2 + 2 + 50) / 3 = 18 nats
    assert names({}, {}, {"objective/kl": 50.0}, {}, {}) == []


def test_an_alarm_is_raised_once_and_says_when_and_what() -> None:
    fault = {"health/favourite_kl": 1.5, "health/favourite_said_share": 1.0}
    (alarm,) = raised_alarms(course({}, {}, *[fault] * 5), lambda token: f"thanks{token}")
    # (0.5 + 0.5 + 1.5) / 3 of 2 nats is 42 %; one iteration later (0.5 + 1.5 + 1.5) / 3 is 58 %
    assert alarm.step == 3
    assert alarm.finding.startswith("97% of the responses say 'thanks7', from which 58% of the KL")
    assert str(alarm).startswith("iteration 3: 97%") and "What to do: read the samples" in str(
        alarm
    )


def test_numbers_that_are_not_finite() -> None:
    assert names({}, {"loss/policy_avg": None}) == ["not_finite"]
    assert names({}, {"loss/policy_avg": None}, {}) == ["not_finite"]  # and it goes on
