"""The transformer as the sampler runs it: with a cache, without gradients, in few large operations.

The arithmetic is that of rlhf/model/transformer.py, in another order of the same steps: queries,
keys and values come from one product, and the scale of the attention scores and their mask are
part of the product that makes them. Shapes: S slots, H query heads, K key-value heads of width D.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.model.heads import LanguageModel
from rlhf.model.kv_cache import KVCache, Places
from rlhf.model.linear import linear, packed
from rlhf.model.rope import apply_rope, rope_tables
from rlhf.model.transformer import Block


class _Weights(NamedTuple):
    """Of one layer; matrices are copies where oneDNN multiplies."""

    attention_norm: Tensor
    qkv: Tensor
    """[(H + 2K) · D, dim]."""
    out: Tensor
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


class CachedModel:
    """Reads prompts and decodes token by token, one sequence per slot of its cache."""

    def __init__(self, model: LanguageModel, slots: int, capacity: int) -> None:
        head = model.lm_head.weight
        self.config = model.config
        self.device = head.device
        self.cache = KVCache(model.config, slots, capacity, device=self.device, dtype=head.dtype)
        self._head = packed(head, slots)
        self._embedding = model.model.embed_tokens.weight
        self._frequencies = model.model.frequencies
        self._norm = model.model.norm.weight
        self._layers = [_weights_of(block, slots) for block in model.model.layers]

    def prefill(self, tokens: Tensor, lengths: Tensor, slots: Tensor, rows: Tensor) -> Tensor:
        """Reads prompts into the cache; several slots may share one prompt.

        Args:
            tokens: [n, T] right-padded prompts; what is cached of the padding is never read.
            lengths: [n] real tokens.
            slots: [m] slots to fill.
            rows: [m] which prompt goes into each of them.

        Returns:
            [m, vocabulary] logits of each slot's first new token.
        """
        positions = torch.arange(tokens.shape[1], device=self.device)[None]
        tables = rope_tables(positions, self._frequencies)
        x = F.embedding(tokens, self._embedding)
        for layer, weights in enumerate(self._layers):
            qkv = linear(self._normed(x, weights.attention_norm), weights.qkv)
            queries, keys, values = self._heads(qkv, tables)
            self.cache.write_prompts(layer, slots, keys[rows], values[rows])
            attended = F.scaled_dot_product_attention(
                queries, keys, values, is_causal=True, enable_gqa=True
            )
            x += linear(attended.transpose(1, 2).flatten(2), weights.out)
            x += self._feed_forward(x, weights)
        last = x[torch.arange(len(x), device=self.device), lengths - 1]
        return linear(self._normed(last, self._norm)[rows], self._head)

    def decode(self, tokens: Tensor, positions: Tensor, length: int) -> Tensor:
        """One new token for every slot.

        Args:
            tokens: [S] the tokens sampled last.
            positions: [S] where they stand in their sequences.
            length: longest sequence, the new token included.

        Returns:
            [S, vocabulary] logits of the token after.
        """
        tables = rope_tables(positions[:, None], self._frequencies)
        places, mask = self.cache.places(positions), self._mask(positions, length)
        x = F.embedding(tokens, self._embedding)
        for layer, weights in enumerate(self._layers):
            qkv = linear(self._normed(x, weights.attention_norm), weights.qkv)
            attended = self._attend(layer, qkv, tables, places, mask)
            x += linear(attended, weights.out)
            x += self._feed_forward(x, weights)
        return linear(self._normed(x, self._norm), self._head)

    def _attend(
        self,
        layer: int,
        qkv: Tensor,
        tables: tuple[Tensor, Tensor],
        places: Places,
        mask: Tensor,
    ) -> Tensor:
        """[S, (H + 2K) · D] → [S, H · D]: the heads that share keys are rows of one product."""
        queries, keys, values = self._heads(qkv[:, None], tables)
        all_keys, all_values = self.cache.append(layer, places, keys, values, mask.shape[2])
        grouped = queries.reshape(len(all_keys), -1, self.config.head_dim)
        scores = torch.baddbmm(mask, grouped, all_keys, alpha=self.config.head_dim**-0.5)
        return torch.bmm(scores.softmax(dim=-1), all_values).view(len(qkv), -1)

    def _mask(self, positions: Tensor, length: int) -> Tensor:
        """[S · K, 1, length]: 0 up to each slot's own position, −∞ behind it."""
        reach = torch.arange(length, device=self.device)
        mask = torch.zeros(len(positions), length, device=self.device, dtype=self._head.dtype)
        mask.masked_fill_(reach > positions[:, None], -torch.inf)
        return mask.repeat_interleave(self.config.num_kv_heads, dim=0)[:, None]

    def _heads(self, qkv: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, (H + 2K) · D] → rotated queries and keys, and values, each [B, heads, T, D]."""
        config = self.config
        heads = qkv.view(*qkv.shape[:2], -1, config.head_dim).transpose(1, 2)
        kv = config.num_kv_heads
        rotated = apply_rope(heads[:, :-kv], *tables)
        return rotated[:, :-kv], rotated[:, -kv:], heads[:, -kv:]

    def _feed_forward(self, x: Tensor, weights: _Weights) -> Tensor:
        x = self._normed(x, weights.mlp_norm)
        return linear(F.silu(linear(x, weights.gate)).mul_(linear(x, weights.up)), weights.down)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.norm_eps)


def _weights_of(block: nn.Module, rows: int) -> _Weights:
    assert isinstance(block, Block)
    attention, mlp = block.self_attn, block.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return _Weights(
        block.input_layernorm.weight,
        packed(torch.cat([projection.weight for projection in projections]), rows),
        packed(attention.o_proj.weight, rows),
        block.post_attention_layernorm.weight,
        packed(mlp.gate_proj.weight, rows),
        packed(mlp.up_proj.weight, rows),
        packed(mlp.down_proj.weight, rows),
    )
