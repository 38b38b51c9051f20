"""Losses of preference models, by hand: −log σ(x) = log(1 + e^−x)."""

import pytest
import torch
from torch.testing import assert_close

from data.schemas import STRENGTHS, Strength
from reward.losses import (
    MARGINS,
    STRENGTH_WEIGHTS,
    Margin,
    centring_loss,
    pair_margin,
    pair_weight,
    ranking_loss,
    safety_loss,
)


def vec(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_margins_are_those_of_table_27() -> None:
    # significantly, better, slightly, negligibly
    assert [MARGINS["small"][s] for s in STRENGTHS] == [1, 2 / 3, 1 / 3, 0]
    assert [MARGINS["large"][s] for s in STRENGTHS] == [3, 2, 1, 0]
    assert [MARGINS["none"][s] for s in STRENGTHS] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("margin", "strength", "expected"),
    [
        # scores 1.5 and −0.5, so Δ = 2; each line: Δ − m, then log(1 + e^−(Δ − m))
        ("none", "significantly_better", 0.126928),  # 2
        ("none", "better", 0.126928),
        ("none", "slightly_better", 0.126928),
        ("none", "negligibly_better", 0.126928),
        ("small", "significantly_better", 0.313262),  # 2 − 1 = 1
        ("small", "better", 0.233963),  # 2 − 2/3 = 4/3: log(1 + 0.263597)
        ("small", "slightly_better", 0.173008),  # 2 − 1/3 = 5/3: log(1 + 0.188876)
        ("small", "negligibly_better", 0.126928),
        ("large", "significantly_better", 1.313262),  # 2 − 3 = −1
        ("large", "better", 0.693147),  # 2 − 2 = 0: log 2
        ("large", "slightly_better", 0.313262),  # 2 − 1 = 1
        ("large", "negligibly_better", 0.126928),
    ],
)
def test_ranking_loss_of_every_strength(
    margin: Margin, strength: Strength, expected: float
) -> None:
    loss = ranking_loss(vec(1.5), vec(-0.5), vec(MARGINS[margin][strength]))
    assert_close(loss, vec(expected), rtol=0, atol=1e-6)


def test_without_margin_it_is_bradley_terry() -> None:
    chosen, rejected = random(64, seed=1), random(64, seed=2)
    # P(chosen ≻ rejected) = e^r_c / (e^r_c + e^r_r)
    wins = chosen.exp() / (chosen.exp() + rejected.exp())
    assert_close(ranking_loss(chosen, rejected, torch.zeros(64).double()), -wins.log())


def test_scaled_weighs_the_loss_instead_of_shifting_it() -> None:
    # HelpSteer2-Preference: 3, 2, 1 for much better, better, slightly better; ours: ½ below that.
    assert [STRENGTH_WEIGHTS[s] for s in STRENGTHS] == [3, 2, 1, 0.5]
    assert [pair_margin("scaled", s) for s in STRENGTHS] == [0, 0, 0, 0]
    assert [pair_weight("scaled", s) for s in STRENGTHS] == [3, 2, 1, 0.5]
    assert {pair_weight(m, s) for m in ("none", "small", "large") for s in STRENGTHS} == {1}
    # without a strength: no margin, and the weight of one comparison
    assert [(pair_margin(m, None), pair_weight(m, None)) for m in MARGINS] == [(0, 1)] * 4


def test_label_smoothing_by_hand() -> None:
    # Δ = 2 − 1 = 1, ε = 0.1:  0.9 · log(1 + e^−1) + 0.1 · log(1 + e^1)
    #                        = 0.9 · 0.313262 + 0.1 · 1.313262 = 0.281935 + 0.131326 = 0.413262
    found = ranking_loss(vec(1.5), vec(-0.5), vec(1.0), label_smoothing=0.1)
    assert_close(found, vec(0.413262), rtol=0, atol=1e-6)
    # Its minimum is where σ(Δ) = 1 − ε: Δ = log 9 = 2.197225, so no pair is pushed apart forever.
    chosen = vec(2.1972245773).requires_grad_()
    ranking_loss(chosen, vec(0), vec(0), label_smoothing=0.1).sum().backward()
    assert chosen.grad is not None and abs(float(chosen.grad)) < 1e-9


