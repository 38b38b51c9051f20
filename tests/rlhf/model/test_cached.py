"""Token by token with a cache, or the whole sequence at once: the same logits."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf.model import kernels
from rlhf.model.cached import CachedModel
from rlhf.model.fused_step import FusedStep, suits
from rlhf.model.heads import LanguageModel
from rlhf.model.kv_cache import BLOCK
from rlhf.model.linear import linear
from tests.tiny_models import SMALL, random_tokens, small_language_model

close = partial(assert_close, atol=1e-5, rtol=0.0)
CAPACITY = 2 * BLOCK + 8
needs_compiler = pytest.mark.skipif(
    not kernels.usable(torch.ones(1)), reason="no C compiler: torch's own operations are used"
)


@pytest.fixture(
    scope="module",
    params=[
        *((6, 4), (2, 4), (1, 4)),
        *((6, 8), (2, 40), (2, 64), (1, 128)),
        *((6, 16), (2, 16), (1, 32)),
    ],
    ids=[
        *("MHA", "GQA", "MQA"),
        *("MHA, fused", "GQA, fused", "GQA, fused, 64", "MQA, fused, 128"),
        *("MHA, whole step", "GQA, whole step", "MQA, whole step"),
    ],
)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """Attention is fused where heads are a multiple of eight wide, and there is a compiler.

    The whole step is where the widths of layers are also multiples of 32 and not too large.
    """
    num_kv_heads, width = request.param
    return small_language_model(num_kv_heads=num_kv_heads, dim=6 * width)


def whole(model: LanguageModel, tokens: Tensor) -> Tensor:
    """[T, V] logits of one sequence without a cache."""
    return model.lm_head(model.model(tokens[None]))[0]


def prefilled(
    model: LanguageModel, prompts: list[Tensor], rows: list[int], slots: list[int]
) -> tuple[CachedModel, Tensor]:
    """The prompt of each row goes into the slot beside it; and the logits of that."""
    cached = CachedModel(model, len(slots), CAPACITY)
    return cached, cached.prefill([prompt.tolist() for prompt in prompts], slots, rows)


@torch.no_grad()
def test_cached_is_uncached(model: LanguageModel) -> None:
    """Sequences of one block, at the edge of a block, and of three."""
    lengths = torch.tensor([3, BLOCK - 2, 2 * BLOCK - 1])
    prompts = [random_tokens(length, seed=length) for length in lengths.tolist()]
    rest = random_tokens(3, 6, seed=99)
    cached, first = prefilled(model, prompts, rows=[0, 1, 2], slots=[0, 1, 2])
    found = [first]
    for step in range(6):
        found.append(cached.decode(rest[:, step], lengths + step, length=2 * BLOCK + step))
    for row, prompt in enumerate(prompts):
        expected = whole(model, torch.cat((prompt, rest[row])))[len(prompt) - 1 :]
        assert expected.std() > 0.5
        close(torch.stack([logits[row] for logits in found]), expected)


@needs_compiler
@pytest.mark.parametrize(
    ("num_kv_heads", "width", "whole_step"),
    [(6, 4, False), (6, 8, False), (1, 128, False), (6, 16, True), (2, 16, True), (1, 32, True)],
)
def test_which_steps_are_fused(num_kv_heads: int, width: int, whole_step: bool) -> None:
    config = replace(SMALL, num_kv_heads=num_kv_heads, dim=6 * width)
    weight = torch.ones(1)
    assert suits(config, weight) is whole_step
    assert not suits(config, weight.bfloat16())


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("slots", [1, 5])
def test_a_row_is_the_same_in_every_batch(slots: int) -> None:
    """To the last bit up to the head: threads share slots out, and no sum spans two."""
    model = small_language_model(num_kv_heads=2, dim=96)
    cached, x = CachedModel(model, 7, CAPACITY), torch.randn(7, 96)
    positions = torch.arange(7) * 5
    together = FusedStep(model, cached.cache)(x.clone(), cached._tables, positions)
    few = FusedStep(model, cached.cache)(x[:slots].clone(), cached._tables, positions[:slots])
    assert torch.equal(few, together[:slots])


@torch.no_grad()
def test_slots_may_share_a_prompt(model: LanguageModel) -> None:
    prompts = [random_tokens(5, seed=1), random_tokens(8, seed=2)]
    cached, first = prefilled(model, prompts, rows=[0, 1, 0], slots=[2, 0, 1])
    by_slot = [prompts[1], prompts[0], prompts[0]]
    close(first, torch.stack([whole(model, prompts[row])[-1] for row in (0, 1, 0)]))
    new = torch.tensor([7, 8, 9])
    logits = cached.decode(new, torch.tensor([8, 5, 5]), length=9)
    for slot, prompt in enumerate(by_slot):
        close(logits[slot], whole(model, torch.cat((prompt, new[slot : slot + 1])))[-1])


@torch.no_grad()
def test_slots_that_move_go_on(model: LanguageModel) -> None:
    prompts = list(random_tokens(3, 6))
    cached, _ = prefilled(model, prompts, rows=[0, 1, 2], slots=[0, 1, 2])
    cached.cache.move(sources=[2], targets=[0], slots=2)
    logits = cached.decode(torch.tensor([7, 8]), torch.tensor([6, 6]), length=7)
    for slot, row, new in ((0, 2, 7), (1, 1, 8)):
        close(logits[slot], whole(model, torch.cat((prompts[row], torch.tensor([new]))))[-1])


@torch.no_grad()
def test_a_slot_is_used_again(model: LanguageModel) -> None:
    """What the former sequence left behind the new one is out of reach."""
    long, short = random_tokens(12, seed=3), random_tokens(4, seed=4)
    cached, _ = prefilled(model, [long, long], rows=[0, 1], slots=[0, 1])
    cached.prefill([short.tolist()], slots=[0], rows=[0])
    logits = cached.decode(torch.tensor([7, 8]), torch.tensor([4, 12]), length=13)
    close(logits[0], whole(model, torch.cat((short, torch.tensor([7]))))[-1])
    close(logits[1], whole(model, torch.cat((long, torch.tensor([8]))))[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_linear_is_a_matrix_product(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 24, generator=generator, dtype=dtype)
    weight = torch.randn(40, 24, generator=generator, dtype=dtype)
    expected = torch.einsum("btd,vd->btv", x.double(), weight.double())
    found = linear(x, weight)
    assert found.dtype == dtype
    assert_close(linear(x, weight, added=found), found + found)
    # sums of 24 products of size 1: bf16 keeps eight bits of a result of size 5 to 20
    close(found.double(), expected, atol=0.07 if dtype == torch.bfloat16 else 1e-5)


@needs_compiler
def test_prompts_are_read_by_the_fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_language_model(num_heads=2, num_kv_heads=1, dim=64)
    calls, fused = [], kernels.attend
    monkeypatch.setattr(kernels, "attend", lambda *given: calls.append(given) or fused(*given))
    with torch.no_grad():
        CachedModel(model, 2, CAPACITY).prefill([[1, 5, 6], [1, 7]], [0, 1], [0, 1])
    assert len(calls) == model.config.num_layers
