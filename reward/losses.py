"""Losses of preference models. Pure functions; B comparisons."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from data.schemas import Strength

Margin = Literal["none", "small", "large"]
MARGINS: dict[Margin, dict[Strength, float]] = {
    "none": dict.fromkeys(get_args(Strength), 0.0),
    "small": {
        "significantly_better": 1.0,
        "better": 2 / 3,
        "slightly_better": 1 / 3,
        "negligibly_better": 0.0,
    },
    "large": {
        "significantly_better": 3.0,
        "better": 2.0,
        "slightly_better": 1.0,
        "negligibly_better": 0.0,
    },
}
"""m(r) by strength, Llama 2 Table 27, in units of score."""


def ranking_loss(score_chosen: Tensor, score_rejected: Tensor, margin: Tensor) -> Tensor:
    """Per-comparison preference loss of Llama 2, eq. (2); eq. (1) when `margin` is zero.

        L = −log σ( r(x, y_c) − r(x, y_r) − m )

    Args:
        score_chosen: [B] r(x, y_c), any real number.
        score_rejected: [B] r(x, y_r).
        margin: [B] m ≥ 0, in units of score; larger for clearer preferences.

    Returns:
        [B] loss per comparison. The caller takes the mean over the global batch.
    """
    # logsigmoid, not log(sigmoid): finite when the scores are far apart in the wrong order.
    return -F.logsigmoid(score_chosen - score_rejected - margin)


def safety_loss(scores: Tensor, is_safe: Tensor, has_label: Tensor) -> Tensor:
    """Auxiliary loss of the safety model (Llama 2, section 3.2.2 and Table 29).

        L = −[ s log σ(r) + (1 − s) log(1 − σ(r)) ]

    It reads σ(r) as the probability that the response is safe, which gives the threshold
    σ(r) < 0.15 of the combined score its meaning.

    Args:
        scores: [B] r.
        is_safe: [B] s, bool.
        has_label: [B] bool; responses without a label contribute 0.

    Returns:
        [B] loss per response. The caller divides by the labelled responses of the global batch.
    """
    loss = F.binary_cross_entropy_with_logits(scores, is_safe.to(scores.dtype), reduction="none")
    return torch.where(has_label, loss, 0.0)
