"""Packed documents: which tokens attend together.

Attention over a whole packed row would compute, and throw away, the scores between its documents.
So documents of similar length, whatever row they stand in, form a group that attends as one batch:
three times faster in rows of 256 tokens, six times and more in rows of 1024. The fused attention of
rlhf/model/kernels.py takes every document by itself and reads no groups.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf.model.linear import ROW_STEP

NEARLY_ALL = 0.9
"""Share of the tokens from which on leaving the others out is not worth the copies."""

LEAST_FILLED = 0.6
"""Documents shorter than this share of the longest in a group start another one."""


class Group(NamedTuple):
    """Documents that attend as one batch."""

    documents: int
    length: int
    """Slots per document: tokens of the longest."""
    mask: Tensor | None
    """[documents, 1, length, length] added to the scores; None for plain causal attention, which
    hides the padding behind a document as well."""


class Slots(NamedTuple):
    """N tokens in the S slots of all groups, one document after the other."""

    tokens: Tensor
    """[S] the token in each slot; padding repeats the last of its document."""
    padding: Tensor | None
    """[S, 1] True where a slot is padding; None where none is."""
    of_tokens: Tensor
    """[N] the slot of each token."""

    def spread(self, x: Tensor) -> Tensor:
        """[N, width] → [S, width]."""
        return _Spread.apply(x, *self)  # type: ignore[no-untyped-call]

    def collect(self, x: Tensor) -> Tensor:
        """[S, width] → [N, width]; the way back."""
        return _Collect.apply(x, *self)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Layout:
    """The tokens of a batch that are computed: N of its rows · T places."""

    places: Tensor | None
    """[N] within the flattened batch; None where all of them are."""
    positions: Tensor
    """[N] of each token in its document; every branch continues the trunk."""
    spans: Tensor
    """[documents, 2] the first token and the length of each, the longest first: threads end
    together, and `groups` are runs of them."""
    rows: tuple[int, int] | None = None
    """Rows and their length where every row of the batch is one document."""
    branches: Tensor | None = None
    """[N] the branch of each token (see `documents_layout`); None where there are none."""
    mask_dtype: torch.dtype = torch.float32

    @cached_property
    def groups(self) -> list[Group]:
        """How documents attend together; where each attends by itself, this is never made."""
        if self.rows:
            return [Group(*self.rows, None)]
        inside = [tokens for tokens, _ in self._grouped]
        return [Group(len(tokens), tokens.shape[1], self._mask(tokens)) for tokens in inside]

    @cached_property
    def slots(self) -> Slots | None:
        """Where the tokens of `groups` stand; None where they stand there already."""
        if self.rows:
            return None
        parts = zip(*self._grouped, strict=True)
        tokens, padding = (torch.cat([part.flatten() for part in group]) for group in parts)
        index = torch.arange(len(self.positions), device=tokens.device)
        if torch.equal(tokens, index):
            return None
        of_tokens = torch.empty_like(index)
        of_tokens[tokens[~padding]] = (~padding).nonzero().squeeze(1)
        return Slots(tokens, padding[:, None] if padding.any() else None, of_tokens)

    @cached_property
    def _grouped(self) -> list[tuple[Tensor, Tensor]]:
        """`_slots_of` documents of similar length; one group of none where there are none."""
        sizes: list[int] = []
        longest = 0
        for length in self.spans[:, 1].tolist():
            if length < LEAST_FILLED * longest or not sizes:
                sizes.append(0)
                longest = length
            sizes[-1] += 1
        return [_slots_of(spans) for spans in torch.split(self.spans, sizes or [0])]

    def _mask(self, tokens: Tensor) -> Tensor | None:
        if self.branches is None:
            return None
        return _branch_mask(self.branches[tokens], self.mask_dtype)


def rows_layout(rows: int, length: int, device: torch.device) -> Layout:
    """Every row is one document."""
    positions = torch.arange(length, device=device).repeat(rows)
    starts = torch.arange(rows, device=device) * length
    spans = torch.stack((starts, torch.full_like(starts, length)), dim=1)
    return Layout(None, positions, spans, (rows, length))


def documents_layout(
    documents: Tensor,
    branches: Tensor | None = None,
    mask_dtype: torch.dtype = torch.float32,
) -> Layout:
    """Every row holds documents side by side.

    Args:
        documents: [B, T] number of the document that each token belongs to; −1 for padding. The
            tokens of a document stand together.
        branches: [B, T] 0 for the trunk that all branches of the document continue, 1, 2, … for the
            branches, which follow it and see the trunk and themselves; None where there are none.
        mask_dtype: of the masks that hide branches from each other.
    """
    places = _filled(documents.flatten() >= 0)  # padding attends as documents of its own
    row, number = places // documents.shape[1], documents.flatten()[places]
    begins = torch.ones_like(places, dtype=torch.bool)
    begins[1:] = (row[1:] != row[:-1]) | (number[1:] != number[:-1])
    starts = begins.nonzero().squeeze(1)
    lengths = torch.diff(starts, append=starts.new_tensor([len(places)]))
    if branches is not None:
        branches = branches.flatten()[places]
    index = torch.arange(len(places), device=places.device)
    positions = index - starts.repeat_interleave(lengths)
    if branches is not None:
        positions = _continued(positions, branches)
    order = lengths.argsort(descending=True, stable=True)
    spans = torch.stack((starts, lengths), dim=1)[order]
    return Layout(places, positions, spans, None, branches, mask_dtype)


def without_padding(lengths: Tensor, width: int) -> Tensor | None:
    """[B, width] documents for `documents_layout`: one per row, its padding outside.

    Args:
        lengths: [B] real tokens at the left of each row.
        width: of the rows.

    Returns:
        None, for every row as it is, where nearly all of it is real: what padding there is costs
        less than moving the tokens together.
    """
    if int(lengths.sum()) > NEARLY_ALL * len(lengths) * width:
        return None
    places = torch.arange(width, device=lengths.device)
    return torch.where(places < lengths[:, None], 0, -1)


def rows_read(layout: Layout, wanted: Tensor) -> Tensor | None:
    """Which of the N tokens are read behind the last layer; None where nearly all of them are.

    Args:
        layout: of the batch.
        wanted: [B, T] True where the final state is read.
    """
    flat = wanted.flatten()
    rows = _filled(flat if layout.places is None else flat[layout.places])
    return None if len(rows) > NEARLY_ALL * len(layout.positions) else rows


def take_rows(x: Tensor, rows: Tensor | None) -> Tensor:
    """[M, width] the rows of x [N, width], each at most once; x itself for None."""
    return x if rows is None else _Take.apply(x, rows)  # type: ignore[no-untyped-call]


def _filled(marked: Tensor) -> Tensor:
    """Where [n] is True, and as many other places as make the number of them a round one."""
    missing = -int(marked.sum()) % ROW_STEP
    filling = ~marked & ((~marked).cumsum(0) <= missing)
    return (marked | filling).nonzero().squeeze(1)


def _slots_of(spans: Tensor) -> tuple[Tensor, Tensor]:
    """[documents, length] the token in each slot of a group, and where it is padding."""
    starts, lengths = spans[:, :1], spans[:, 1:]
    reach = torch.arange(max(lengths.flatten().tolist(), default=1), device=spans.device)
    return starts + torch.minimum(reach, lengths - 1), reach >= lengths


def _continued(positions: Tensor, labels: Tensor) -> Tensor:
    """[N] positions where every branch begins where the trunk of its document ended."""
    begins = torch.ones_like(labels, dtype=torch.bool)
    begins[1:] = (labels[1:] != labels[:-1]) | (positions[1:] == 0)
    index = torch.arange(len(labels), device=labels.device)
    part_start = torch.where(begins, index, 0).cummax(0).values
    trunk_length = torch.where(labels == 0, 0, positions[part_start])
    # Branches after the first: where the first of the document began.
    first = torch.where(begins & (labels <= 1), index, 0).cummax(0).values
    trunk_length = torch.where(labels > 1, positions[first], trunk_length)
    return torch.where(labels == 0, positions, index - part_start + trunk_length)


def _branch_mask(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, 1, L, L] from [n, L]: 0 where a token may attend, −∞ elsewhere."""
    length = labels.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=labels.device).tril()
    seen = (labels[:, :, None] == labels[:, None, :]) | (labels[:, None, :] == 0)
    mask = torch.zeros(seen.shape, dtype=dtype, device=labels.device)
    return mask.masked_fill_(~(seen & causal), -torch.inf)[:, None]


class _Take(torch.autograd.Function):
    """Copies rows back, where torch would add one after the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = x.shape
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, rows, grad), None


class _Spread(torch.autograd.Function):
    """Padding passes no gradient back: nothing real sees it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, tokens: Tensor, padding: Tensor | None, of_tokens: Tensor
    ) -> Tensor:
        ctx.save_for_backward(of_tokens)
        return x.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (of_tokens,) = ctx.saved_tensors
        return grad.index_select(0, of_tokens), None, None, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, tokens: Tensor, padding: Tensor | None, of_tokens: Tensor
    ) -> Tensor:
        ctx.save_for_backward(tokens, padding)
        return x.index_select(0, of_tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        tokens, padding = ctx.saved_tensors
        spread = grad.index_select(0, tokens)
        return spread if padding is None else spread.masked_fill_(padding, 0), None, None, None
