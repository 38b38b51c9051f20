"""The arithmetic of PPO: literals by hand, identities, gradients."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from policy.ppo_math import (
    KlEstimator,
    adaptive_kl_coef,
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    gae,
    kl_estimate,
    last_token,
    masked_mean,
    masked_whiten,
    shape_rewards,
)


def vec(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def row(*values: float) -> Tensor:
    return vec(*values)[None]


def marks(text: str) -> Tensor:
    """ "..xx." → False, False, True, True, False."""
    return torch.tensor([[character == "x" for character in text]])


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_masks(rows: int, length: int, seed: int) -> Tensor:
    """A response somewhere in every row: prompt before it, padding behind."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(1, length // 2, (rows, 1), generator=generator)
    sizes = torch.randint(1, length // 2, (rows, 1), generator=generator)
    index = torch.arange(length)
    return (index >= starts) & (index < starts + sizes)


# Generalized advantage estimation


def test_gae_by_hand() -> None:
    # γ = 0.9, λ = 0.5, so γλ = 0.45; r = 1, 2, 3; V = 0.5, 1, 1.5
    #   δ_2 = 3 + 0         − 1.5 = 1.5      Â_2 = 1.5
    #   δ_1 = 2 + 0.9 · 1.5 − 1   = 2.35     Â_1 = 2.35 + 0.45 · 1.5   = 3.025
    #   δ_0 = 1 + 0.9 · 1   − 0.5 = 1.4      Â_0 = 1.4  + 0.45 · 3.025 = 2.76125
    out = gae(row(1, 2, 3), row(0.5, 1, 1.5), marks("xxx"), gamma=0.9, lam=0.5)
    assert_close(out.advantages, row(2.76125, 3.025, 1.5))
    assert_close(out.returns, row(3.26125, 4.025, 3.0))  # Â + V


def test_gae_with_one_reward_at_the_end() -> None:
    # γ = 1, λ = 0.5, V = 0.5 everywhere: δ = 0, 0, 0.5, so Â halves with every step back.
    out = gae(row(0, 0, 1), row(0.5, 0.5, 0.5), marks("xxx"), gamma=1.0, lam=0.5)
    assert_close(out.advantages, row(0.125, 0.25, 0.5))
    assert_close(out.returns, row(0.625, 0.75, 1.0))


def test_lambda_0_is_one_step() -> None:
    # Â_t = δ_t = r_t + γ V_{t+1} − V_t:  1 + 0.9 − 0.5,  2 + 1.35 − 1,  3 − 1.5
    out = gae(row(1, 2, 3), row(0.5, 1, 1.5), marks("xxx"), gamma=0.9, lam=0.0)
    assert_close(out.advantages, row(1.4, 2.35, 1.5))


def test_lambda_1_is_the_return_minus_the_value() -> None:
    rewards, values, mask = random(6, 12, seed=1), random(6, 12, seed=2), random_masks(6, 12, 3)
    out = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    masked = rewards * mask
    future = masked.flip(1).cumsum(1).flip(1)  # Σ_{l ≥ t} r_l, whatever the critic says
    assert_close(out.returns, future * mask)
    assert_close(out.advantages + values * mask, out.returns)


def test_t05_gae_is_the_naive_sum() -> None:
    # Â_t = Σ_l (γλ)^l δ_{t+l} over the tokens that are left: PPO paper eq. (11), in O(T²)
    rewards, values, mask = random(8, 14, seed=1), random(8, 14, seed=2), random_masks(8, 14, 3)
    gamma, lam = 0.97, 0.9
    expected = torch.zeros_like(values)
    for b in range(8):
        steps = mask[b].nonzero().squeeze(1).tolist()
        v = [float(values[b, t]) for t in steps] + [0.0]
        delta = [float(rewards[b, t]) + gamma * v[k + 1] - v[k] for k, t in enumerate(steps)]
        for k, t in enumerate(steps):
            expected[b, t] = sum((gamma * lam) ** j * d for j, d in enumerate(delta[k:]))
    out = gae(rewards, values, mask, gamma=gamma, lam=lam)
    assert_close(out.advantages, expected)
    assert_close(out.returns, expected + values * mask)


def test_gae_reads_nothing_outside_the_response() -> None:
    rewards, values, mask = random(6, 12, seed=1), random(6, 12, seed=2), random_masks(6, 12, 3)
    clean = gae(rewards * mask, values * mask, mask, gamma=0.9, lam=0.8)
    dirty = gae(
        torch.where(mask, rewards, 1e6), torch.where(mask, values, -1e6), mask, gamma=0.9, lam=0.8
    )
    assert_close(dirty.advantages, clean.advantages)
    assert_close(dirty.returns, clean.returns)
    assert (clean.advantages[~mask] == 0).all() and (clean.returns[~mask] == 0).all()


def test_gae_ignores_padding() -> None:
    rewards, values, mask = random(6, 12, seed=1), random(6, 12, seed=2), random_masks(6, 12, 3)
    plain = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    wide = [torch.nn.functional.pad(x, (0, 5)) for x in (rewards, values, mask)]
    padded = gae(*wide, gamma=0.9, lam=0.8)
    assert_close(padded.advantages[:, :12], plain.advantages)
    assert (padded.advantages[:, 12:] == 0).all()


# KL


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # d = log π − log π_0 = 0.5, −0.5, 0
        ("k1", [0.5, -0.5, 0.0]),
        ("k2", [0.125, 0.125, 0.0]),  # d² / 2
        ("k3", [0.106531, 0.148721, 0.0]),  # e^−0.5 − 1 + 0.5;  e^0.5 − 1 − 0.5
    ],
)
def test_kl_estimators_by_hand(estimator: KlEstimator, expected: list[float]) -> None:
    found = kl_estimate(vec(-1.0, -2.0, -3.0), vec(-1.5, -1.5, -3.0), estimator)
    assert_close(found, vec(*expected), rtol=0, atol=1e-6)


