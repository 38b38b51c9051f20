"""Log-probabilities of tokens against an explicit log-softmax and gather."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlhf.model import kernels, logprobs
from rlhf.model.linear import ROW_STEP
from rlhf.model.logprobs import align_values, token_logprobs
from tests.tiny_models import SMALL, random_tokens, small_language_model

VOCAB = SMALL.vocab_size


def random_mask(rows: int, length: int, seed: int = 0) -> Tensor:
    mask = torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[:, 0] = False
    return mask


def test_three_tokens_by_hand() -> None:
    # Vocabulary of 2, hidden states that are the logits. Position 0 has logits (0, log 3): the next
    # token is 1 with probability ¾; position 1 has (0, 0): either with ½.
    hidden = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [5.0, 0.0]]])
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    mask = torch.tensor([[False, True, True]])
    tokens = torch.tensor([[0, 1, 0]])
    found = token_logprobs(hidden, head, tokens, mask, with_entropy=True)
    assert_close(found.logprobs, torch.tensor([[0.0, math.log(3 / 4), math.log(1 / 2)]]))
    # −¾ ln ¾ − ¼ ln ¼ = 0.562335; ln 2 = 0.693147
    assert found.entropy is not None
    assert_close(found.entropy, torch.tensor([[0.0, 0.562335, 0.693147]]), atol=1e-6, rtol=0)
    # Temperature ½ doubles the logits: (0, log 9), so 9/10.
    sharper = token_logprobs(hidden, head, tokens, mask, temperature=0.5)
    assert_close(sharper.logprobs, torch.tensor([[0.0, math.log(9 / 10), math.log(1 / 2)]]))
    assert sharper.entropy is None


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@torch.no_grad()
def test_log_softmax_and_gather(temperature: float) -> None:
    model = small_language_model()
    tokens, mask = random_tokens(4, 12), random_mask(4, 12)
    logits = model.lm_head(model.model(tokens)) / temperature
    log_probs = logits.log_softmax(dim=-1)
    # token t is predicted at position t − 1
    expected = log_probs[:, :-1].gather(2, tokens[:, 1:, None]).squeeze(2)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)[:, :-1]
    found = model(tokens, mask, temperature=temperature, with_entropy=True)
    assert_close(found.logprobs[:, 1:], torch.where(mask[:, 1:], expected, 0.0))
    assert_close(found.entropy[:, 1:], torch.where(mask[:, 1:], entropy, 0.0))
    assert not found.logprobs[:, 0].any()


@torch.no_grad()
def test_probabilities_of_all_tokens_sum_to_one() -> None:
    model = small_language_model()
    size = model.config.vocab_size
    tokens = random_tokens(1, 6).repeat(size, 1)
    tokens[:, 5] = torch.arange(size)
    mask = torch.zeros(size, 6, dtype=torch.bool)
    mask[:, 5] = True
    assert_close(model(tokens, mask).logprobs[:, 5].exp().sum(), torch.tensor(1.0))


@torch.no_grad()
def test_padding_and_neighbours_change_nothing() -> None:
    model = small_language_model()
    tokens, mask = random_tokens(3, 10), random_mask(3, 10)
    padded = torch.cat((tokens, torch.zeros(3, 5, dtype=torch.long)), dim=1)
    padded_mask = torch.cat((mask, torch.zeros(3, 5, dtype=torch.bool)), dim=1)
    alone = model(tokens[1:2], mask[1:2]).logprobs
    assert_close(model(padded, padded_mask).logprobs[1:2, :10], alone, atol=1e-6, rtol=0)


def test_gradients_are_those_of_the_plain_computation() -> None:
    model = small_language_model()
    tokens, mask = random_tokens(2, 8), random_mask(2, 8)
    weight = model.lm_head.weight

    def gradient(loss: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(loss, weight)
        return found

    logits = model.lm_head(model.model(tokens))[:, :-1]
    plain = nn.functional.cross_entropy(logits[mask[:, 1:]], tokens[:, 1:][mask[:, 1:]])
    ours = -model(tokens, mask).logprobs.sum() / mask.sum()
    assert_close(ours, plain)
    assert_close(gradient(ours), gradient(plain), atol=1e-7, rtol=1e-5)


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven positions at a time, and no logits kept."""
    monkeypatch.setattr(logprobs, "CHUNK_ROWS", 7)
    monkeypatch.setattr(logprobs, "KEPT_LOGITS", 0)


