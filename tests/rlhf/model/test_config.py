"""Sizes, and dimensions that cannot be."""

from typing import Any

import pytest

from data.errors import ConfigError
from rlhf.model.config import SIZES, ModelConfig, named_size


@pytest.mark.parametrize(
    ("name", "billions"),
    # As counted in the published checkpoints of Llama 2 (of Code Llama for 34B), 32,000 ids.
    [("7b", 6.738), ("13b", 13.016), ("34b", 33.744), ("70b", 68.977)],
)
def test_published_sizes_have_the_published_number_of_parameters(
    name: str, billions: float
) -> None:
    c = SIZES[name]
    kv_dim = c.num_kv_heads * c.head_dim
    block = 2 * c.dim * c.dim + 2 * c.dim * kv_dim + 3 * c.dim * c.ffn_dim + 2 * c.dim
    total = 2 * c.vocab_size * c.dim + c.num_layers * block + c.dim
    assert total / 1e9 == pytest.approx(billions, abs=0.001)
    assert c.context == 4096
    assert c.head_dim == 128


def test_a_named_size_takes_the_tokenizers_vocabulary() -> None:
    assert named_size("7b", 512) == ModelConfig(vocab_size=512)
    assert named_size("tiny", 4096).vocab_size == 4096


def test_an_unknown_size() -> None:
    with pytest.raises(ConfigError, match="size is '8b'; known sizes are tiny, 7b, 13b, 34b, 70b"):
        named_size("8b", 512)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dim": 100, "num_heads": 32}, r"dim \(100\) must be a multiple of num_heads .*; try 96"),
        ({"dim": 3, "num_heads": 4}, "try 4"),
        ({"num_kv_heads": 5}, r"num_heads \(32\) must be a multiple of num_kv_heads \(5\)"),
        ({"dim": 96, "num_heads": 32}, "dim / num_heads is 3; rotary embedding needs it even"),
    ],
)
def test_dimensions_that_cannot_be(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        ModelConfig(**changes)