def test_k1_and_k3_have_the_kl_as_their_mean() -> None:
    logp, logq = (random(32, seed=s).log_softmax(0) for s in (1, 2))
    kl = torch.nn.functional.kl_div(logq, logp, reduction="sum", log_target=True)
    for estimator in ("k1", "k3"):
        # the exact expectation over tokens y ~ π
        assert_close((logp.exp() * kl_estimate(logp, logq, estimator)).sum(), kl)


def test_k2_is_the_kl_for_close_policies() -> None:
    logits, step = random(32, seed=1), random(32, seed=2) * 1e-3
    logp, logq = logits.log_softmax(0), (logits + step).log_softmax(0)
    kl = torch.nn.functional.kl_div(logq, logp, reduction="sum", log_target=True)
    assert_close((logp.exp() * kl_estimate(logp, logq, "k2")).sum(), kl, rtol=1e-2, atol=0)


def test_k3_is_never_negative() -> None:
    d = torch.cat((random(1000, seed=1) * 5, vec(1e-9, -1e-9, 0.0)))
    assert (kl_estimate(d, torch.zeros_like(d), "k3") >= 0).all()
    # (e^−d − 1) + d = d²/2 for small d; computing e^−d first would lose all digits
    assert_close(kl_estimate(vec(1e-5), vec(0.0), "k3"), vec(5e-11), rtol=1e-4, atol=0)


def test_adaptive_kl_by_hand() -> None:
    # Ziegler et al.: target 6, horizon 10,000, here 256 samples at a time, from β = 0.15
    def step(kl: float) -> float:
        return adaptive_kl_coef(0.15, kl, target=6.0, horizon=10_000, num_samples=256)

    assert step(6.0) == 0.15
    assert step(6.3) == pytest.approx(0.150192)  # e = 0.05:  0.15 · (1 + 0.05 · 0.0256)
    assert step(5.7) == pytest.approx(0.149808)
    assert step(9.0) == pytest.approx(0.150768)  # e = 0.5, held at 0.2: 0.15 · 1.00512
    assert step(60.0) == step(9.0)
    assert step(0.0) == pytest.approx(0.149232)  # e = −1, held at −0.2: 0.15 · 0.99488


# Rewards


def test_score_falls_on_the_last_token() -> None:
    mask = torch.cat((marks(".xxx."), marks("...xx")))
    kl = torch.cat((row(9, 1, 2, 3, 9), row(9, 9, 9, 4, 5)))
    # r_t = −0.1 · KL_t, and scores 2 and −1 on the last token of the response
    rewards = shape_rewards(vec(2, -1), kl, mask, kl_coef=0.1)
    expected = torch.cat((row(0, -0.1, -0.2, 2 - 0.3, 0), row(0, 0, 0, -0.4, -1 - 0.5)))
    assert_close(rewards, expected)
    assert last_token(mask).tolist() == [3, 4]


def test_rewards_of_a_response_add_up_to_eq_4() -> None:
    mask = random_masks(16, 20, 1)
    kl, scores = random(16, 20, seed=2), random(16, seed=3)
    total = shape_rewards(scores, kl, mask, kl_coef=0.05).sum(dim=1)
    assert_close(total, scores - 0.05 * (kl * mask).sum(dim=1))  # R = R̃_c − β KL
    free = shape_rewards(scores, kl, mask, kl_coef=0.0)
    assert_close(free.sum(dim=1), scores)
    assert int((free != 0).sum()) == 16


# Masked statistics


def test_masked_mean_and_whitening_by_hand() -> None:
    # marked 1, 2, 3: mean 2, biased variance 2/3, so ±1.224745
    values, mask = row(100, 1, 2, 3, -100), marks(".xxx.")
    assert masked_mean(values, mask) == 2.0
    assert_close(masked_whiten(values, mask), row(0, -1.224745, 0, 1.224745, 0), rtol=0, atol=1e-6)


