"""Fused operations for float32 on a CPU, in C (the files beside this one), compiled when needed.

Torch composes a normalisation or a rotation of several operations, and each reads and writes all
numbers again. Where no C compiler is found, and for other devices and types, callers take torch's
operations: slower, and the same but for rounding.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.model import compiler

STEP_WIDTH, WIDTH = 8, 32
"""What the width of a head is a multiple of for a decoding step, and any width for products."""
TILE, BLOCK = 32, 32
"""Queries that `attend` takes at a time; positions in a block of the cache."""
PARTS = 32
"""Of the rows that `rms_norm_backward` sums up: enough for as many threads."""
SQUARE, TERMS = 32, 3
"""Of a product in tiles: lines of a factor that are split together, and bfloat16s of a number."""
STEPS, KEPT = 512, 384 * 512
"""Steps of its sums at a time, and numbers that stay in a cache."""

FILES = [Path(__file__).with_name(x) for x in ("kernels.h", "kernels.c", "decoding.c", "tiles.c")]
SIZES = {"TILE": TILE, "BLOCK": BLOCK, "WIDTH": WIDTH}
SIZES |= {"SQUARE": SQUARE, "TERMS": TERMS, "STEPS": STEPS, "KEPT": KEPT}
DEFINITIONS = [f"-D{name}={value}" for name, value in SIZES.items()]

ARGUMENTS = {
    "rms_norm": (4, 2, 1),
    "rms_norm_backward": (6, 3, 0),
    "swiglu": (3, 3, 0),
    "swiglu_backward": (5, 1, 0),
    "rotate": (4, 4, 1),
    "chosen_logprobs": (5, 2, 1),
    "chosen_logprobs_backward": (4, 2, 1),
    "draw": (5, 3, 1),
    "attend": (7, 7, 0),
    "attend_backward": (10, 7, 0),
    "product_over_rows": (3, 3, 0),
    "multiply_tiles": (4, 8, 0),
    "attend_step": (8, 6, 0),
    "decode_step": (6, 9, 1),
}
"""Pointers, sizes and numbers that each function takes, in this order."""


def usable(*tensors: Tensor) -> bool:
    """Whether the functions below take these tensors."""
    for x in tensors:
        if not (x.is_cpu and x.dtype is torch.float32 and x.is_contiguous()):
            return False
    return _library() is not None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """[..., dim] → weight · x / r with r = √(mean x² + ε), and [...] 1 / r."""
    assert weight.shape == x.shape[-1:]
    out, inverse = torch.empty_like(x), x.new_empty(x.shape[:-1])
    _call("rms_norm", (x, weight, out, inverse), inverse.numel(), x.shape[-1], eps)
    return out, inverse


def rms_norm_backward(
    grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients [..., dim] of x and [dim] of the weight."""
    assert grad.shape == x.shape == (*inverse.shape, *weight.shape)
    of_x, sums = torch.empty_like(x), x.new_zeros(PARTS, x.shape[-1])
    tensors = grad, x, inverse, weight, of_x, sums
    _call("rms_norm_backward", tensors, PARTS, inverse.numel(), x.shape[-1])
    return of_x, sums[0].clone()


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up of [n, width] each; they may be the halves of one tensor."""
    rows, width = gate.shape
    assert up.shape == gate.shape and up.stride() == gate.stride()
    out = gate.new_empty(rows, width)
    _call("swiglu", (gate, up, out), rows, width, gate.stride(0))
    return out


def swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up; all are contiguous."""
    assert grad.shape == gate.shape == up.shape
    of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
    _call("swiglu_backward", (grad, gate, up, of_gate, of_up), gate.numel())
    return of_gate, of_up


def rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """Rotates x [B, H, T, D] by angles [B, 1, T, D], or with direction −1 back."""
    batch, _, length, width = x.shape
    assert cos.shape == sin.shape == (batch, 1, length, width)
    out = torch.empty_like(x)
    _call("rotate", (x, cos, sin, out), *x.shape, direction)
    return out


