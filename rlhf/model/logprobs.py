"""The one place where logits meet the tokens they predict.

Everything here is token-aligned: index t speaks about tokens[:, t], so
logprobs[:, t] = log π(tokens[:, t] | tokens[:, :t]) and index 0, which nothing predicts, is 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class TokenLogprobs(NamedTuple):
    """[B, T] each, 0 outside the mask."""

    logprobs: Tensor
    """log π(tokens[:, t] | tokens[:, :t]) of the tempered distribution, in nats."""
    entropy: Tensor | None
    """Entropy of that distribution in nats, without gradient; None where not asked for."""


def token_logprobs(
    hidden: Tensor,
    head: nn.Linear,
    tokens: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> TokenLogprobs:
    """Log-probabilities of the marked tokens.

    Logits are made only for the positions that are asked for; no [B, T, V] tensor exists.

    Args:
        hidden: [B, T, dim] final hidden states.
        head: the next-token head.
        tokens: [B, T] ids.
        mask: [B, T] True where a log-probability is wanted; column 0 must be False.
        temperature: divides the logits, as the sampler did.
        with_entropy: whether to compute the entropy too.
    """
    predicts = torch.zeros_like(mask)
    predicts[:, :-1] = mask[:, 1:]  # the shift: position t − 1 predicts token t
    log_probs = (head(hidden[predicts]).float() / temperature).log_softmax(dim=-1)
    chosen = log_probs.gather(1, tokens[mask][:, None]).squeeze(1)
    empty = torch.zeros(mask.shape, dtype=chosen.dtype, device=mask.device)
    entropy = None
    if with_entropy:
        detached = log_probs.detach()
        entropy = empty.masked_scatter(mask, -(detached.exp() * detached).sum(dim=-1))
    return TokenLogprobs(empty.masked_scatter(mask, chosen), entropy)


def align_values(values: Tensor) -> Tensor:
    """Critic outputs [B, T] moved one to the right: index t is V before tokens[:, t] was chosen."""
    return torch.cat((torch.zeros_like(values[:, :1]), values[:, :-1]), dim=1)
