"""Keys and values of tokens already processed, allocated once per generation."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.model import kernels
from rlhf.model.config import ModelConfig

BLOCK = kernels.BLOCK
"""Positions; a sequence is read in whole blocks, and longer ones are read faster per position."""


class Places(NamedTuple):
    """Where n tokens are stored, in every layer; [n] each."""

    slots: Tensor
    positions: Tensor
    blocks: Tensor
    columns: Tensor


class Reach(NamedTuple):
    """What a step reads of a layer: the N blocks in use, once for each of the H query heads.

    The keys of a block are head_dim rows of BLOCK numbers, its values BLOCK rows of head_dim.
    """

    mask: Tensor
    """[S, 1, positions]: 0 up to each slot's own position, −∞ behind it."""
    used: Tensor
    """[N] numbers of those in use among the S · H · blocks."""
    heads: Tensor
    """[N] numbers of the heads that read them among the S · H."""
    key_rows: Tensor
    """[N · head_dim]"""
    key_offsets: Tensor
    """[S · H · blocks + 1]: where the rows of each block begin."""
    value_rows: Tensor
    """[N · BLOCK]"""
    value_offsets: Tensor
    """[S · H + 1]: where the rows of each head begin."""


class KVCache:
    """A slot holds one sequence.

    keys: [layers, slots, kv_heads, blocks, head_dim, BLOCK], transposed, so that the scores of a
    block are a weighted sum of its rows;
    values: [layers, slots, kv_heads, blocks · BLOCK, head_dim].
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        layers, heads, width = config.num_layers, config.num_kv_heads, config.head_dim
        blocks = -(-capacity // BLOCK)
        numbers = torch.zeros(
            2, layers * slots * heads * blocks * BLOCK * width, device=device, dtype=dtype
        )
        self.keys = numbers[0].view(layers, slots, heads, blocks, width, BLOCK)
        self.values = numbers[1].view(layers, slots, heads, blocks * BLOCK, width)
        self._sharing = config.num_heads // config.num_kv_heads

    def write(self, layer: int, places: Places, keys: Tensor, values: Tensor) -> None:
        """Stores keys and values [n, kv_heads, head_dim] of n tokens."""
        slots, positions, blocks, columns = places
        self.keys[layer][slots, :, blocks, :, columns] = keys
        self.values[layer][slots, :, positions] = values

    def reach(self, positions: Tensor, length: int) -> Reach:
        """Of a step in which slot s attends up to positions[s]; the longest reaches length − 1."""
        _, slots, kv_heads, capacity, width, _ = self.keys.shape
        blocks, heads = -(-length // BLOCK), kv_heads * self._sharing
        counts = (positions // BLOCK + 1).repeat_interleave(heads)
        places = torch.arange(blocks * BLOCK, device=positions.device)
        in_use = (places[:blocks] < counts[:, None]).flatten()
        used = in_use.nonzero().squeeze(1).int()
        head = used // blocks
        block = head // self._sharing * capacity + used % blocks
        mask = torch.zeros(slots, 1, len(places), device=places.device, dtype=self.keys.dtype)
        mask.masked_fill_(places > positions[:, None, None], -torch.inf)
        return Reach(
            mask,
            used,
            head,
            _rows(block, width),
            _offsets(in_use * width),
            _rows(block, BLOCK),
            _offsets(counts * BLOCK),
        )

    def move(self, sources: list[int], targets: list[int], slots: int) -> None:
        """Copies some slots into others, then keeps the first `slots`; frees no memory."""
        self.keys[:, targets] = self.keys[:, sources]
        self.values[:, targets] = self.values[:, sources]
        self.keys, self.values = self.keys[:, :slots], self.values[:, :slots]


def places_of(slots: Tensor, positions: Tensor) -> Places:
    """Of tokens that stand at positions [n] of slots [n]."""
    return Places(slots, positions, positions // BLOCK, positions % BLOCK)


def _rows(blocks: Tensor, size: int) -> Tensor:
    """Numbers of the rows of some blocks of `size` rows."""
    return (
        blocks[:, None] * size + torch.arange(size, device=blocks.device, dtype=blocks.dtype)
    ).flatten()


def _offsets(sizes: Tensor) -> Tensor:
    """Where parts of these sizes begin, and where the last one ends."""
    return torch.cat((sizes.new_zeros(1), sizes.cumsum(0))).int()
