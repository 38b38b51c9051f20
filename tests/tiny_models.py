"""Random models, numbers and batches, small enough that a forward pass takes a millisecond."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf.model.config import ModelConfig
from rlhf.model.heads import LanguageModel, ScalarModel
from rlhf.model.init import init_language_model, scalar_model_from

SMALL = ModelConfig(
    vocab_size=61,
    dim=24,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    ffn_dim=40,
    context=64,
    rope_base=500.0,
    norm_eps=1e-6,
)
"""Grouped-query attention, an odd vocabulary, and no value that is somebody's default."""


def small_language_model(*, seed: int = 0, **changes: Any) -> LanguageModel:
    """A random model, for evaluation."""
    return init_language_model(replace(SMALL, **changes), seed).eval()


def small_scalar_model(*, seed: int = 0, **changes: Any) -> ScalarModel:
    """A random reward model, for evaluation."""
    return scalar_model_from(small_language_model(seed=seed, **changes), seed + 1).eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same ones for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_tokens(*shape: int, seed: int = 0, vocab_size: int = SMALL.vocab_size) -> Tensor:
    """Ids that are no special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab_size, shape, generator=generator)
