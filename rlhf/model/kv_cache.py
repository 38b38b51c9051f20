"""Keys and values of tokens already processed, allocated once per generation."""

import torch
from torch import Tensor

from rlhf.model.config import ModelConfig


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
        self.rows = torch.arange(slots, device=device)

    def write_prompts(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Stores keys and values [m, kv_heads, T, head_dim] at positions 0..T−1 of slots [m]."""
        length = keys.shape[2]
        self.keys[layer][slots, :, :, :length] = keys.transpose(2, 3)
        self.values[layer][slots, :, :length] = values

    def append(
        self, layer: int, positions: Tensor, keys: Tensor, values: Tensor, length: int
    ) -> tuple[Tensor, Tensor]:
        """Stores one token per slot, [slots, kv_heads, head_dim], at its own position [slots].

        Returns:
            Keys [slots · kv_heads, head_dim, length] and values [slots · kv_heads, length,
            head_dim] up to the longest sequence; views, nothing is copied.
        """
        self.keys[layer][self.rows, :, :, positions] = keys
        self.values[layer][self.rows, :, positions] = values
        return (
            self.keys[layer][..., :length].flatten(0, 1),
            self.values[layer][:, :, :length].flatten(0, 1),
        )

    def move(self, sources: list[int], targets: list[int], slots: int) -> None:
        """Copies some slots into others, then keeps the first `slots`; frees no memory."""
        self.keys[:, targets] = self.keys[:, sources]
        self.values[:, targets] = self.values[:, sources]
        self.keys, self.values = self.keys[:, :slots], self.values[:, :slots]
        self.rows = self.rows[:slots]
