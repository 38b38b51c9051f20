"""The fused operations against torch's."""

import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from rlhf.model import kernels, linear
from rlhf.model.attention import attend
from rlhf.model.documents import documents_layout, rows_layout
from rlhf.model.logprobs import token_logprobs
from rlhf.model.norm import RMSNorm
from rlhf.model.rope import apply_rope, rope_frequencies, rope_tables
from rlhf.model.swiglu import swiglu
from tests import tiny_models
from tests.threads import threads
from tests.tiny_models import random_tokens, small_language_model

pytestmark = pytest.mark.skipif(
    not kernels.usable(torch.ones(1)), reason="no C compiler: torch's own operations are used"
)


@pytest.fixture
def torch_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and nothing is fused any more."""
    return lambda: monkeypatch.setattr(kernels, "usable", lambda *_: False)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (tiny_models.normal(*shape, seed=seed) * scale).requires_grad_()


def with_gradients(result: Tensor, *inputs: Tensor) -> list[Tensor]:
    weights = normal(*result.shape, seed=99).detach()
    return [result.detach(), *torch.autograd.grad((result * weights).sum(), inputs)]


@pytest.mark.parametrize("width", [1, 24, 130])
def test_normalisation(width: int, torch_only: Callable[[], None]) -> None:
    norm, x = RMSNorm(width, eps=1e-5), normal(3, 41, width)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, width))
    fused = with_gradients(norm(x), x, norm.weight)
    torch_only()
    for ours, plain in zip(fused, with_gradients(norm(x), x, norm.weight), strict=True):
        assert_close(ours, plain, rtol=2e-5, atol=2e-5)


def test_gated_activation(torch_only: Callable[[], None]) -> None:
    """Numbers so large that e^x overflows, too."""
    gate, up = normal(70, 37, scale=40), normal(70, 37, seed=1)
    fused = with_gradients(swiglu(gate, up), gate, up)
    assert fused[0].isfinite().all()
    torch_only()
    for ours, plain in zip(fused, with_gradients(swiglu(gate, up), gate, up), strict=True):
        assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_gated_activation_of_two_halves() -> None:
    both = normal(5, 48).detach()
    gate, up = both.chunk(2, dim=-1)
    assert_close(kernels.swiglu(gate, up), F.silu(gate) * up)


def test_rotation(torch_only: Callable[[], None]) -> None:
    x = normal(2, 3, 7, 12)
    tables = rope_tables(torch.arange(14).view(2, 7), rope_frequencies(12, 500.0))
    fused = with_gradients(apply_rope(x, *tables), x)
    torch_only()
    for ours, plain in zip(fused, with_gradients(apply_rope(x, *tables), x), strict=True):
        assert_close(ours, plain)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chosen_logprobs(temperature: float, torch_only: Callable[[], None]) -> None:
    """More positions than a chunk holds, and logits of ± 30."""
    hidden, head = normal(4, 90, 16, scale=2), torch.nn.Linear(16, 77, bias=False)
    torch.nn.init.normal_(head.weight, std=3, generator=torch.Generator().manual_seed(1))
    tokens = random_tokens(4, 90)
    mask = torch.ones(4, 90, dtype=torch.bool)
    mask[:, 0] = False

    def found() -> list[Tensor]:
        out = token_logprobs(hidden, head, tokens, mask, temperature=temperature, with_entropy=True)
        assert out.entropy is not None
        return [out.entropy, *with_gradients(out.logprobs, hidden, head.weight)]

    fused = found()
    torch_only()
    for ours, plain in zip(fused, found(), strict=True):
        assert_close(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)], ids=["MHA", "GQA", "MQA"])
@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 100])
def test_attention(length: int, heads: tuple[int, int], width: int) -> None:
    """Beside torch in float64; in float32 torch itself is off by 4e-6, the fused one by 1.2e-6."""
    documents = 3
    sizes = [count * width for count in (heads[0], heads[1], heads[1])]
    inputs = [normal(documents * length, size, seed=n) for n, size in enumerate(sizes)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    layout = rows_layout(documents, length, torch.device("cpu"))
    fused = with_gradients(attend(*inputs, layout, width), *inputs)
    plain = with_gradients(attend(*exact, layout, width), *exact)
    for ours, theirs in zip(fused, plain, strict=True):
        assert_close(ours.double(), theirs, rtol=1e-5, atol=2e-6)


def test_attention_in_documents_of_any_length() -> None:
    """Beside torch's in groups of similar length; rows hold several documents, and padding."""
    numbers = torch.repeat_interleave(torch.arange(5), torch.tensor([40, 1, 33, 300, 20]))
    documents = torch.stack((numbers, torch.where(numbers < 3, numbers, -1)))
    layout = documents_layout(documents)
    tokens = len(layout.positions)
    assert layout.spans[:, 1].tolist() == sorted(layout.spans[:, 1].tolist(), reverse=True)
    assert sum(layout.spans[:, 1].tolist()) == tokens
    inputs = [normal(tokens, size, seed=n) for n, size in enumerate((128, 64, 64))]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    result = attend(*inputs, layout, 32)
    assert result.grad_fn is not None and "_Attend" in result.grad_fn.name()
    fused = with_gradients(result, *inputs)
    assert not {"groups", "slots"} & vars(layout).keys(), "made, but not read"
    plain = with_gradients(attend(*exact, layout, 32), *exact)
    assert {"groups", "slots"} <= vars(layout).keys()
    for ours, theirs in zip(fused, plain, strict=True):
        assert_close(ours.double(), theirs, rtol=1e-5, atol=4e-6)