def chosen_logprobs(
    logits: Tensor, ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """[n] log softmax(logits / T)[ids], the normalisers log Σ e^(logits / T), and the entropies."""
    assert ids.shape == logits.shape[:1] and ids.dtype is torch.int64
    # Outside of its logits a wrong id would be read here, and written on the way back.
    assert not len(ids) or (ids.min() >= 0 and ids.max() < logits.shape[1]), "an id out of range"
    chosen, normaliser, entropy = logits.new_empty(3, len(ids))
    tensors = logits, ids, chosen, normaliser, entropy
    _call("chosen_logprobs", tensors, *logits.shape, 1 / temperature)
    return chosen, normaliser, entropy


def chosen_logprobs_backward(
    grad: Tensor, ids: Tensor, normaliser: Tensor, logits: Tensor, temperature: float
) -> None:
    """Turns logits [n, V] into the gradient of `chosen_logprobs`, given that of its result [n]."""
    assert grad.shape == ids.shape == normaliser.shape == logits.shape[:1]
    tensors = grad, ids, normaliser, logits
    _call("chosen_logprobs_backward", tensors, *logits.shape, 1 / temperature)


def draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of [n, V] logits at a temperature above 0: [n] tokens and their log-probabilities.

    A token is the first whose cumulative probability exceeds the row's number [n] in [0, 1).
    """
    rows, vocab_size = logits.shape
    assert uniforms.shape == (rows,) and temperature > 0
    scratch = logits.new_empty(torch.get_num_threads(), vocab_size)
    tokens, logprobs = torch.empty(rows, dtype=torch.int64), logits.new_empty(rows)
    tensors = logits, uniforms, scratch, tokens, logprobs
    _call("draw", tensors, len(scratch), rows, vocab_size, 1 / temperature)
    return tokens, logprobs


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, spans: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """What queries attend to, causally within documents, and the normalisers of their scores.

    Args:
        queries: [N, H · D].
        keys: [N, K · D].
        values: like keys.
        spans: [documents, 2] the first token and the length of each; together all N tokens.
        width: D, a multiple of WIDTH.

    Returns:
        Like queries; and [H, N].
    """
    sizes = _attention_sizes(queries, keys, values, spans, width)
    out, normaliser = torch.empty_like(queries), queries.new_empty(sizes.heads, sizes.tokens)
    scratch = queries.new_empty(torch.get_num_threads(), width + TILE, sizes.room)
    tensors = queries, keys, values, spans, scratch, out, normaliser
    _call("attend", tensors, len(scratch), *sizes)
    return out, normaliser


def attend_backward(
    grad: Tensor, inputs: tuple[Tensor, Tensor, Tensor], spans: Tensor, normaliser: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values (`inputs`), given that of what `attend` returned."""
    queries, keys, values = inputs
    width = queries.shape[1] // len(normaliser)
    sizes = _attention_sizes(grad, keys, values, spans, width)
    results = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
    scratch = queries.new_empty(torch.get_num_threads(), 2 * (width + TILE), sizes.room)
    tensors = grad, queries, keys, values, spans, normaliser, scratch, *results
    _call("attend_backward", tensors, len(scratch), *sizes)
    return results


class _AttentionSizes(NamedTuple):
    """As C takes them."""

    documents: int
    tokens: int
    heads: int
    kv_heads: int
    width: int
    room: int
    """Of a row of scores: an odd multiple of WIDTH, so that rows share no places in a cache."""


def _attention_sizes(
    queries: Tensor, keys: Tensor, values: Tensor, spans: Tensor, width: int
) -> _AttentionSizes:
    """Asserts what C takes on trust."""
    tokens, heads, kv_heads = len(queries), queries.shape[1] // width, keys.shape[1] // width
    assert queries.shape == (tokens, heads * width) and width % WIDTH == 0
    assert keys.shape == values.shape == (tokens, kv_heads * width) and heads % kv_heads == 0
    assert spans.dtype is torch.int64 and spans.is_contiguous() and spans.shape[1:] == (2,)
    lengths = spans[:, 1].tolist()
    assert sum(lengths) == tokens and bool((spans >= 0).all() and (spans.sum(1) <= tokens).all())
    room = (-(-max(lengths, default=1) // WIDTH) | 1) * WIDTH
    return _AttentionSizes(len(spans), tokens, heads, kv_heads, width, room)


def product_over_rows(x: Tensor, y: Tensor) -> Tensor:
    """[a, b] the product xᵀ · y of [n, a] and [n, b]; a and b are multiples of WIDTH."""
    (rows, a), (_, b) = x.shape, y.shape
    assert len(y) == rows and a % WIDTH == b % WIDTH == 0
    product = x.new_zeros(a, b)
    _call("product_over_rows", (x, y, product), rows, a, b)
    return product


@cache
def has_tiles() -> bool:
    """Whether `multiply_tiles` can be had: under Linux, on a processor with AMX."""
    library = _library()
    return library is not None and bool(library.has_tiles())


def multiply_tiles(x: Tensor, y: Tensor) -> Tensor:
    """[m, n] the product of [m, k] and [k, n], as exact as other float32 products.

    Numbers of 3.39e38 and more count as infinite, and an infinite one makes NaN of its row or
    column. None of m, k and n is 0.
    """
    x, y = (factor if 1 in factor.stride() else factor.contiguous() for factor in (x, y))
    (m, k), (_, n), threads = x.shape, y.shape, torch.get_num_threads()
    assert len(y) == k and x.dtype is y.dtype is torch.float32
    assert m and n and k, "tiles.c divides by the sizes"
    out = x.new_empty(m, n)
    scratch = torch.empty(TERMS * (KEPT + threads * SQUARE * STEPS), dtype=torch.int16)
    strides = *x.stride(), y.stride(1), y.stride(0)
    _call("multiply_tiles", (x, y, out, scratch), threads, m, n, k, *strides)
    return out


def attend_step(
    qkv: Tensor, tables: tuple[Tensor, Tensor], positions: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """One new token of each of S sequences: rotates, stores keys and values, and attends.

    Args:
        qkv: [S, (H + 2K) · D] queries, keys and values, not rotated yet.
        tables: cosines and sines [positions, D] of all positions.
        positions: [S] of the new tokens; none is behind the cache's end.
        keys: of a layer, [S, K, blocks, D, BLOCK].
        values: of a layer, [S, K, blocks · BLOCK, D].

    Returns:
        [S, H · D]
    """
    slots, kv_heads, blocks, width, block = keys.shape
    heads = qkv.shape[1] // width - 2 * kv_heads
    assert block == BLOCK and qkv.shape == (slots, (heads + 2 * kv_heads) * width)
    assert positions.shape == (slots,) and positions.dtype is torch.int64
    assert all(table.shape == (blocks * block, width) for table in tables)
    assert values.shape == (slots, kv_heads, blocks * block, width) and width % STEP_WIDTH == 0
    scratch = qkv.new_empty(torch.get_num_threads(), width + blocks * block)
    attended = qkv.new_empty(slots, heads * width)
    tensors = qkv, *tables, positions, keys, values, scratch, attended
    _call("attend_step", tensors, len(scratch), slots, heads, kv_heads, width, blocks)
    return attended


class StepSizes(NamedTuple):
    """Sizes of a step of all layers, besides those of the tensors."""

    layers: int
    heads: int
    kv_heads: int
    width: int
    blocks: int
    ffn: int
    """Width of the feed-forward, filled up to a multiple of WIDTH."""


def in_strips(weight: Tensor) -> Tensor:
    """A matrix [out, in] as `decode_step` reads it: [strips, in, WIDTH], filled up with zeros."""
    filled = F.pad(weight.detach(), (0, 0, 0, -len(weight) % WIDTH))
    return filled.view(-1, WIDTH, weight.shape[1]).transpose(1, 2).contiguous()


def decode_step(
    x: Tensor,
    layers: Tensor,
    tables: tuple[Tensor, Tensor],
    positions: Tensor,
    sizes: StepSizes,
    eps: float,
) -> None:
    """One new token of each of S sequences through all layers, in place.

    Args:
        x: [S, H · D] embedded tokens; H · D and (H + 2K) · D are multiples of WIDTH.
        layers: [layers, 8] addresses of attention_norm, qkv, out, mlp_norm, gate_up, down (matrices
            as of `in_strips`), keys and values (as of `attend_step`).
        tables: cosines and sines [positions, D] of all positions.
        positions: [S] of the new tokens; none is behind the cache's end.
    """
    slots, dim = x.shape
    wide = (sizes.heads + 2 * sizes.kv_heads) * sizes.width
    assert dim == sizes.heads * sizes.width and dim % WIDTH == wide % WIDTH == 0
    assert sizes.width % STEP_WIDTH == 0 and sizes.ffn % WIDTH == 0
    assert layers.shape == (sizes.layers, 8) and layers.dtype is torch.int64
    assert positions.shape == (slots,) and positions.dtype is torch.int64
    assert all(table.shape == (sizes.blocks * BLOCK, sizes.width) for table in tables)
    threads = torch.get_num_threads()
    rows = -(-slots // threads)
    room = sizes.width + sizes.blocks * BLOCK
    scratch = x.new_empty(threads, rows * (dim + max(wide, 2 * sizes.ffn)) + room)
    tensors = x, layers, *tables, positions, scratch
    _call("decode_step", tensors, threads, rows, slots, *sizes, eps)


def _call(name: str, tensors: tuple[Tensor, ...], *numbers: float) -> None:
    getattr(_library(), name)(*[x.data_ptr() for x in tensors], *numbers)


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled functions; None where they cannot be had."""
    library = compiler.load(FILES, DEFINITIONS)
    if library is None:
        return None
    for name, (pointers, sizes, numbers) in ARGUMENTS.items():
        types = [ctypes.c_void_p] * pointers + [ctypes.c_long] * sizes + [ctypes.c_float] * numbers
        getattr(library, name).argtypes = types
    return library
