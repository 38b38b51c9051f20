"""Causal grouped-query attention with rotary positions. Shapes: B rows, T tokens, H heads of D."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.model.config import ModelConfig
from rlhf.model.rope import apply_rope


class AttentionInputs(NamedTuple):
    """What all layers share in one forward pass."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    """[B, 1, T, T] True where attention is allowed; None means plain causal."""


class Attention(nn.Module):
    """Self-attention without biases; parameter names are Hugging Face's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.head_dim
        kv_dim = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.k_proj = nn.Linear(config.dim, kv_dim, bias=False)
        self.v_proj = nn.Linear(config.dim, kv_dim, bias=False)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, shared: AttentionInputs) -> Tensor:
        """[B, T, dim] → [B, T, dim]."""
        queries = apply_rope(self._heads(self.q_proj(x), self.num_heads), shared.cos, shared.sin)
        keys = apply_rope(self._heads(self.k_proj(x), self.num_kv_heads), shared.cos, shared.sin)
        values = self._heads(self.v_proj(x), self.num_kv_heads)
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=shared.mask,
            is_causal=shared.mask is None,
            enable_gqa=self.num_heads != self.num_kv_heads,
        )
        return self.o_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, num_heads: int) -> Tensor:
        return x.view(*x.shape[:2], num_heads, self.head_dim).transpose(1, 2)


def document_mask(documents: Tensor, branches: Tensor | None = None) -> Tensor:
    """Causal attention within the documents of a row, and within the branches of a document.

    Args:
        documents: [B, T] number of the document that each token belongs to; −1 for padding.
        branches: [B, T] 0 for the trunk that all branches of the document continue, 1, 2, … for the
            branches, which see the trunk and themselves; None where documents have no branches.

    Returns:
        [B, 1, T, T] True where token t may attend to token s. Padding attends to itself, so that
        no row of the softmax is empty.
    """
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    allowed = (documents[:, :, None] == documents[:, None, :]) & causal
    if branches is not None:
        same = branches[:, :, None] == branches[:, None, :]
        allowed &= same | (branches[:, None, :] == 0)
    return allowed[:, None]


def document_positions(documents: Tensor, branches: Tensor | None = None) -> Tensor:
    """[B, T] position of each token within its document; every branch continues the trunk."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    start = _run_starts(documents, index)
    if branches is None:
        return index - start
    # In a document the trunk comes first; a later branch starts again where the trunk ended.
    part_start = torch.maximum(start, _run_starts(branches, index))
    trunk_end = torch.where(branches == 1, part_start, 0).cummax(dim=1).values
    later = branches > 1
    return torch.where(later, index - part_start + trunk_end - start, index - start)


def _run_starts(labels: Tensor, index: Tensor) -> Tensor:
    """[B, T] index at which the run of equal labels around each token begins."""
    begins = torch.ones_like(labels, dtype=torch.bool)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    return torch.where(begins, index, 0).cummax(dim=1).values
