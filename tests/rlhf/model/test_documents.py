"""Who may see whom in a packed row, by hand; and that packing changes no result."""

import torch
from torch.testing import assert_close

from rlhf.model.config import ModelConfig
from rlhf.model.documents import Layout, documents_layout, without_padding
from rlhf.model.init import init_language_model
from rlhf.model.transformer import Transformer

SHAPE = ModelConfig(
    vocab_size=50, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=24, context=64
)


def row(*values: int) -> torch.Tensor:
    return torch.tensor([values])


def picture(layout: Layout) -> list[str]:
    """One line per real token; x where it may attend."""
    assert layout.slots is not None
    tokens, count = layout.slots.tokens.tolist(), len(layout.positions)
    lines = [["."] * count for _ in range(count)]
    first = 0
    for group in layout.groups:
        for number in range(group.documents):
            slots = range(first, first + group.length)
            for i, query in enumerate(slots):
                if layout.slots.of_tokens[tokens[query]] != query:
                    continue  # padding
                for j, key in enumerate(slots):
                    mask = None if group.mask is None else group.mask[number, 0, i, j]
                    if j <= i if mask is None else mask == 0:
                        assert layout.slots.of_tokens[tokens[key]] == key, "padding is seen"
                        lines[tokens[query]][tokens[key]] = "x"
            first += group.length
    return ["".join(line) for line in lines]


def test_two_documents_and_padding() -> None:
    layout = documents_layout(row(0, 0, 0, 1, 1, -1, -1))
    assert picture(layout) == [
        "x......",
        "xx.....",
        "xxx....",
        "...x...",
        "...xx..",
        ".....x.",  # padding is a document of its own
        ".....xx",
    ]
    assert layout.positions.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert layout.spans.tolist() == [[0, 3], [3, 2], [5, 2]]


def test_padding_only_fills_up_to_a_round_number() -> None:
    documents = torch.full((3, 100), -1)
    documents[:, :50] = 0
    layout = documents_layout(documents)
    assert layout.places is not None
    # 150 real tokens and the first 42 of the padding: 192 = 3 · 64
    assert layout.places.tolist() == [*range(92), *range(100, 150), *range(200, 250)]


def test_a_prompt_with_two_responses() -> None:
    # document 0: prompt of 2, responses of 2 and 1; document 1: prompt of 1, responses of 1 and 2
    documents = row(0, 0, 0, 0, 0, 1, 1, 1, 1)
    branches = row(0, 0, 1, 1, 2, 0, 1, 2, 2)
    layout = documents_layout(documents, branches)
    assert picture(layout) == [
        "x........",
        "xx.......",
        "xxx......",
        "xxxx.....",
        "xx..x....",  # the second response sees the prompt and itself
        ".....x...",
        ".....xx..",
        ".....x.x.",
        ".....x.xx",
    ]
    # both responses continue the prompt
    assert layout.positions.tolist() == [0, 1, 2, 3, 2, 0, 1, 1, 2]


def test_responses_without_a_prompt() -> None:
    """Branches alone begin at position 0, beside a neighbour that ends with a trunk."""
    layout = documents_layout(row(0, 0, 1, 1, 1), row(0, 0, 1, 1, 2))
    assert layout.positions.tolist() == [0, 1, 0, 1, 0]


def test_every_row_has_its_own_documents() -> None:
    documents = torch.tensor([[0, 0, 1, 1], [1, 2, 2, -1]])
    layout = documents_layout(documents)
    assert layout.positions.tolist() == [0, 1, 0, 1, 0, 0, 1, 0]
    assert picture(layout)[4] == "....x..."  # document 1 of the second row is not that of the first
    # lengths 2, 2, 2 make a group; 1 and the padding are below 0.6 · 2
    assert [(group.documents, group.length) for group in layout.groups] == [(3, 2), (2, 1)]
    assert layout.slots is not None
    assert layout.slots.padding is None


