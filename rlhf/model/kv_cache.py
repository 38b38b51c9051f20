"""Keys and values of tokens already processed, allocated once per generation."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.model.config import ModelConfig


class Places(NamedTuple):
    """Of one new token per slot, within the memory of a layer."""

    keys: Tensor
    """[slots · kv_heads · head_dim] numbers."""
    values: Tensor
    """[slots · kv_heads] rows of head_dim numbers."""


class KVCache:
    """A slot holds one sequence.

    keys: [layers, slots, kv_heads, head_dim, capacity], transposed, because a product of few query
    rows with a matrix is fastest along its contiguous rows (in bf16 two to three times);
    values: [layers, slots, kv_heads, capacity, head_dim].
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
        numbers = torch.zeros(
            2, layers * slots * heads * capacity * width, device=device, dtype=dtype
        )
        self.keys = numbers[0].view(layers, slots, heads, width, capacity)
        self.values = numbers[1].view(layers, slots, heads, capacity, width)
        value_rows = torch.arange(slots * heads, device=device) * capacity
        self._value_rows = value_rows.view(slots, heads)
        columns = torch.arange(width, device=device) * capacity
        self._key_numbers = (self._value_rows * width)[:, :, None] + columns

    def write_prompts(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Stores keys and values [m, kv_heads, T, head_dim] at positions 0..T−1 of slots [m]."""
        length = keys.shape[2]
        self.keys[layer][slots, :, :, :length] = keys.transpose(2, 3)
        self.values[layer][slots, :, :length] = values

    def places(self, positions: Tensor) -> Places:
        """Where every layer stores the tokens that stand at positions [slots]."""
        keys = self._key_numbers + positions[:, None, None]
        return Places(keys.flatten(), (self._value_rows + positions[:, None]).flatten())

    def append(
        self, layer: int, places: Places, keys: Tensor, values: Tensor, length: int
    ) -> tuple[Tensor, Tensor]:
        """Stores one token per slot, [slots, kv_heads, 1, head_dim].

        Returns:
            Keys [slots · kv_heads, head_dim, length] and values [slots · kv_heads, length,
            head_dim] up to the longest sequence; views, nothing is copied.
        """
        stored_keys, stored_values = self.keys[layer], self.values[layer]
        stored_keys.view(-1).index_copy_(0, places.keys, keys.reshape(-1))
        width = values.shape[-1]
        stored_values.view(-1, width).index_copy_(0, places.values, values.reshape(-1, width))
        return stored_keys[..., :length].flatten(0, 1), stored_values[:, :, :length].flatten(0, 1)

    def move(self, sources: list[int], targets: list[int], slots: int) -> None:
        """Copies some slots into others, then keeps the first `slots`; frees no memory."""
        self.keys[:, targets] = self.keys[:, sources]
        self.values[:, targets] = self.values[:, sources]
        self.keys, self.values = self.keys[:, :slots], self.values[:, :slots]
        self._key_numbers, self._value_rows = self._key_numbers[:slots], self._value_rows[:slots]