@pytest.mark.parametrize("widths", [(32, 32), (64, 352), (160, 96)], ids=str)
@pytest.mark.parametrize("rows", [1, 127, 128, 300])
def test_product_over_rows(
    rows: int, widths: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of the result and of the rows that are full, and that are not."""
    monkeypatch.setattr(linear, "_prefers_mkl", lambda: False)
    x, y = (normal(rows, width, seed=seed).detach() for seed, width in enumerate(widths))
    found = kernels.product_over_rows(x, y)
    assert_close(found.double(), x.double().t() @ y.double(), rtol=1e-5, atol=1e-4)
    assert torch.equal(linear.product_over_rows(x, y), found)


@pytest.mark.parametrize("vocabulary", [1, 64, 100, 512])
def test_draw(vocabulary: int) -> None:
    """Beside cumulative sums in float64; with a quarter of the tokens impossible."""
    logits = normal(999, vocabulary, scale=3).detach()
    logits[:, 1::4] = -torch.inf
    uniforms = torch.rand(999, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = kernels.draw(logits, uniforms, 0.7)
    exact = (logits.double() / 0.7).log_softmax(dim=-1)
    ends = exact.exp().cumsum(dim=-1)
    plain = torch.searchsorted(ends, uniforms.double()[:, None] * ends[:, -1:], right=True)[:, 0]
    assert (tokens == plain).float().mean() > 0.998  # ties by rounding
    chosen = exact.gather(1, tokens[:, None])[:, 0]
    assert_close(logprobs.double(), chosen, rtol=1e-6, atol=1e-6)


def test_draw_at_the_ends_of_the_distribution() -> None:
    """Nothing impossible, be it the first or the last; the largest number below 1 included."""
    logits = torch.full((3, 130), -torch.inf)
    logits[:, [2, 70]] = 0
    logits[:, 71] = -200  # e^−200 is none in float32
    tokens, logprobs = kernels.draw(logits, torch.tensor([0.0, 0.5, 1 - 2**-24]), 1.0)
    assert tokens.tolist() == [2, 70, 70]
    assert_close(logprobs, torch.full((3,), 0.5).log())


def test_what_is_no_number_stays_none() -> None:
    x = torch.ones(2, 64)
    x[1, 5] = torch.nan
    assert kernels.rms_norm(x, torch.ones(64), 1e-5)[0].isnan().any(dim=1).tolist() == [False, True]
    chosen, _, entropy = kernels.chosen_logprobs(x, torch.tensor([3, 3]), 1.0)
    assert chosen.isnan().tolist() == entropy.isnan().tolist() == [False, True]
    _, drawn = kernels.draw(x, torch.tensor([0.5, 0.5]), 1.0)
    assert drawn.isnan().tolist() == [False, True]
    spans = torch.tensor([[0, 2]])
    queries = torch.ones(2, 32)
    queries[1, 0] = torch.nan
    found, _ = kernels.attend(queries, torch.ones(2, 32), torch.ones(2, 32), spans, 32)
    assert found.isnan().any(dim=1).tolist() == [False, True]


def test_the_number_of_threads_changes_nothing() -> None:
    """Not the last bit of a gradient, so that a run goes on the same with another number."""
    model = small_language_model(dim=128, num_heads=4, num_kv_heads=2)
    tokens, mask = random_tokens(16, 192), torch.ones(16, 192, dtype=torch.bool)
    mask[:, 0] = False
    lengths = torch.tensor([1, 90, 7, 60, 34])
    documents = torch.repeat_interleave(torch.arange(5), lengths).expand(16, -1)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            logprobs = model(tokens, mask, documents=documents).logprobs
            grads = torch.autograd.grad(logprobs.sum(), list(model.parameters()))
            found.append([logprobs, *grads])
    for others in found[1:]:
        for ours, theirs in zip(found[0], others, strict=True):
            assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    "x",
    [torch.ones(4, dtype=torch.bfloat16), torch.ones(4, device="meta"), torch.ones(4, 4).t()[:2]],
    ids=["bf16", "no CPU", "strided"],
)
def test_other_tensors_are_left_to_torch(x: Tensor) -> None:
    assert not kernels.usable(x)


def test_an_id_that_no_token_has() -> None:
    head, tokens = torch.nn.Linear(16, 5, bias=False), torch.tensor([[0, 5]])
    with pytest.raises(AssertionError, match="out of range"):
        token_logprobs(normal(1, 2, 16), head, tokens, torch.tensor([[False, True]]))


def test_nothing_is_said_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        kernels.usable(torch.ones(1))
    assert caplog.messages == []