def test_documents_of_similar_length_share_a_group() -> None:
    lengths = [3, 10, 6, 5, 9]
    documents = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))[None]
    layout = documents_layout(documents)
    # 10, 9, 6 are at least 0.6 · 10; 5 begins a group, and 3 is 0.6 · 5
    assert [(group.documents, group.length) for group in layout.groups] == [(3, 10), (2, 5)]
    assert layout.slots is not None
    assert layout.slots.padding is not None
    assert int(layout.slots.padding.sum()) == 1 + 4 + 2


def test_packing_changes_neither_states_nor_gradients() -> None:
    model = init_language_model(SHAPE, seed=1).model
    lengths = [7, 1, 4, 12, 3]
    pieces = [
        torch.randint(0, 50, (1, n), generator=torch.Generator().manual_seed(n)) for n in lengths
    ]
    alone = torch.cat([_states_and_gradient(model, piece)[0] for piece in pieces], dim=1)
    gradient = sum(_states_and_gradient(model, piece)[1] for piece in pieces)

    tokens = torch.full((2, 16), 9)
    documents = torch.full((2, 16), -1)
    tokens[0, :12], tokens[1, :15] = (torch.cat(p, dim=1)[0] for p in (pieces[:3], pieces[3:]))
    documents[0, :12] = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths[:3]))
    documents[1, :15] = torch.repeat_interleave(torch.arange(2), torch.tensor(lengths[3:]))
    packed, packed_gradient = _states_and_gradient(model, tokens, documents)
    assert_close(packed[documents >= 0], alone[0], rtol=1e-5, atol=1e-5)
    assert_close(packed_gradient, gradient, rtol=1e-4, atol=1e-5)


def test_a_batch_without_documents() -> None:
    """What a rank gets whose share of a batch is empty: it takes part, and adds nothing."""
    model = init_language_model(SHAPE, seed=1).model
    states = model(torch.zeros(2, 3, dtype=torch.long), torch.full((2, 3), -1))
    assert states.shape == (2, 3, 16)
    assert not states.any()
    (states.sum() * 0).backward()
    assert not any(p.grad is None or p.grad.any() for p in model.parameters())


def _states_and_gradient(
    model: Transformer, tokens: torch.Tensor, documents: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Final states, and all gradients of the sum of their squares, weighted."""
    model.zero_grad()
    states = model(tokens, documents)
    weights = torch.linspace(-1, 1, states.shape[-1])
    if documents is not None:
        states = states * (documents >= 0)[..., None]
    (states * weights).square().sum().backward()
    return states.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]


def test_rows_are_documents_where_much_is_padding() -> None:
    documents = without_padding(torch.tensor([4, 1]), 4)
    assert documents is not None
    assert documents.tolist() == [[0, 0, 0, 0], [0, -1, -1, -1]]
    assert without_padding(torch.tensor([10, 9]), 10) is None  # 95 %: as they are
    assert without_padding(torch.tensor([10, 8]), 10) is not None  # 90 %


def test_padding_that_is_left_out_changes_nothing() -> None:
    """Neither states nor gradients, for lengths of several groups."""
    model = init_language_model(SHAPE, seed=0).model
    torch.manual_seed(1)
    lengths = torch.tensor([20, 3, 11, 17, 1, 8])
    tokens = torch.randint(0, 50, (6, 20))
    real = torch.arange(20) < lengths[:, None]
    coefficients = torch.randn(6, 20, SHAPE.dim) * real[..., None]
    found = []
    for documents in (None, without_padding(lengths, 20)):
        model.zero_grad()
        states = model(tokens, documents)
        (states * coefficients).sum().backward()
        gradients = [weight.grad.clone() for weight in model.parameters()]
        found.append((states[real].detach(), *gradients))
    for plain, packed in zip(*found, strict=True):
        assert_close(packed, plain, rtol=1e-4, atol=1e-5)
