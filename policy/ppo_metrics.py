"""What PPO says about a batch, under the names that users of other toolkits know."""

from pathlib import Path

from torch import Tensor

from policy.ppo_math import KlEstimator, explained_variance, kl_estimate
from reward.score import Scores
from rlhf.metrics import read_metrics
from rlhf.types import Experience


def kl_by_step(run: Path) -> dict[int, float]:
    """Nats per response against the reference in each step that a run has logged."""
    return {m["step"]: m["objective/kl"] for m in read_metrics(run) if "objective/kl" in m}


def batch_metrics(
    rows: Experience, scores: Scores, kl_coef: float, *, seconds: float
) -> dict[str, float]:
    """Metrics of a batch that was learned from.

    Args:
        rows: the batch with everything known about it.
        scores: raw scores of its responses.
        kl_coef: β that it was rewarded with.
        seconds: that the iteration took.
    """
    mask = rows.response_mask
    assert rows.values is not None and rows.returns is not None
    assert rows.scores is not None and rows.rewards is not None
    return {
        "objective/kl": _mean_kl(rows, "k1"),
        "objective/kl_k2": _mean_kl(rows, "k2"),
        "objective/kl_k3": _mean_kl(rows, "k3"),
        "objective/kl_coef": kl_coef,
        "objective/entropy": _per_response(-rows.logprobs * mask),
        "objective/scores": float(scores.combined.mean()),
        "objective/non_score_reward": float((rows.rewards.sum(dim=1) - rows.scores).mean()),
        "objective/rlhf_reward": _per_response(rows.rewards),
        "val/explained_variance": explained_variance(rows.values, rows.returns, mask),
        "val/num_eos_tokens": float(rows.ended.sum()),
        "response/tokens": _per_response(mask.float()),
        "tokens_per_second": rows.num_response_tokens / seconds,
        "seconds": seconds,
    } | _by_model(scores, "objective/scores_helpfulness", "objective/scores_safety")


def held_out_metrics(rows: Experience, scores: Scores) -> dict[str, float]:
    """Metrics of answers to held-out prompts.

    Args:
        rows: the answers, with reference log-probabilities.
        scores: their raw scores.
    """
    return {
        "eval/scores": float(scores.combined.mean()),
        "eval/kl": _mean_kl(rows, "k1"),
        "eval/tokens": _per_response(rows.response_mask.float()),
        "eval/eos_share": float(rows.ended.float().mean()),
    } | _by_model(scores, "eval/scores_helpfulness", "eval/scores_safety")


def _by_model(scores: Scores, helpfulness: str, safety: str) -> dict[str, float]:
    """Means under these names; none where a function is the reward."""
    values = {helpfulness: scores.helpfulness, safety: scores.safety}
    return {name: float(found.mean()) for name, found in values.items() if found is not None}


def _mean_kl(rows: Experience, estimator: KlEstimator) -> float:
    """Nats per response between sampler and reference."""
    assert rows.ref_logprobs is not None
    kl = kl_estimate(rows.logprobs, rows.ref_logprobs, estimator)
    return _per_response(kl * rows.response_mask)


def _per_response(values: Tensor) -> float:
    """Mean over rows of the sum over tokens, of [B, T]."""
    return float(values.sum(dim=1).mean())
