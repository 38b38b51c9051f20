"""The one place where logits meet the tokens they predict.

Everything here is token-aligned: index t speaks about tokens[:, t], so
logprobs[:, t] = log π(tokens[:, t] | tokens[:, :t]) and index 0, which nothing predicts, is 0.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.model import kernels
from rlhf.model.linear import ROW_STEP, linear, product_over_rows

CHUNK_ROWS = 256
"""Positions whose logits exist at a time: of 4,096 ids 4 MiB in float32."""
KEPT_LOGITS = 2**24
"""So many logits, 64 MiB, are kept for the gradient: that takes less time than another product."""


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

    Logits are made only for the positions that are asked for. Where there are few of them (see
    KEPT_LOGITS), they stay for the backward pass; else they are made CHUNK_ROWS at a time, and made
    again in the backward pass, so that no [B, T, V] tensor exists.

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
    keeps = _keeps_logits(wanted, head.weight)
    arguments = wanted, head.weight, chosen_ids, temperature, with_entropy, keeps
    chosen, entropies = _Logprobs.apply(*arguments)  # type: ignore[no-untyped-call]
    empty = torch.zeros(mask.shape, dtype=chosen.dtype, device=mask.device)
    entropy = empty.masked_scatter(mask, entropies) if with_entropy else None
    return TokenLogprobs(empty.masked_scatter(mask, chosen), entropy)


class _Logprobs(torch.autograd.Function):
    """log softmax(hidden · weightᵀ / T)[ids] of [n, dim], and the entropies, without gradient.

    What is kept becomes its own gradient, and a second way back makes it again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        ids: Tensor,
        temperature: float,
        entropy: bool,
        keeps: bool,
    ) -> tuple[Tensor, Tensor]:
        chosen, normalisers = torch.empty(2, len(ids), dtype=torch.float32, device=ids.device)
        entropies = chosen.new_empty(len(ids) if entropy else 0)
        ctx.chunks, ctx.kept = _chunks(len(ids), len(ids) if keeps else CHUNK_ROWS), None
        for rows in ctx.chunks:
            logits = linear(hidden[rows], weight).float()
            found = _chosen(logits, ids[rows], temperature, entropy)
            chosen[rows], normalisers[rows], of_rows = found
            if of_rows is not None:
                entropies[rows] = of_rows
            if keeps:
                ctx.kept = logits
        ctx.save_for_backward(hidden, weight, ids, normalisers)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return chosen, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, ids, normalisers = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden)
        of_weight = None
        kept, ctx.kept = ctx.kept, None
        for rows in ctx.chunks:
            logits = linear(hidden[rows], weight).float() if kept is None else kept
            _turn_into_gradient(logits, ids[rows], normalisers[rows], ctx.temperature, grad[rows])
            of_logits = logits.to(hidden.dtype)
            of_hidden[rows] = linear(of_logits, weight.t())
            if ctx.needs_input_grad[1]:
                product = product_over_rows(of_logits, hidden[rows])
                of_weight = product.float() if of_weight is None else of_weight.add_(product)
        if of_weight is None and ctx.needs_input_grad[1]:  # of no positions
            of_weight = torch.zeros_like(weight)
        rounded = None if of_weight is None else of_weight.to(weight.dtype)
        return of_hidden, rounded, None, None, None, None


def _chosen(
    logits: Tensor, ids: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """[n] log-probabilities of ids, normalisers, and entropies where asked for.

    It may overwrite the logits, which must be nobody else's.
    """
    if kernels.usable(logits):
        chosen, normaliser, entropies = kernels.chosen_logprobs(logits, ids, temperature)
        return chosen, normaliser, entropies if entropy else None
    normaliser = logits.div_(temperature).logsumexp(dim=-1)
    log_probs = logits.sub_(normaliser[:, None])
    chosen = log_probs.gather(1, ids[:, None]).squeeze(1)
    return chosen, normaliser, -(log_probs.exp() * log_probs).sum(dim=-1) if entropy else None


def _turn_into_gradient(
    logits: Tensor, ids: Tensor, normaliser: Tensor, temperature: float, grad: Tensor
) -> None:
    """Makes of logits [n, V] (one-hot of the chosen − softmax) · gradient of the result / T."""
    if kernels.usable(logits, normaliser, grad := grad.contiguous()):
        kernels.chosen_logprobs_backward(grad, ids, normaliser, logits, temperature)
        return
    part = grad[:, None] / temperature
    logits.div_(temperature).sub_(normaliser[:, None]).exp_().mul_(-part)
    logits.scatter_add_(1, ids[:, None], part)


def _keeps_logits(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the logits of [n, dim] stay for a gradient; torch's operations overwrite them."""
    learns = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    few = len(hidden) * len(weight) <= KEPT_LOGITS
    return learns and few and kernels.usable(hidden, weight)


def _chunks(rows: int, at_a_time: int) -> list[slice]:
    return [slice(start, start + at_a_time) for start in range(0, rows, max(1, at_a_time))]


def predicting(mask: Tensor) -> Tensor:
    """[B, T] True at the positions that predict the tokens marked in [B, T]."""
    return torch.cat((mask[:, 1:], torch.zeros_like(mask[:, :1])), dim=1)


def align_values(values: Tensor) -> Tensor:
    """Critic outputs [B, T] moved one to the right: index t is V before tokens[:, t] was chosen."""
    return torch.cat((torch.zeros_like(values[:, :1]), values[:, :-1]), dim=1)
