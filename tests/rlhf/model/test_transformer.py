"""One function of the tokens, whatever stands beside or behind."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf.model.heads import score_at_last
from rlhf.model.transformer import Transformer
from tests.tiny_models import random_tokens, small_language_model, small_scalar_model

close = partial(assert_close, atol=5e-6, rtol=0.0)
"""Hidden states are of size 1 to 4; float32 sums of other shapes differ in the last bits."""


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small_language_model().model


@torch.no_grad()
def test_right_padding_changes_nothing(model: Transformer) -> None:
    tokens = random_tokens(2, 9)
    for filling in (0, 5):
        padded = torch.cat((tokens, torch.full((2, 7), filling)), dim=1)
        close(model(padded)[:, :9], model(tokens))


@torch.no_grad()
def test_the_future_changes_nothing(model: Transformer) -> None:
    tokens = random_tokens(1, 12)
    other = tokens.clone()
    other[:, 8:] = random_tokens(1, 4, seed=1)
    close(model(other)[:, :8], model(tokens)[:, :8])
    assert (model(other)[:, 8:] - model(tokens)[:, 8:]).abs().max() > 0.1


@torch.no_grad()
def test_a_row_does_not_see_its_neighbours(model: Transformer) -> None:
    tokens = random_tokens(5, 10)
    for index in range(5):
        close(model(tokens)[index], model(tokens[index : index + 1])[0])


@torch.no_grad()
def test_packed_documents_are_separate_documents(model: Transformer) -> None:
    parts = [random_tokens(1, length, seed=length) for length in (5, 8, 1)]
    packed = torch.cat((*parts, torch.zeros(1, 4, dtype=torch.long)), dim=1)
    documents = torch.tensor([[0] * 5 + [1] * 8 + [2] + [-1] * 4])
    hidden = model(packed, documents)
    assert hidden.isfinite().all()  # the padding too
    for part, found in zip(parts, hidden.split([5, 8, 1, 4], dim=1), strict=False):
        close(found, model(part))


@torch.no_grad()
def test_branches_are_separate_continuations(model: Transformer) -> None:
    prompt, first, second = (random_tokens(1, n, seed=n) for n in (6, 4, 3))
    tokens = torch.cat((prompt, first, second, prompt, second, first), dim=1)
    documents = torch.tensor([[0] * 13 + [1] * 13])
    branches = torch.tensor([[0] * 6 + [1] * 4 + [2] * 3 + [0] * 6 + [1] * 3 + [2] * 4])
    hidden = model(tokens, documents, branches)
    with_first = model(torch.cat((prompt, first), dim=1))
    with_second = model(torch.cat((prompt, second), dim=1))
    parts = hidden.split([6, 4, 3, 6, 3, 4], dim=1)
    expected = [
        *(with_first[:, :6], with_first[:, 6:], with_second[:, 6:]),
        *(with_first[:, :6], with_second[:, 6:], with_first[:, 6:]),
    ]
    for found, alone in zip(parts, expected, strict=True):
        close(found, alone)


@torch.no_grad()
def test_order_matters(model: Transformer) -> None:
    """Without positions, attention would not tell these apart at the last token."""
    a, b = torch.tensor([[4, 5, 6, 7]]), torch.tensor([[5, 4, 6, 7]])
    assert (model(a)[:, -1] - model(b)[:, -1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_score_is_read_at_the_last_real_token() -> None:
    model = small_scalar_model()
    rows = [random_tokens(length, seed=length) for length in (4, 9, 1)]
    padded = torch.stack([torch.cat((r, r.new_full((9 - len(r),), 5))) for r in rows])
    scores = score_at_last(model(padded), torch.tensor([4, 9, 1]))
    for row, score in zip(rows, scores, strict=True):
        close(score, model(row[None])[0, -1])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.95, 1.0])
def test_only_what_is_wanted_is_computed(share: float, packed: bool, recompute: bool) -> None:
    """States and gradients are those of a pass that computes everything."""
    model = small_language_model().model
    model.recompute_activations = recompute
    tokens = random_tokens(3, 70)
    documents = torch.zeros_like(tokens)
    documents[:, 40:], documents[1, 60:] = 1, -1
    wanted = (torch.rand(3, 70, generator=torch.Generator().manual_seed(0)) < share) & (
        documents >= 0
    )
    found = []
    for chosen in (None, wanted):
        states = model(tokens, documents if packed else None, wanted=chosen)[wanted]
        loss = states.square().sum()
        found.append([states, *torch.autograd.grad(loss, list(model.parameters()))])
    for all_computed, wanted_only in zip(*found, strict=True):
        assert_close(wanted_only, all_computed, rtol=1e-5, atol=1e-5)


def test_what_is_not_wanted_costs_nothing_behind_the_last_attention() -> None:
    """64 rows at least, so that the number of rows is a round one."""
    model = small_language_model().model
    wanted = torch.zeros(3, 70, dtype=torch.bool)
    wanted[:, -5:] = True
    rows: list[int] = []
    for layer in (model.layers[0], model.layers[-1]):
        layer.mlp.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    model(random_tokens(3, 70), wanted=wanted)
    assert rows == [3 * 70, 64]


def test_recomputed_activations_give_the_same_gradients() -> None:
    tokens = random_tokens(2, 12)
    kept: dict[bool, int] = {}
    gradients = {}
    for recompute in (False, True):
        model = small_language_model(num_layers=4)
        model.model.recompute_activations = recompute
        count = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model.model(tokens).square().sum()
        kept[recompute] = count
        loss.backward()
        gradients[recompute] = [p.grad for p in model.model.parameters()]
    assert_close(gradients[True], gradients[False], atol=0, rtol=0)
    assert kept[True] < kept[False] / 10
