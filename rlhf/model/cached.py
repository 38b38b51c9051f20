"""The transformer as the sampler runs it: with a cache, without gradients, in few large operations.

The arithmetic is that of rlhf/model/transformer.py, in another order of the same steps: queries,
keys and values come from one product. Shapes: N tokens of prompts, S slots, H query heads, K
key-value heads of width D.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.model import kernels
from rlhf.model.attention import attend
from rlhf.model.documents import Layout, documents_layout
from rlhf.model.fused_step import FusedStep, suits
from rlhf.model.heads import LanguageModel
from rlhf.model.kv_cache import BLOCK, KVCache, Places, Reach, places_of
from rlhf.model.linear import ROW_STEP, linear, packed, packs
from rlhf.model.norm import rms_norm
from rlhf.model.rope import apply_rope, rope_tables
from rlhf.model.transformer import Block


class _Weights(NamedTuple):
    """Of one layer; matrices are copies where oneDNN multiplies."""

    attention_norm: Tensor
    qkv: Tensor
    """[(H + 2K) · D, dim]."""
    out: Tensor
    mlp_norm: Tensor
    gate_up: list[Tensor]
    """[ffn_dim, dim] each; or, where copies are made anyway, joined in one matrix."""
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
        self._fuses = kernels.usable(head) and model.config.head_dim % kernels.STEP_WIDTH == 0
        self._step = FusedStep(model, self.cache) if suits(model.config, head) else None
        positions = torch.arange(self.cache.values.shape[3], device=self.device)
        cos, sin = rope_tables(positions[None], self._frequencies)
        self._tables = cos[0, 0], sin[0, 0]
        self._layers = [_weights_of(block, slots) for block in model.model.layers]

    def prefill(
        self, prompts: Sequence[Sequence[int]], slots: Sequence[int], rows: Sequence[int]
    ) -> Tensor:
        """Reads prompts into the cache; several slots may share one.

        Args:
            prompts: token ids.
            slots: [m] slots to fill.
            rows: [m] which prompt goes into each of them.

        Returns:
            [m, vocabulary] logits of each slot's first new token.
        """
        lengths = self._tensor([len(prompt) for prompt in prompts])
        tokens = self._tensor([token for prompt in prompts for token in prompt])
        layout = _layout(lengths)
        sources, places = _copies(lengths, self._tensor(slots), self._tensor(rows))
        tables = rope_tables(layout.positions[:, None], self._frequencies)
        x = F.embedding(F.pad(tokens, (0, len(layout.positions) - len(tokens))), self._embedding)
        ends = lengths.cumsum(0) - 1
        for layer, weights in enumerate(self._layers):
            queries, keys, values = self._heads(self._qkv(x, weights), tables)
            self.cache.write(layer, places, keys[sources], values[sources])
            flat = queries.flatten(1), keys.flatten(1), values.flatten(1)
            attended = attend(*flat, layout, self.config.head_dim)
            if weights is self._layers[-1]:  # behind its keys and values only the ends are needed
                x, attended = x[ends], attended[ends]
            x = self._completed(x, attended, weights)
        return linear(self._normed(x, self._norm)[self._tensor(rows)], self._head)

    def decode(self, tokens: Tensor, positions: Tensor, length: int) -> Tensor:
        """One new token for every slot.

        Args:
            tokens: [S] the tokens sampled last.
            positions: [S] where they stand in their sequences.
            length: longest sequence, the new token included; taken on trust.

        Returns:
            [S, vocabulary] logits of the token after.
        """
        _, slots, _, capacity, _ = self.cache.values.shape
        assert len(tokens) <= slots and length <= capacity  # behind the cache C would write, too
        x = F.embedding(tokens, self._embedding)
        if self._step is not None:
            x = self._step(x, self._tables, positions)
        else:
            attend = self._fused(positions) if self._fuses else self._by_lookups(positions, length)
            for layer, weights in enumerate(self._layers):
                x = self._completed(x, attend(layer, self._qkv(x, weights)), weights)
        return linear(self._normed(x, self._norm), self._head)

    def _fused(self, positions: Tensor) -> Callable[[int, Tensor], Tensor]:
        """What a layer makes of [S, (H + 2K) · D]: stores keys and values, and attends."""
        cache = self.cache
        return lambda layer, qkv: kernels.attend_step(
            qkv, self._tables, positions, cache.keys[layer], cache.values[layer]
        )

    def _by_lookups(self, positions: Tensor, length: int) -> Callable[[int, Tensor], Tensor]:
        """The same by operations of torch."""
        cos, sin = (table[positions][:, None, None] for table in self._tables)
        places = places_of(torch.arange(len(positions), device=self.device), positions)
        reach = self.cache.reach(positions, length)

        def attend(layer: int, qkv: Tensor) -> Tensor:
            queries, keys, values = self._heads(qkv, (cos, sin))
            self.cache.write(layer, places, keys, values)
            return self._attend(layer, queries, reach)

        return attend

    def _attend(self, layer: int, queries: Tensor, reach: Reach) -> Tensor:
        """[S, H, D] → [S, H · D] by two lookups of an embedding bag.

        The scores of a block are the sum of the rows of its keys, weighted by a query, and what is
        attended to is the sum of rows of values, weighted by probabilities. That reads nothing but
        the blocks in use, at twice the speed of batched products with matrices of so few rows.
        """
        width = self.config.head_dim
        scores = _weighted_sums(
            self.cache.keys[layer].view(-1, BLOCK),
            reach.key_rows,
            reach.key_offsets,
            queries.reshape(-1, width).index_select(0, reach.heads),
        )
        scores = scores.view(len(queries), -1, reach.mask.shape[2])
        probs = torch.add(reach.mask, scores, alpha=width**-0.5).softmax(dim=-1)
        attended = _weighted_sums(
            self.cache.values[layer].view(-1, width),
            reach.value_rows,
            reach.value_offsets,
            probs.view(-1, BLOCK).index_select(0, reach.used),
        )
        return attended.view(len(queries), -1)

    def _heads(self, qkv: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[n, (H + 2K) · D] → rotated queries and keys, and values, each [n, heads, D]."""
        config = self.config
        heads = qkv.view(len(qkv), -1, 1, config.head_dim)
        kv = config.num_kv_heads
        rotated = apply_rope(heads[:, :-kv], *tables).squeeze(2)
        return rotated[:, :-kv], rotated[:, -kv:], heads[:, -kv:, 0]

    def _qkv(self, x: Tensor, weights: _Weights) -> Tensor:
        return linear(self._normed(x, weights.attention_norm), weights.qkv)

    def _completed(self, x: Tensor, attended: Tensor, weights: _Weights) -> Tensor:
        """What a layer makes of its input, once it has attended."""
        x = linear(attended, weights.out, x)
        gated = self._gated(self._normed(x, weights.mlp_norm), weights.gate_up)
        return linear(gated, weights.down, x)

    def _gated(self, x: Tensor, gate_up: list[Tensor]) -> Tensor:
        parts = [linear(x, matrix) for matrix in gate_up]
        gate, up = parts if len(parts) == 2 else parts[0].chunk(2, dim=-1)
        if self._fuses:
            return kernels.swiglu(gate, up)
        return F.silu(gate, inplace=True).mul_(up)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, self.config.norm_eps)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, device=self.device)


