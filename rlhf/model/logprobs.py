"""The one place where logits meet the tokens they predict.

Everything here is token-aligned: index t speaks about tokens[:, t], so
logprobs[:, t] = log π(tokens[:, t] | tokens[:, :t]) and index 0, which nothing predicts, is 0.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf.model.linear import ROW_STEP

CHUNK_LOGITS = 1 << 25
"""Logits that exist at a time: 128 MiB in float32, 1,048 positions of a vocabulary of 32,000."""


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

    Logits are made only for the positions that are asked for, CHUNK_LOGITS at a time, and made
    again in the backward pass where there are more; no [B, T, V] tensor exists.

    Args:
        hidden: [B, T, dim] final hidden states.
        head: the next-token head.
        tokens: [B, T] ids.
        mask: [B, T] True where a log-probability is wanted; column 0 must be False.
        temperature: divides the logits, as the sampler did.
        with_entropy: whether to compute the entropy too.
    """
    # The shift: position t − 1 predicts token t. What fills the rows up is left out again below.
    predicts = mask.flatten().nonzero().squeeze(1) - 1
    filling = (0, -len(predicts) % ROW_STEP)
    wanted = hidden.flatten(0, 1).index_select(0, F.pad(predicts, filling))
    chosen_ids = F.pad(tokens[mask], filling)
    size = max(1, CHUNK_LOGITS // head.out_features)
    if wanted.shape[0] <= size:
        chosen, entropies = _chosen(wanted, head, chosen_ids, temperature, with_entropy)
    else:
        chunks = [
            checkpoint(_chosen, part, head, ids, temperature, with_entropy, use_reentrant=False)
            for part, ids in zip(
                torch.split(wanted, size), torch.split(chosen_ids, size), strict=True
            )
        ]
        chosen, entropies = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    empty = torch.zeros(mask.shape, dtype=chosen.dtype, device=mask.device)
    entropy = empty.masked_scatter(mask, entropies) if with_entropy else None
    return TokenLogprobs(empty.masked_scatter(mask, chosen), entropy)


def _chosen(
    hidden: Tensor, head: nn.Module, ids: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    """[n] log-probabilities of ids, and entropies (empty where not asked for), of [n, dim]."""
    logits = head(hidden).float()
    if temperature != 1:
        logits = logits / temperature
    return _ChosenLogprobs.apply(logits, ids, with_entropy)  # type: ignore[no-untyped-call]


class _ChosenLogprobs(torch.autograd.Function):
    """log softmax(logits)[ids], and the entropy of the softmax, without gradient.

    The gradient of the logits is (one-hot of the chosen − softmax) times that of the result: made
    at once, where gathering from a log-softmax fills a matrix with zeros first.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
        log_probs = logits.log_softmax(dim=-1)
        ids = ids[:, None]
        ctx.save_for_backward(log_probs, ids)
        entropy = log_probs.new_empty(0)
        if with_entropy:
            entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
        ctx.mark_non_differentiable(entropy)
        return log_probs.gather(1, ids).squeeze(1), entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        log_probs, ids = ctx.saved_tensors
        grad = grad[:, None]
        return log_probs.exp().mul_(-grad).scatter_add_(1, ids, grad), None, None


def align_values(values: Tensor) -> Tensor:
    """Critic outputs [B, T] moved one to the right: index t is V before tokens[:, t] was chosen."""
    return torch.cat((torch.zeros_like(values[:, :1]), values[:, :-1]), dim=1)
