"""Who may see whom in a packed row, by hand."""

import torch
from torch.testing import assert_close

from rlhf.model.attention import document_mask, document_positions


def row(*values: int) -> torch.Tensor:
    return torch.tensor([values])


def picture(mask: torch.Tensor) -> list[str]:
    """One line per token; x where it may attend."""
    return ["".join("x" if seen else "." for seen in line) for line in mask[0, 0].tolist()]


def test_two_documents_and_padding() -> None:
    documents = row(0, 0, 0, 1, 1, -1, -1)
    assert picture(document_mask(documents)) == [
        "x......",
        "xx.....",
        "xxx....",
        "...x...",
        "...xx..",
        ".....x.",  # padding sees itself, so that no softmax is empty
        ".....xx",
    ]
    assert document_positions(documents).tolist() == [[0, 1, 2, 0, 1, 0, 1]]


def test_a_prompt_with_two_responses() -> None:
    # document 0: prompt of 2, responses of 2 and 1; document 1: prompt of 1, responses of 1 and 2
    documents = row(0, 0, 0, 0, 0, 1, 1, 1, 1)
    branches = row(0, 0, 1, 1, 2, 0, 1, 2, 2)
    assert picture(document_mask(documents, branches)) == [
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
    assert document_positions(documents, branches).tolist() == [[0, 1, 2, 3, 2, 0, 1, 1, 2]]


def test_every_row_has_its_own_documents() -> None:
    documents = torch.tensor([[0, 0, 1, 1], [0, 1, 1, -1]])
    assert document_mask(documents).shape == (2, 1, 4, 4)
    assert_close(document_mask(documents)[1], document_mask(documents[1:])[0])
    assert document_positions(documents).tolist() == [[0, 1, 0, 1], [0, 0, 1, 0]]