@pytest.mark.usefixtures("in_chunks")
@pytest.mark.parametrize("with_entropy", [False, True])
def test_chunks_change_nothing(with_entropy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, mask = random_tokens(4, 12), random_mask(4, 12)
    assert mask.sum() > 14  # three chunks or more, the last one not full
    outputs, gradients = [], []
    for chunk in (7, 1000):
        monkeypatch.setattr(logprobs, "CHUNK_ROWS", chunk)
        model = small_language_model()
        found = model(tokens, mask, temperature=0.7, with_entropy=with_entropy)
        (found.logprobs**2).sum().backward()
        outputs.append(found)
        gradients.append([p.grad for p in model.parameters()])
    assert_close(outputs[0].logprobs, outputs[1].logprobs, atol=1e-6, rtol=0)
    assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)
    if with_entropy:
        assert_close(outputs[0].entropy, outputs[1].entropy, atol=1e-6, rtol=0)
    else:
        assert outputs[0].entropy is outputs[1].entropy is None


@pytest.mark.usefixtures("in_chunks")
def test_chunks_are_the_plain_cross_entropy() -> None:
    model = small_language_model()
    tokens, mask = random_tokens(4, 12), random_mask(4, 12)
    logits = model.lm_head(model.model(tokens))[:, :-1]
    plain = nn.functional.cross_entropy(logits[mask[:, 1:]], tokens[:, 1:][mask[:, 1:]])
    found = -model(tokens, mask).logprobs.sum() / mask.sum()
    assert_close(found, plain, atol=1e-6, rtol=0)
    parameters = list(model.parameters())
    assert_close(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(plain, parameters),
        atol=1e-6,
        rtol=1e-4,
    )


def watch_products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many logits each product makes, in order."""
    made, multiply = list[int](), logprobs.linear

    def watched(x: Tensor, weight: Tensor) -> Tensor:
        product = multiply(x, weight)
        if len(weight) == VOCAB:
            made.append(product.numel())
        return product

    monkeypatch.setattr(logprobs, "linear", watched)
    return made


@pytest.mark.skipif(not kernels.usable(torch.zeros(1)), reason="torch's operations keep no logits")
def test_few_logits_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are kept, and not one more; a second way back, and more logits, make them anew."""
    tokens, mask = random_tokens(4, 12), random_mask(4, 12)
    model = small_language_model()
    parameters = list(model.parameters())
    logits = -(-int(mask.sum()) // ROW_STEP) * ROW_STEP * VOCAB
    made, found = watch_products(monkeypatch), []
    for limit, backward in ((logits, 0), (logits - 1, logits)):
        monkeypatch.setattr(logprobs, "KEPT_LOGITS", limit)
        result = model(tokens, mask, temperature=0.7, with_entropy=True)
        loss = (result.logprobs**2).sum()
        ways = []
        for again in (backward, logits):
            assert made == [logits]
            ways.append(torch.autograd.grad(loss, parameters, retain_graph=True))
            assert sum(made[1:]) == again
            del made[1:]
        made.clear()
        found += [(result.logprobs, result.entropy, way) for way in ways]
    for other in found[1:]:
        assert_close(other, found[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("learns", ["nothing", "without gradients"])
def test_nothing_is_kept_for_no_gradient(monkeypatch: pytest.MonkeyPatch, learns: str) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ROWS", 8)
    model = small_language_model().requires_grad_(learns != "nothing")
    made = watch_products(monkeypatch)
    with torch.set_grad_enabled(learns == "nothing"):
        model(random_tokens(4, 12), random_mask(4, 12))
    assert set(made) == {8 * VOCAB}


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


def test_memory_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 positions of 1,000 ids, 64 at a time: never more logits than that, and none are kept."""
    monkeypatch.setattr(logprobs, "CHUNK_ROWS", 64)
    monkeypatch.setattr(logprobs, "KEPT_LOGITS", 0)
    head = nn.Linear(8, 1000, bias=False)
    hidden = torch.randn(2, 257, 8, requires_grad=True)
    tokens = random_tokens(2, 257, vocab_size=1000)
    mask = torch.ones(2, 257, dtype=torch.bool)
    mask[:, 0] = False
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with LargestTensor() as largest, hooks:
        token_logprobs(hidden, head, tokens, mask).logprobs.sum().backward()
    assert largest.elements == 64_000
    assert max(kept.values()) <= 1000 * 8 * 4  # the weights of the head


def test_the_entropy_carries_no_gradient() -> None:
    model = small_language_model()
    found = model(random_tokens(1, 5), random_mask(1, 5), with_entropy=True)
    assert found.logprobs.requires_grad
    assert not found.entropy.requires_grad


def test_nothing_marked() -> None:
    """An empty micro-batch must still take part in a backward pass."""
    model = small_language_model()
    found = model(random_tokens(2, 5), torch.zeros(2, 5, dtype=torch.bool), with_entropy=True)
    assert not found.logprobs.any()
    found.logprobs.sum().backward()
    gradient = model.lm_head.weight.grad
    assert gradient is not None
    assert not gradient.any()


def test_values_are_moved_one_to_the_right() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert align_values(values).tolist() == [[0.0, 1.0, 2.0], [0.0, 4.0, 5.0]]