def _layout(lengths: Tensor) -> Layout:
    """Of prompts [n] in one row; padding makes the number of tokens a round one."""
    documents = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    return documents_layout(F.pad(documents, (0, -len(documents) % ROW_STEP), value=-1)[None])


def _copies(lengths: Tensor, slots: Tensor, rows: Tensor) -> tuple[Tensor, Places]:
    """Which tokens of the prompts are stored, and where; slots and rows [m] as in `prefill`."""
    starts, sizes = (lengths.cumsum(0) - lengths)[rows], lengths[rows]
    begins = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    positions = torch.arange(len(begins), device=lengths.device) - begins
    places = places_of(slots.repeat_interleave(sizes), positions)
    return starts.repeat_interleave(sizes) + positions, places


def _weighted_sums(table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """[parts, D]: of each part of `rows` of the table [n, D] the sum by weight."""
    return F.embedding_bag(
        rows,
        table,
        offsets,
        mode="sum",
        per_sample_weights=weights.flatten(),
        include_last_offset=True,
    )


def _weights_of(block: nn.Module, rows: int) -> _Weights:
    assert isinstance(block, Block)
    attention, mlp = block.self_attn, block.mlp
    return _Weights(
        block.input_layernorm.weight,
        packed(attention.qkv_weight, rows),
        packed(attention.o_proj.weight, rows),
        block.post_attention_layernorm.weight,
        _packed_together([mlp.gate_proj.weight, mlp.up_proj.weight], rows),
        packed(mlp.down_proj.weight, rows),
    )


def _packed_together(weights: list[Tensor], rows: int) -> list[Tensor]:
    """Matrices that multiply the same rows: one product is faster than two, but needs a copy."""
    return [packed(torch.cat(weights), rows)] if packs(weights[0]) else weights