def test_whitened_advantages_have_mean_0_and_variance_1() -> None:
    values, mask = random(16, 20, seed=1) * 7 + 30, random_masks(16, 20, 2)
    white = masked_whiten(values, mask)
    assert abs(float(white[mask].mean())) < 1e-9
    assert float(white[mask].var(correction=0)) == pytest.approx(1.0)
    assert (white[~mask] == 0).all()
    assert_close(masked_whiten(torch.where(mask, values, 1e6), mask), white)


def test_equal_values_whiten_to_zero() -> None:
    assert masked_whiten(row(3, 3, 3), marks("xxx")).tolist() == [[0, 0, 0]]


def test_explained_variance_by_hand() -> None:
    mask = marks("xxxx.")
    returns = row(1, 2, 3, 4, 50)
    # residuals 0, 1, 0, 1: variance 0.25; returns: 1.25
    assert explained_variance(row(1, 1, 3, 3, 0), returns, mask) == pytest.approx(0.8)
    assert explained_variance(returns, returns, mask) == 1.0
    assert explained_variance(row(2, 2, 2, 2, 2), returns, mask) == 0.0
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3.0)  # 1 − 4 · 1.25 / 1.25
    assert explained_variance(row(1, 2, 3, 4, 5), row(7, 7, 7, 7, 7), mask) == 0.0


# Clipped losses


def test_clipped_policy_loss_by_hand() -> None:
    # ε = 0.2.  −min( ρÂ, clip(ρ) Â ):
    #   ρ = 0.5, Â = +1: −min( 0.5,  0.8) = −0.5     ρ = 0.5, Â = −1: −min(−0.5, −0.8) = +0.8 *
    #   ρ = 1.0, Â = +2: −2.0                        ρ = 1.5, Â = −1: −min(−1.5, −1.2) = +1.5
    #   ρ = 1.5, Â = +1: −min( 1.5,  1.2) = −1.2 *   ρ = 1.1, Â = +1: −1.1          (* clipped)
    out = clipped_policy_loss(
        vec(0.5, 0.5, 1.0, 1.5, 1.5, 1.1), vec(1, -1, 2, -1, 1, 1), clip_range=0.2
    )
    assert_close(out.loss, vec(-0.5, 0.8, -2.0, 1.5, -1.2, -1.1))
    assert out.clipped.tolist() == [0, 1, 0, 0, 1, 0]


def test_a_clipped_ratio_has_no_gradient() -> None:
    ratio = vec(0.5, 0.5, 1.0, 1.5, 1.5).requires_grad_()
    advantages = vec(1, -1, 2, -1, 1)
    clipped_policy_loss(ratio, advantages, clip_range=0.2).loss.sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [-1, 0, -2, 1, 0]


def test_at_ratio_1_it_is_the_policy_gradient() -> None:
    logprobs = random(16, seed=1).requires_grad_()
    advantages = random(16, seed=2)
    ratio = (logprobs - logprobs.detach()).exp()
    clipped_policy_loss(ratio, advantages, clip_range=0.2).loss.sum().backward()
    assert logprobs.grad is not None
    assert_close(logprobs.grad, -advantages)  # −Â ∇ log π


def test_clipped_value_loss_by_hand() -> None:
    # ε = 0.2, V_old = 0.5.  ½ max( (V − R)², (clip(V) − R)² ):
    #   V = 1.0 → 0.7, R = 2: max(1, 1.69) / 2 = 0.845 *   V = 1.0 → 0.7, R = 0: max(1, 0.49) / 2
    #   V = 0.6 → 0.6, R = 1: 0.16 / 2 = 0.08              V = 0 → 0.3, R = −1: max(1, 1.69) / 2 *
    out = clipped_value_loss(
        vec(1.0, 1.0, 0.6, 0.0), vec(0.5, 0.5, 0.5, 0.5), vec(2, 0, 1, -1), clip_range=0.2
    )
    assert_close(out.loss, vec(0.845, 0.5, 0.08, 0.845))
    assert out.clipped.tolist() == [1, 0, 0, 1]


def test_gradients() -> None:
    # points away from the kinks of min, max and clip
    ratio = vec(0.4, 0.9, 1.05, 1.7).requires_grad_()
    advantages = vec(1.3, -0.7, 0.4, -2.0)
    assert torch.autograd.gradcheck(
        lambda r: clipped_policy_loss(r, advantages, clip_range=0.2).loss, (ratio,)
    )
    values = vec(1.0, 0.55, -0.3, 0.0).requires_grad_()
    old, returns = vec(0.5, 0.5, 0.5, 0.1), vec(0.1, 1.0, -2.0, 3.0)
    assert torch.autograd.gradcheck(
        lambda v: clipped_value_loss(v, old, returns, clip_range=0.2).loss, (values,)
    )
    logprobs = vec(-1.0, -2.0, -0.5, -3.0).requires_grad_()
    for estimator in ("k1", "k2", "k3"):
        assert torch.autograd.gradcheck(lambda p, e=estimator: kl_estimate(p, old, e), (logprobs,))