def test_no_smoothing_is_the_papers_loss() -> None:
    chosen, rejected, margin = random(64, seed=1), random(64, seed=2), random(64, seed=3).abs()
    plain = ranking_loss(chosen, rejected, margin)
    assert torch.equal(ranking_loss(chosen, rejected, margin, label_smoothing=0.0), plain)


def test_centring_by_hand() -> None:
    # (1.5 − 0.5)² = 1;  (2 + 1)² = 9;  (3 − 3)² = 0: what is balanced around 0 is left alone
    assert_close(centring_loss(vec(1.5, 2, 3), vec(-0.5, 1, -3)), vec(1, 9, 0))


def test_only_the_difference_counts() -> None:
    chosen, rejected, margin = random(8, seed=1), random(8, seed=2), random(8, seed=3).abs()
    shifted = ranking_loss(chosen + 7, rejected + 7, margin)
    assert_close(shifted, ranking_loss(chosen, rejected, margin))
    assert_close(shifted, ranking_loss(chosen - margin, rejected, torch.zeros_like(margin)))


def test_scores_far_apart_in_the_wrong_order_stay_finite() -> None:
    # −log σ(−1000) = 1000 + log(1 + e^−1000) = 1000; its gradient with respect to r_c is −1.
    chosen = torch.tensor([-1000.0], requires_grad=True)
    loss = ranking_loss(chosen, torch.tensor([0.0]), torch.tensor([0.0]))
    loss.backward()
    assert loss.item() == 1000.0
    assert chosen.grad is not None and chosen.grad.item() == -1.0


def test_safety_loss_by_hand() -> None:
    # r = 0: log 2 either way.  r = 2, safe: log(1 + e^−2) = 0.126928
    # r = 2, unsafe: log(1 + e^2) = 2.126928.  r = −1, unsafe: log(1 + e^−1) = 0.313262
    loss = safety_loss(
        vec(0, 0, 2, 2, -1),
        torch.tensor([True, False, True, False, False]),
        torch.ones(5, dtype=torch.bool),
    )
    expected = vec(0.693147, 0.693147, 0.126928, 2.126928, 0.313262)
    assert_close(loss, expected, rtol=0, atol=1e-6)


def test_responses_without_a_label_feel_no_safety_loss() -> None:
    scores = random(4).requires_grad_()
    labelled = torch.tensor([True, False, True, False])
    loss = safety_loss(scores, torch.tensor([True, True, False, False]), labelled)
    loss.sum().backward()
    assert scores.grad is not None
    assert loss[~labelled].tolist() == scores.grad[~labelled].tolist() == [0, 0]
    assert (loss[labelled] > 0).all() and (scores.grad[labelled] != 0).all()


def test_gradients() -> None:
    chosen, rejected = random(5, seed=1).requires_grad_(), random(5, seed=2).requires_grad_()
    margin = vec(0, 1 / 3, 1, 2, 3)
    assert torch.autograd.gradcheck(lambda c, r: ranking_loss(c, r, margin), (chosen, rejected))
    assert torch.autograd.gradcheck(
        lambda c, r: ranking_loss(c, r, margin, label_smoothing=0.2), (chosen, rejected)
    )
    assert torch.autograd.gradcheck(centring_loss, (chosen, rejected))
    safe, labelled = margin > 1, margin < 3
    assert torch.autograd.gradcheck(lambda s: safety_loss(s, safe, labelled), (chosen,))


def test_shares_of_a_batch_add_up_to_its_mean() -> None:
    # The contract of the engine: sums of parts, divided by the GLOBAL count, add up to the mean.
    chosen, rejected, margin = random(7, seed=1), random(7, seed=2), random(7, seed=3).abs()
    whole = ranking_loss(chosen, rejected, margin).mean()
    parts = [slice(0, 3), slice(3, 4), slice(4, 7)]
    shares = [ranking_loss(chosen[p], rejected[p], margin[p]).sum() / 7 for p in parts]
    assert_close(sum(shares, torch.tensor(0.0, dtype=torch.float64)), whole)
