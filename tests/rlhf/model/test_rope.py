"""Rotary positions by hand."""

import math

import torch
from torch.testing import assert_close

from rlhf.model.config import RopeScaling
from rlhf.model.rope import apply_rope, rope_frequencies, rope_tables
from tests.tiny_models import SMALL


def test_frequencies_by_hand() -> None:
    # 10000^(−2i/4) for i = 0, 1
    assert_close(rope_frequencies(4, 10_000.0), torch.tensor([1.0, 0.01]))
    # 16^(−2i/8): 1, 1/2, 1/4, 1/8
    assert_close(rope_frequencies(8, 16.0), torch.tensor([1.0, 0.5, 0.25, 0.125]))


def test_linear_scaling_by_hand() -> None:
    # A position counts a quarter: 1 / 4 and 0.01 / 4
    scaling = RopeScaling(kind="linear", factor=4.0)
    assert_close(rope_frequencies(4, 10_000.0, scaling), torch.tensor([0.25, 0.0025]))


def test_llama3_scaling_by_hand() -> None:
    # In a context of 40,000 π a frequency f makes 20,000 f turns. Base 16, width 8: frequencies 1,
    # 1/2, 1/4, 1/8 make 20, 10, 5 and 2.5 thousand. Above 10 thousand all is kept, below 4 nothing;
    # of 5 thousand (5 − 4) / (10 − 4) = 1/6 is kept: 1/4 · (1/6 + 5/6 · 1/8) = 13/192.
    scaling = RopeScaling(
        kind="llama3",
        factor=8.0,
        low_freq_factor=4_000.0,
        high_freq_factor=10_000.0,
        original_context=round(40_000 * math.pi),
    )
    expected = torch.tensor([1.0, 0.5, 13 / 192, 1 / 64])
    assert_close(rope_frequencies(8, 16.0, scaling), expected, rtol=1e-5, atol=0)


def test_a_rotation_by_hand() -> None:
    # Width 4: the pairs are (x0, x2) and (x1, x3), turned by p · 1 and p · 0.01 at position p = 2.
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])[None, None, None]
    cos, sin = rope_tables(torch.tensor([[2]]), rope_frequencies(4, 10_000.0))
    a, b = 2.0, 0.02
    expected = torch.tensor(
        [
            1 * math.cos(a) - 3 * math.sin(a),
            2 * math.cos(b) - 4 * math.sin(b),
            3 * math.cos(a) + 1 * math.sin(a),
            4 * math.cos(b) + 2 * math.sin(b),
        ]
    )
    assert_close(apply_rope(x, cos, sin)[0, 0, 0], expected)


def rotated(x: torch.Tensor, position: int) -> torch.Tensor:
    frequencies = rope_frequencies(x.shape[-1], SMALL.rope_base)
    return apply_rope(x, *rope_tables(torch.tensor([[position]]), frequencies))


def test_position_zero_turns_nothing() -> None:
    x = torch.randn(1, 2, 1, 8)
    assert_close(rotated(x, 0), x)


def test_only_the_distance_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator)

    def score(q: int, k: int) -> torch.Tensor:
        return (rotated(query, q) * rotated(key, k)).sum()

    assert_close(score(7, 3), score(44, 40))
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_positions_beyond_the_integers_of_bfloat16() -> None:
    # 257 has no bfloat16; the angles are made in float32 whatever the model's type is.
    positions = torch.tensor([[256, 257]])
    cos, _ = rope_tables(positions, rope_frequencies(4, 10_000.0))
    assert cos.dtype == torch.float32
    assert_close(cos[0, 0, :, 0], torch.tensor([math.cos(256), math.cos(257)]))
    x = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16)
    assert apply_rope(x, cos, cos).dtype == torch.bfloat16
