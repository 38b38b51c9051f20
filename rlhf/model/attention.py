"""Causal grouped-query attention with rotary positions. Shapes: N tokens, H heads of D."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.model import kernels
from rlhf.model.config import ModelConfig
from rlhf.model.documents import Group, Layout, take_rows
from rlhf.model.linear import Linear
from rlhf.model.rope import apply_rope


class AttentionInputs(NamedTuple):
    """What all layers share in one forward pass."""

    cos: Tensor
    sin: Tensor
    layout: Layout


class Attention(nn.Module):
    """Self-attention without biases; parameter names are Hugging Face's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        kv_dim = config.num_kv_heads * config.head_dim
        self.q_proj = Linear(config.dim, config.dim)
        self.k_proj = Linear(config.dim, kv_dim)
        self.v_proj = Linear(config.dim, kv_dim)
        self.o_proj = Linear(config.dim, config.dim)

    @property
    def qkv_weight(self) -> Tensor:
        """[(H + 2K) · D, dim] a copy of the weights of queries, keys and values, joined."""
        return torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])

    def forward(self, x: Tensor, shared: AttentionInputs, rows: Tensor | None = None) -> Tensor:
        """[N, dim] → [N, dim], or where rows [M] are given only those: [M, dim]."""
        queries = self._rotated(self.q_proj(x), shared)
        keys = self._rotated(self.k_proj(x), shared)
        attended = attend(queries, keys, self.v_proj(x), shared.layout, self.head_dim)
        return self.o_proj(take_rows(attended, rows))

    def _rotated(self, x: Tensor, shared: AttentionInputs) -> Tensor:
        heads = x.view(len(x), x.shape[1] // self.head_dim, 1, self.head_dim)
        return apply_rope(heads, shared.cos, shared.sin).flatten(1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, layout: Layout, head_dim: int) -> Tensor:
    """[N, H · D] from queries [N, H · D], and keys and values of as many or fewer heads."""
    # Slices of one tensor, as prompts bring them, are copied: C takes whole ones.
    queries, keys, values = queries.contiguous(), keys.contiguous(), values.contiguous()
    if _fuses(layout, head_dim, queries, keys, values):
        return _Attend.apply(queries, keys, values, layout.spans, head_dim)  # type: ignore[no-untyped-call]
    if layout.slots is not None:
        queries, keys, values = map(layout.slots.spread, (queries, keys, values))
    sizes = [group.documents * group.length for group in layout.groups]
    split = (torch.split(x, sizes) for x in (queries, keys, values))
    attended = [
        _attend_in(group, head_dim, *parts)
        for group, *parts in zip(layout.groups, *split, strict=True)
    ]
    joined = torch.cat(attended) if len(attended) > 1 else attended[0]
    return joined if layout.slots is None else layout.slots.collect(joined)


def _fuses(layout: Layout, head_dim: int, *parts: Tensor) -> bool:
    return layout.branches is None and head_dim % kernels.WIDTH == 0 and kernels.usable(*parts)


def _attend_in(group: Group, head_dim: int, *parts: Tensor) -> Tensor:
    """The same within one group of documents."""
    queries, keys, values = (
        x.view(group.documents, group.length, x.shape[1] // head_dim, head_dim).transpose(1, 2)
        for x in parts
    )
    found = F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=group.mask,
        is_causal=group.mask is None,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    return found.transpose(1, 2).reshape(parts[0].shape)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, spans: Tensor, head_dim: int
    ) -> Tensor:
        found, normaliser = kernels.attend(queries, keys, values, spans, head_dim)
        ctx.save_for_backward(queries, keys, values, spans, normaliser)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, spans, normaliser = ctx.saved_tensors
        grads = kernels.attend_backward(grad.contiguous(), tuple(inputs), spans, normaliser)
        return *grads, None, None
