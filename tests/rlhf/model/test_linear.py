"""Large products, which processors with tiles make of bfloat16 parts: as exact as float32's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from rlhf.model import kernels
from rlhf.model.linear import TILED, linear, product_over_rows
from tests.threads import threads
from tests.tiny_models import normal

HALF_A_DIGIT = 2.0**-24
"""What one rounding of a float32 is off by, at most."""
ROWS, INNER, OUTER = 517, 543, 273
"""No whole tiles; more steps of a sum than are taken at a time."""


def across(x: Tensor) -> Tensor:
    """The same matrix, with the numbers of a column side by side."""
    return x.t().contiguous().t()


@pytest.mark.parametrize("x_across", [False, True])
@pytest.mark.parametrize("weight_across", [False, True])
def test_as_exact_as_float32(x_across: bool, weight_across: bool) -> None:
    """However factors lie: within a few roundings of the sum of all |x · w|, as sums of that many
    products are, and half a rounding on average."""
    x, weight = normal(ROWS, INNER), normal(OUTER, INNER, seed=1)
    factors = across(x) if x_across else x, across(weight) if weight_across else weight
    exact = x.double() @ weight.double().t()
    digit = (x.double().abs() @ weight.double().abs().t()) * HALF_A_DIGIT
    off = ((linear(*factors) - exact) / digit).abs()
    assert off.max() < 16 and off.square().mean().sqrt() < 1


@pytest.mark.parametrize(
    ("rows", "inner", "outer"),
    [(512, 256, 256), (2049, 64, 300), (600, 480, 1227), (513, 1023, 777), (520, 4100, 257)],
)
def test_any_shape(rows: int, inner: int, outer: int) -> None:
    """1,227 columns of 480 numbers would not quite fit where they are kept, three pieces do."""
    x, weight = normal(rows, inner), normal(outer, inner, seed=1)
    assert_close(linear(x, weight).double(), x.double() @ weight.double().t(), rtol=0, atol=1e-3)


def test_every_number_of_24_bits_comes_back() -> None:
    """Times the identity: signs, ends of the exponents, ones and zeros in the last places."""
    random = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (ROWS, INNER), generator=random).to(torch.int32)
    x = bits.view(torch.float32)
    usual = x.isfinite() & (x.abs() > 1e-30) & (x.abs() < 1e38)
    x = torch.where(usual, x, torch.tensor(1 - 2.0**-24))
    assert usual.float().mean() > 0.8
    assert torch.equal(linear(x, torch.eye(INNER)), x)


def test_gradients() -> None:
    factors = normal(2, ROWS, INNER), normal(OUTER, INNER, seed=1)
    pull = normal(2, ROWS, OUTER, seed=2)
    ours, plain = (
        torch.autograd.grad((product(x, weight) * pull).sum(), (x, weight))
        for product, x, weight in (
            (linear, *(x.requires_grad_() for x in factors)),
            (F.linear, *(x.detach().double().requires_grad_() for x in factors)),
        )
    )
    for mine, theirs in zip(ours, plain, strict=True):
        assert_close(mine.double(), theirs, rtol=1e-5, atol=2e-4)


def test_no_thread_changes_a_bit() -> None:
    x, weight = normal(ROWS, INNER), normal(OUTER, INNER, seed=1)
    with threads(1):
        alone = linear(x, weight), product_over_rows(x, normal(ROWS, OUTER, seed=2))
    with threads(3):
        together = linear(x, weight), product_over_rows(x, normal(ROWS, OUTER, seed=2))
    for one, three in zip(alone, together, strict=True):
        assert torch.equal(one, three)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_is_seen(number: float) -> None:
    """In its row alone."""
    x, weight = normal(ROWS, INNER), normal(OUTER, INNER, seed=1)
    expected = linear(x, weight)
    x[3, 7] = number
    found = linear(x, weight * 2)
    assert not found[3].isfinite().any()
    others = torch.arange(ROWS) != 3
    assert_close(found[others], expected[others] * 2, rtol=1e-5, atol=1e-4)


def test_large_products_take_tiles_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watched(x: Tensor, y: Tensor) -> Tensor:
        asked.append((x.shape, y.shape))
        return x @ y

    monkeypatch.setattr(kernels, "multiply_tiles", watched)
    large, small = (ROWS, INNER), (TILED // OUTER, INNER)
    for shape in (large, small):
        linear(normal(*shape), normal(OUTER, INNER))
    assert asked == ([(large, (INNER, OUTER))] if kernels.has_tiles() else [])
