"""From two scores to one reward (Llama 2, section 3.2.3). Pure functions; B responses.

A *score* is the raw output of a reward model, any real number; σ(score) is in (0, 1).
"""

import torch
from torch import Tensor

SAFETY_THRESHOLD = 0.15
"""σ(safety score) below which a response counts as unsafe whatever its prompt."""


def to_probability(scores: Tensor) -> Tensor:
    """σ(score): for the safety model, the probability that the response is safe."""
    return torch.sigmoid(scores)


def to_score(probabilities: Tensor) -> Tensor:
    """logit(p) = log(p / (1 − p)), the inverse of `to_probability`.

    Never apply it to a σ of ours: logit(σ(x)) = x, and in fp32 the round trip loses everything
    beyond |x| = 17. It is for thresholds and for other people's probabilities.
    """
    return torch.logit(probabilities)


def normalise(scores: Tensor, mean: float, std: float) -> Tensor:
    """(score − mean) / std with the statistics stored beside a model: mean 0, variance 1 there.

    For people who compare models; the rule below needs raw scores.
    """
    return (scores - mean) / std


def combine_scores(
    safety: Tensor, helpfulness: Tensor, is_safety_prompt: Tensor, threshold: float
) -> Tensor:
    """R_c as a raw score: the safety score where the prompt is tagged or the response looks unsafe.

        R_c = R_s   if the prompt is tagged safety or σ(R_s) < threshold
              R_h   otherwise

    The paper applies σ first and takes the logit afterwards; logit(σ(x)) = x, so we do neither.

    Args:
        safety: [B] scores of the safety model.
        helpfulness: [B] scores of the helpfulness model.
        is_safety_prompt: [B] bool, the prompt's tag.
        threshold: in (0, 1), on σ(safety).
    """
    looks_unsafe = to_probability(safety) < threshold
    return torch.where(is_safety_prompt | looks_unsafe, safety, helpfulness)


def whiten(values: Tensor) -> Tensor:
    """(x − mean) / standard deviation over the batch, with the biased variance."""
    return (values - values.mean()) * torch.rsqrt(values.var(correction=0) + 1e-8)
