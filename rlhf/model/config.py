"""The Llama architecture in numbers, with the published sizes by name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from data.errors import ConfigError, DataError

Kind = Literal["a whole number above 0", "a number above 0", "true or false"]
"""What an entry of a model's config may be."""
COUNTS = ("vocab_size", "dim", "num_layers", "num_heads", "num_kv_heads", "ffn_dim", "context")
"""Fields of `ModelConfig` that are whole numbers."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Rotary frequencies stretched for a longer context than the model was pretrained with."""

    kind: Literal["linear", "llama3"]
    """linear divides every frequency (Chen et al. 2023); llama3 only the slow ones (Llama 3.1)."""
    factor: float
    """What frequencies are divided by."""
    low_freq_factor: float = 1.0
    """llama3: waves longer than original_context / low_freq_factor are divided in full."""
    high_freq_factor: float = 4.0
    """llama3: waves shorter than original_context / high_freq_factor stay as they are."""
    original_context: int = 8192
    """llama3: context of pretraining, in tokens."""

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ConfigError(f"the factor of RoPE scaling is {self.factor}; it must be 1 or more")
        if self.low_freq_factor >= self.high_freq_factor:
            raise ConfigError(
                f"low_freq_factor ({self.low_freq_factor}) of RoPE scaling must be below "
                f"high_freq_factor ({self.high_freq_factor})"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Dimensions of a Llama-architecture transformer (Llama 2, section 2.2 and Table 1)."""

    vocab_size: int = 32_000
    """Ids of the tokenizer."""
    dim: int = 4096
    """Width of the residual stream."""
    num_layers: int = 32
    """Transformer blocks."""
    num_heads: int = 32
    """Query heads."""
    num_kv_heads: int = 32
    """Key and value heads; fewer than num_heads is grouped-query attention."""
    ffn_dim: int = 11_008
    """Hidden width of the SwiGLU feed-forward."""
    context: int = 4096
    """Longest sequence in tokens."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """How they are stretched; None as in Llama 2."""
    tie_embeddings: bool = False
    """Whether the output head shares the embedding's weights; small models gain from it."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if not _is(value, "a whole number above 0"):
                raise ConfigError(f"{name} is {value!r}; it must be a whole number above 0")
        if self.dim % self.num_heads:
            raise ConfigError(
                f"dim ({self.dim}) must be a multiple of num_heads ({self.num_heads}); "
                f"try {self.dim // self.num_heads * self.num_heads or self.num_heads}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads ({self.num_heads}) must be a multiple of "
                f"num_kv_heads ({self.num_kv_heads})"
            )
        if self.head_dim % 2:
            raise ConfigError(f"dim / num_heads is {self.head_dim}; rotary embedding needs it even")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads


def check_entries(entries: Mapping[str, Any], kinds: Mapping[str, Kind], file: str) -> None:
    """Those of a model's JSON file that are there are of their kind.

    Raises:
        DataError: one is not.
    """
    for name, kind in kinds.items():
        if name in entries and not _is(entries[name], kind):
            raise DataError(
                f"{file} is damaged: {name} is {entries[name]!r}, not {kind}; "
                "copy it again from the model's source"
            )


def _is(value: object, kind: Kind) -> bool:
    match value, kind:
        case bool(), _:  # also an int, to Python
            return kind == "true or false"
        case int(), "a whole number above 0":
            return value > 0
        case int() | float(), "a number above 0":
            return 0 < value < math.inf
    return False


SIZES: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        dim=128, num_layers=5, num_heads=4, num_kv_heads=2, ffn_dim=352, context=384,
        tie_embeddings=True,
    ),
    "nano": ModelConfig(
        dim=128, num_layers=4, num_heads=4, num_kv_heads=4, ffn_dim=352, context=64,
    ),
    "7b": ModelConfig(),
    "13b": ModelConfig(dim=5120, num_layers=40, num_heads=40, num_kv_heads=40, ffn_dim=13_824),
    "34b": ModelConfig(dim=8192, num_layers=48, num_heads=64, num_kv_heads=8, ffn_dim=22_016),
    "70b": ModelConfig(dim=8192, num_layers=80, num_heads=64, num_kv_heads=8, ffn_dim=28_672),
}  # fmt: skip
"""Published sizes (Llama 2, Table 1), one for a laptop's CPU, and nanoGPT's for its CPU."""


def named_size(name: str, vocab_size: int) -> ModelConfig:
    """A published or tiny size with the vocabulary of the tokenizer at hand.

    Raises:
        ConfigError: no size of that name.
    """
    if name not in SIZES:
        raise ConfigError(f"size is {name!r}; known sizes are {', '.join(SIZES)}")
    return replace(SIZES[name], vocab_size=vocab_size)
