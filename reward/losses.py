"""Losses of preference models. Pure functions; B comparisons."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from data.margins import MARGIN_SCALES
from data.schemas import Strength

Margin = Literal["none", "small", "large", "scaled"]
MARGINS: dict[Margin, dict[Strength, float]] = {
    "none": dict.fromkeys(get_args(Strength), 0.0),
    "small": MARGIN_SCALES["small"],
    "large": MARGIN_SCALES["large"],
    "scaled": dict.fromkeys(get_args(Strength), 0.0),
}
"""m(r) by strength, Llama 2 Table 27, in units of score."""
STRENGTH_WEIGHTS: dict[Strength, float] = {
    "significantly_better": 3.0,
    "better": 2.0,
    "slightly_better": 1.0,
    "negligibly_better": 0.5,
}
"""Factors of the loss under "scaled" (HelpSteer2-Preference, Wang et al. 2024, eq. 4). That source
leaves out what is no better; half the least weight is ours."""


def pair_margin(margin: Margin, strength: Strength | None) -> float:
    """Margin m of a comparison, in units of score; 0 where its source asked for no strength."""
    return 0.0 if strength is None else MARGINS[margin][strength]


def pair_weight(margin: Margin, strength: Strength | None) -> float:
    """Factor of a comparison's ranking loss: 1 but under "scaled"."""
    return STRENGTH_WEIGHTS[strength] if margin == "scaled" and strength is not None else 1.0


def ranking_loss(
    score_chosen: Tensor, score_rejected: Tensor, margin: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Per-comparison preference loss of Llama 2, eq. (2); eq. (1) when `margin` is zero.

        L = −(1 − ε) log σ(Δ) − ε log σ(−Δ),   Δ = r(x, y_c) − r(x, y_r) − m

    Args:
        score_chosen: [B] r(x, y_c), any real number.
        score_rejected: [B] r(x, y_r).
        margin: [B] m ≥ 0, in units of score; larger for clearer preferences.
        label_smoothing: ε in [0, ½), the share of comparisons that people are held to have judged
            the wrong way round; 0 in the paper.

    Returns:
        [B] loss per comparison. The caller takes the mean over the global batch.
    """
    difference = score_chosen - score_rejected - margin
    # logsigmoid, not log(sigmoid): finite when the scores are far apart in the wrong order.
    right = -F.logsigmoid(difference)
    if label_smoothing == 0:
        return right
    return (1 - label_smoothing) * right - label_smoothing * F.logsigmoid(-difference)


def centring_loss(score_chosen: Tensor, score_rejected: Tensor) -> Tensor:
    """Pulls the mean score of a comparison to 0, which preferences alone leave free.

        L = ( r(x, y_c) + r(x, y_r) )²        (Eisenstein et al. 2023, section 3; also in TRL)

    Args:
        score_chosen: [B] r(x, y_c).
        score_rejected: [B] r(x, y_r).

    Returns:
        [B] loss per comparison. The caller takes the mean over the global batch.
    """
    return (score_chosen + score_rejected) ** 2


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
