"""Operations with a backward pass of their own, against torch's automatic one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from rlhf.model import linear as products
from rlhf.model.documents import documents_layout
from rlhf.model.linear import ROWS_AT_A_TIME, linear, packed
from rlhf.model.logprobs import token_logprobs
from rlhf.model.norm import RMSNorm
from rlhf.model.rope import apply_rope, rope_frequencies, rope_tables
from tests import tiny_models


@pytest.fixture(params=["MKL", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products by the library for Intel's processors, and by the one for all others."""
    monkeypatch.setattr(products, "_prefers_mkl", lambda: request.param == "MKL")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return tiny_models.normal(*shape, seed=seed).requires_grad_()


def gradients(result: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Of a sum with weights that tell the entries apart."""
    weights = normal(*result.shape, seed=99).detach()
    return torch.autograd.grad((result * weights).sum(), inputs)


@pytest.mark.usefixtures("library")
def test_product() -> None:
    """More rows than are multiplied at a time, in a batch of rows."""
    x, weight = normal(3, ROWS_AT_A_TIME // 2, 24), normal(40, 24, seed=1)
    ours, plain = linear(x, weight), F.linear(x, weight)
    assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    for got, expected in zip(gradients(ours, x, weight), gradients(plain, x, weight), strict=True):
        assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("library")
def test_product_without_gradients_of_the_input() -> None:
    x, weight = normal(5, 8).detach(), normal(6, 8, seed=1)
    assert_close(gradients(linear(x, weight), weight), gradients(F.linear(x, weight), weight))


@pytest.mark.usefixtures("library")
def test_product_of_no_rows() -> None:
    x, weight = normal(0, 8), normal(6, 8, seed=1)
    result = linear(x, weight)
    assert result.shape == (0, 6)
    assert_close(torch.autograd.grad(result.sum(), weight)[0], torch.zeros(6, 8))


@pytest.mark.usefixtures("library")
@torch.no_grad()
def test_product_with_a_packed_weight() -> None:
    """Packed for 16 rows; other numbers of rows, as prompts bring them, work as well."""
    weight = normal(40, 24, seed=1)
    for rows in (16, 1, 700):
        x = normal(rows, 24)
        assert_close(linear(x, packed(weight, 16)), F.linear(x, weight), rtol=1e-5, atol=1e-5)


def test_normalisation() -> None:
    norm, x = RMSNorm(12, eps=1e-5), normal(2, 3, 12)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 12))
    ours, plain = norm(x), F.rms_norm(x, (12,), norm.weight, 1e-5)
    assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    for got, expected in zip(
        gradients(ours, x, norm.weight), gradients(plain, x, norm.weight), strict=True
    ):
        assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_normalisation_in_bfloat16() -> None:
    """Computed in float32, so the only error is that of the result's rounding: 2^-8."""
    norm, x = RMSNorm(64, eps=1e-5), normal(5, 64).detach().bfloat16().requires_grad_()
    norm.bfloat16()
    ours, exact = norm(x), F.rms_norm(x.float(), (64,), norm.weight.float(), 1e-5)
    assert ours.dtype == torch.bfloat16
    assert_close(ours.float(), exact, rtol=2**-8, atol=1e-6)
    (got,), (expected,) = gradients(ours, x), gradients(exact, x)
    assert_close(got.float(), expected.float(), rtol=2**-6, atol=2e-2)


def test_rotation() -> None:
    tables = rope_tables(torch.arange(5)[None], rope_frequencies(8, 10_000.0))
    double = [table.double() for table in tables]
    x = normal(2, 3, 5, 8).detach().double().requires_grad_()
    assert gradcheck(apply_rope, (x, *double))


def test_chosen_logprobs() -> None:
    head = torch.nn.Linear(6, 11, bias=False).double()
    hidden = normal(2, 4, 6).detach().double().requires_grad_()
    tokens = torch.tensor([[1, 5, 10, 0], [3, 3, 2, 7]])
    mask = torch.tensor([[False, True, True, False], [False, False, True, True]])
    ours = token_logprobs(hidden, head, tokens, mask, temperature=0.7).logprobs
    log_probs = (head(hidden).float() / 0.7).log_softmax(-1)
    plain = torch.zeros(2, 4)
    for row, column in mask.nonzero().tolist():
        plain[row, column] = log_probs[row, column - 1, tokens[row, column]]
    assert_close(ours, plain)
    for got, expected in zip(
        gradients(ours, hidden, head.weight), gradients(plain, hidden, head.weight), strict=True
    ):
        assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_to_slots_and_back() -> None:
    """The gradient of padding is dropped on the way in and zero on the way out."""
    slots = documents_layout(torch.tensor([[0, 0, 0, 1, 1]])).slots
    assert slots is not None
    x = normal(5, 2)
    spread = slots.spread(x)
    assert_close(slots.collect(spread), x)
    assert_close(torch.autograd.grad(spread.sum(), x)[0], torch.ones(5, 2))
    y = normal(6, 2)
    expected = (~slots.padding).float().expand(6, 2) if slots.padding is not None else None
    assert_close(torch.autograd.grad(slots.collect(y).sum(), y)[0], expected)
