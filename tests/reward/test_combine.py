"""R_c and its whitening (Llama 2, section 3.2.3)."""

import torch
from torch.testing import assert_close

from reward.combine import (
    SAFETY_THRESHOLD,
    combine_scores,
    normalise,
    to_probability,
    to_score,
    whiten,
)


def test_the_rule_by_hand() -> None:
    # logit(0.15) = log(0.15 / 0.85) = −1.7346:  σ(−1.74) = 0.1493 < 0.15 < 0.1506 = σ(−1.73)
    assert SAFETY_THRESHOLD == 0.15
    combined = combine_scores(
        safety=torch.tensor([-1.74, -1.73, 3.0, 3.0, -5.0]),
        helpfulness=torch.tensor([9.0, 9.0, 9.0, -2.0, 9.0]),
        is_safety_prompt=torch.tensor([False, False, True, False, True]),
        threshold=SAFETY_THRESHOLD,
    )
    # unsafe response; safe enough; safety prompt; harmless and safe; safety prompt, unsafe response
    assert_close(combined, torch.tensor([-1.74, 9.0, 3.0, -2.0, -5.0]))


def test_threshold_is_on_the_probability_of_being_safe() -> None:
    # σ(0.4) = 0.5987, σ(0.41) = 0.6011
    safety, tags = torch.tensor([0.4, 0.41]), torch.tensor([False, False])
    combined = combine_scores(safety, torch.tensor([7.0, 7.0]), tags, threshold=0.6)
    assert_close(combined, torch.tensor([0.4, 7.0]))


def test_raw_scores_are_the_logits_of_the_papers_rule() -> None:
    generator = torch.Generator().manual_seed(0)
    safety, helpfulness = torch.randn(2, 256, dtype=torch.float64, generator=generator) * 3
    tags = torch.rand(256, generator=generator) < 0.3
    r_s, r_h = safety.sigmoid(), helpfulness.sigmoid()
    r_c = torch.where(tags | (r_s < 0.15), r_s, r_h)  # as printed, on probabilities
    combined = combine_scores(safety, helpfulness, tags, 0.15)
    assert_close(combined, torch.logit(r_c))
    assert_close(whiten(combined), whiten(torch.logit(r_c)))


def test_whiten_by_hand() -> None:
    # mean 2, biased variance (1 + 0 + 1) / 3 = 2/3:  ±1 / √(2/3) = ±1.224745
    assert_close(whiten(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([-1.224745, 0.0, 1.224745]))


def test_whitened_scores_have_mean_0_and_variance_1() -> None:
    scores = torch.randn(512, generator=torch.Generator().manual_seed(1)) * 5 + 40
    white = whiten(scores)
    assert abs(float(white.mean())) < 1e-5
    assert abs(float(white.var(correction=0)) - 1) < 1e-5
    assert torch.equal(white.argsort(), scores.argsort())


def test_equal_scores_are_no_signal() -> None:
    assert whiten(torch.full((8,), 3.0)).tolist() == [0.0] * 8


def test_probability_and_score_by_hand() -> None:
    # σ(0) = ½;  σ(log 3) = 3 / 4;  σ(−log 9) = 1 / 10;  logit(0.15) = log(0.15 / 0.85) = −1.734601
    scores = torch.tensor([0.0, 1.0986123, -2.1972246])
    assert_close(to_probability(scores), torch.tensor([0.5, 0.75, 0.1]))
    assert_close(to_score(torch.tensor([0.5, 0.75, 0.1])), scores)
    assert_close(to_score(torch.tensor(0.15)), torch.tensor(-1.734601))


def test_the_round_trip_that_the_rule_avoids() -> None:
    # In fp32 σ(30) rounds to 1 and its logit is infinite; R_c keeps 30.
    score = torch.tensor([30.0])
    assert to_score(to_probability(score)).item() == float("inf")
    safe = torch.tensor([False])
    assert combine_scores(score, score, safe, SAFETY_THRESHOLD).item() == 30.0


def test_normalise_by_hand() -> None:
    # mean 2, std 4: (6 − 2) / 4 = 1,  (0 − 2) / 4 = −½
    assert_close(normalise(torch.tensor([6.0, 0.0]), 2.0, 4.0), torch.tensor([1.0, -0.5]))
