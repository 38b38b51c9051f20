"""Causal grouped-query attention with rotary positions. Shapes: N tokens, H heads of D."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.model.config import ModelConfig
from rlhf.model.documents import Group, Layout
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
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.head_dim
        kv_dim = config.num_kv_heads * config.head_dim
        self.q_proj = Linear(config.dim, config.dim, bias=False)
        self.k_proj = Linear(config.dim, kv_dim, bias=False)
        self.v_proj = Linear(config.dim, kv_dim, bias=False)
        self.o_proj = Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, shared: AttentionInputs) -> Tensor:
        """[N, dim] → [N, dim]."""
        queries = self._rotated(self.q_proj(x), shared)
        keys = self._rotated(self.k_proj(x), shared)
        return self.o_proj(self._attend(queries, keys, self.v_proj(x), shared.layout))

    def _rotated(self, x: Tensor, shared: AttentionInputs) -> Tensor:
        heads = x.view(len(x), x.shape[1] // self.head_dim, 1, self.head_dim)
        return apply_rope(heads, shared.cos, shared.sin).flatten(1)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, layout: Layout) -> Tensor:
        """[N, H · D] from queries [N, H · D], and keys and values of as many or fewer heads."""
        if layout.slots is not None:
            queries, keys, values = map(layout.slots.spread, (queries, keys, values))
        sizes = [group.documents * group.length for group in layout.groups]
        split = (torch.split(x, sizes) for x in (queries, keys, values))
        attended = [
            self._attend_in(group, *parts)
            for group, *parts in zip(layout.groups, *split, strict=True)
        ]
        joined = torch.cat(attended) if len(attended) > 1 else attended[0]
        return joined if layout.slots is None else layout.slots.collect(joined)

    def _attend_in(self, group: Group, *parts: Tensor) -> Tensor:
        """The same within one group of documents."""
        queries, keys, values = (
            x.view(group.documents, group.length, x.shape[1] // self.head_dim, self.head_dim)
            for x in parts
        )
        found = F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=group.mask,
            is_causal=group.mask is None,
            enable_gqa=self.num_heads != self.num_kv_heads,
        )
        return found.transpose(1, 2).reshape(parts[0].shape)
