"""The one place where logits meet the tokens they predict.

Everything here is token-aligned: index t speaks about tokens[:, t], so
logprobs[:, t] = log π(tokens[:, t] | tokens[:, :t]) and index 0, which nothing predicts, is 0.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.model.linear import ROW_STEP, linear

CHUNK_ROWS = 256
"""Positions whose logits exist at a time: of 4,096 ids 4 MiB in float32."""


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

    Logits are made only for the positions that are asked for, CHUNK_ROWS at a time, and made
    again in the backward pass; no [B, T, V] tensor exists.

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
    arguments = wanted, head.weight, chosen_ids, temperature, with_entropy
    chosen, entropies = _Logprobs.apply(*arguments)  # type: ignore[no-untyped-call]
    empty = torch.zeros(mask.shape, dtype=chosen.dtype, device=mask.device)
    entropy = empty.masked_scatter(mask, entropies) if with_entropy else None
    return TokenLogprobs(empty.masked_scatter(mask, chosen), entropy)


class _Logprobs(torch.autograd.Function):
    """log softmax(hidden · weightᵀ / T)[ids] of [n, dim], and the entropies, without gradient.

    A chunk of logits stays in the caches from the product that makes it to the last use, and is
    made again for the gradient: that costs one product more, and storing and reading all logits
    costs more than that.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, ids)
        ctx.temperature = temperature
        chosen = torch.empty(len(ids), device=ids.device)
        entropies = torch.empty(len(ids) if entropy else 0, device=ids.device)
        for rows in _chunks(len(ids)):
            log_probs = _logits(hidden[rows], weight, temperature).log_softmax(dim=-1)
            chosen[rows] = log_probs.gather(1, ids[rows, None]).squeeze(1)
            if entropy:
                entropies[rows] = -(log_probs.exp() * log_probs).sum(dim=-1)
        ctx.mark_non_differentiable(entropies)
        return chosen, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, ids = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden)
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros_like(weight, dtype=torch.float32)
        for rows in _chunks(len(ids)):
            part = grad[rows, None] / ctx.temperature
            # (one-hot of the chosen − softmax) times the gradient of the result
            of_logits = _logits(hidden[rows], weight, ctx.temperature).softmax(dim=-1).mul_(-part)
            of_logits = of_logits.scatter_add_(1, ids[rows, None], part).to(hidden.dtype)
            of_hidden[rows] = linear(of_logits, weight.t())
            if of_weight is not None:
                of_weight += linear(of_logits.t(), hidden[rows].t())
        rounded = None if of_weight is None else of_weight.to(weight.dtype)
        return of_hidden, rounded, None, None, None


def _chunks(rows: int) -> list[slice]:
    return [slice(start, start + CHUNK_ROWS) for start in range(0, rows, CHUNK_ROWS)]


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = linear(hidden, weight).float()
    return logits if temperature == 1 else logits.div_(temperature)


def align_values(values: Tensor) -> Tensor:
    """Critic outputs [B, T] moved one to the right: index t is V before tokens[:, t] was chosen."""
    return torch.cat((torch.zeros_like(values[:, :1]), values[:, :-1]), dim=1)
