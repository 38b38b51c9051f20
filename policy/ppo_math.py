"""The arithmetic of PPO. Pure functions; B sequences, T tokens (prompt + response + right padding).

Per-token tensors are token-aligned and 0 outside the response. The expected values of the tests
come from the papers or by hand, never from this code.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]


class Advantages(NamedTuple):
    """Both [B, T], 0 outside the response."""

    advantages: Tensor
    """Â_t."""
    returns: Tensor
    """Â_t + V_t, what the critic should have said."""


class ClippedLoss(NamedTuple):
    """Both [B, T]."""

    loss: Tensor
    clipped: Tensor
    """1.0 where the clipped term was the larger one."""


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KlEstimator) -> Tensor:
    """Per-token estimate of KL(π ‖ π_0) from samples, with d = log π − log π_0 (Schulman 2020).

    k1 = d            unbiased, can be negative
    k2 = d² / 2       biased, low variance
    k3 = e^(−d) − 1 + d   unbiased, never negative
    """
    d = logprobs - ref_logprobs
    match estimator:
        case "k1":
            return d
        case "k2":
            return 0.5 * d**2
        case "k3":
            return torch.expm1(-d) + d


def shape_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, *, kl_coef: float) -> Tensor:
    """Llama 2 eq. (4) spread over tokens: r_t = −β KL_t, and the score at the last token.

    Args:
        scores: [B] one per response.
        kl: [B, T] per-token estimate.
        response_mask: [B, T] bool; every row has a response.
        kl_coef: β, in reward units per nat.
    """
    rewards = torch.where(response_mask, -kl_coef * kl, 0.0)
    return rewards.scatter_add(1, last_token(response_mask)[:, None], scores[:, None])


def last_token(response_mask: Tensor) -> Tensor:
    """[B] index of the last response token."""
    length = response_mask.shape[1]
    index = torch.arange(length, device=response_mask.device)
    return torch.where(response_mask, index, -1).amax(dim=1)


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, *, gamma: float, lam: float
) -> Advantages:
    """Truncated generalized advantage estimate, PPO paper eq. (11)-(12).

        δ_t = r_t + γ V_{t+1} − V_t,      Â_t = δ_t + γλ Â_{t+1}

    V and Â are 0 after the last response token: a finished response has no future. All inputs are
    constants.
    """
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(response_mask[:, t], advantage, 0.0)
        next_value = torch.where(response_mask[:, t], values[:, t], 0.0)
        next_advantage = advantages[:, t]
    return Advantages(advantages, torch.where(response_mask, advantages + values, 0.0))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the marked entries."""
    return (values * mask).sum() / mask.sum()


def masked_whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and (biased) variance 1 over the marked entries; 0 elsewhere."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return torch.where(mask, (values - mean) * torch.rsqrt(variance + 1e-8), 0.0)


def clipped_policy_loss(ratio: Tensor, advantages: Tensor, *, clip_range: float) -> ClippedLoss:
    """Negative clipped surrogate, PPO paper eq. (7).

    L = −min( ρ Â, clip(ρ, 1 − ε, 1 + ε) Â )
    """
    plain = -ratio * advantages
    clipped = -ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
    return ClippedLoss(torch.maximum(plain, clipped), (clipped > plain).to(plain.dtype))


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float
) -> ClippedLoss:
    """Half the squared error, with the change of the value since sampling held in ±ε.

    L = ½ max( (V − R)², (clip(V, V_old − ε, V_old + ε) − R)² )
    """
    held = torch.maximum(torch.minimum(values, old_values + clip_range), old_values - clip_range)
    plain = (values - returns) ** 2
    clipped = (held - returns) ** 2
    return ClippedLoss(0.5 * torch.maximum(plain, clipped), (clipped > plain).to(plain.dtype))


def adaptive_kl_coef(
    kl_coef: float, kl: float, *, target: float, horizon: int, num_samples: int
) -> float:
    """Proportional controller of β (Ziegler et al. 2019, section 2.2).

    e = clip(KL / target − 1, −0.2, 0.2),      β ← β (1 + e · n / horizon)
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_samples / horizon)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 − Var(returns − values) / Var(returns) over the marked entries: 1 is a perfect critic."""
    residual, target = (returns - values)[mask], returns[mask]
    variance = target.var(correction=0)
    return float(1 - residual.var(correction=0) / variance) if variance > 0 else 0.0
