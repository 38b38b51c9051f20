"""Keys and values of tokens already processed, allocated once per generation."""

import torch
from torch import Tensor

from rlhf.model.config import ModelConfig


class KVCache:
    """[layers] × [slots, kv_heads, capacity, head_dim]; a slot holds one sequence."""

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.num_layers, slots, config.num_kv_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def write_prompts(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Stores keys and values [n, H, T, D] at positions 0..T−1 of the given slots [n]."""
        length = keys.shape[2]
        self.keys[layer][slots, :, :length] = keys
        self.values[layer][slots, :, :length] = values

    def append(
        self, layer: int, positions: Tensor, keys: Tensor, values: Tensor, length: int
    ) -> tuple[Tensor, Tensor]:
        """Stores one token per slot, [slots, H, 1, D], at its own position [slots].

        Returns:
            Keys and values [slots, H, length, D] up to the longest sequence.
        """
        rows = torch.arange(positions.shape[0], device=positions.device)
        self.keys[layer][rows, :, positions] = keys[:, :, 0]
        self.values[layer][rows, :, positions] = values[:, :, 0]
        return self.keys[layer][:, :, :length], self.values[layer][:, :, :length]

    def keep(self, slots: list[int]) -> None:
        """Drops all other slots."""
        self.keys, self.values = self.keys[:, slots], self.values[:, slots]
