"""Sizes, and dimensions that cannot be."""

from typing import Any

import pytest
import torch

from data.errors import ConfigError
from rlhf.model.config import SIZES, ModelConfig, RopeScaling, named_size
from rlhf.model.heads import LanguageModel


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As counted in the published checkpoints of Llama 2, 32,000 ids; of Code Llama for 34B, which
    # is of the same shape and the only one of that size that was published.
    [
        ("7b", 6_738_415_616),
        ("13b", 13_015_864_320),
        ("34b", 33_743_970_304),
        ("70b", 68_976_648_192),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(
    name: str, parameters: int
) -> None:
    with torch.device("meta"):
        model = LanguageModel(SIZES[name])
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert SIZES[name].context == 4096
    assert SIZES[name].head_dim == 128


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"factor": 0.5}, "factor of RoPE scaling is 0.5; it must be 1 or more"),
        ({"factor": 8.0, "low_freq_factor": 4.0}, r"low_freq_factor \(4.0\) .* below high_freq"),
    ],
)
def test_scalings_that_cannot_be(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        RopeScaling(kind="llama3", **changes)


def test_a_named_size_takes_the_tokenizers_vocabulary() -> None:
    assert named_size("7b", 512) == ModelConfig(vocab_size=512)
    assert named_size("tiny", 4096).vocab_size == 4096


def test_an_unknown_size() -> None:
    with pytest.raises(
        ConfigError, match="size is '8b'; known sizes are tiny, nano, 7b, 13b, 34b, 70b"
    ):
        named_size("8b", 512)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dim": 100, "num_heads": 32}, r"dim \(100\) must be a multiple of num_heads .*; try 96"),
        ({"dim": 3, "num_heads": 4}, "try 4"),
        ({"num_kv_heads": 5}, r"num_heads \(32\) must be a multiple of num_kv_heads \(5\)"),
        ({"dim": 96, "num_heads": 32}, "dim / num_heads is 3; rotary embedding needs it even"),
        ({"num_heads": 0}, "num_heads is 0; it must be a whole number above 0"),
        ({"num_kv_heads": 0}, "num_kv_heads is 0; it must be"),
        ({"dim": "64"}, "dim is '64'; it must be"),
        ({"context": 64.0}, "context is 64.0; it must be"),
        ({"ffn_dim": None}, "ffn_dim is None; it must be"),
        ({"num_layers": True}, "num_layers is True; it must be"),
        ({"vocab_size": -1}, "vocab_size is -1; it must be"),
    ],
)
def test_dimensions_that_cannot_be(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        ModelConfig(**changes)
