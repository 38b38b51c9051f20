"""Products with weight matrices, where nearly all the time of a transformer goes."""

import os
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.model import kernels
from rlhf.model.compiler import processor

# oneDNN keeps half a megabyte for each of the last 1,024 shapes of product that it has met; 64 hold
# those of a training step. It reads these variables when it multiplies for the first time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")  # of ideep, which stands before it

INTEL = b"GenuineIntel" in processor()
if INTEL:  # the same bits with any number of threads, for a tenth of MKL's speed
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

ROW_STEP = 64
"""Where the number of rows is free, multiples of this keep the shapes few."""

ROWS_AT_A_TIME = 512
"""Longer operands no longer fit the caches once they are transposed."""

TILED = 2**17
"""Where rows of the result by its columns, or by the steps of its sums, are fewer, splitting the
factors takes more time than tiles save."""

SMALL = 512
"""Below this width oneDNN loses more in copying an operand than kernels.c in multiplying."""


class Linear(nn.Linear):
    """nn.Linear without a bias, by `linear`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return linear(input, self.weight)


def linear(x: Tensor, weight: Tensor, added: Tensor | None = None) -> Tensor:
    """The product x · weightᵀ, plus a tensor of its shape where one is given.

    In float32 on a CPU large products are made by tiles.c, where the processor has tiles. Others
    are MKL's on Intel's processors (under Linux), where oneDNN's take a tenth longer, and oneDNN's
    elsewhere: on AMD's, where MKL leaves AVX-512 unused, they take less than half as long. Those of
    a `packed` weight are oneDNN's everywhere.

    Args:
        x: [..., in].
        weight: [out, in].
        added: [..., out].

    Returns:
        [..., out].
    """
    tiled = _by_tiles(x, weight)
    if not (tiled or _by_onednn(x, weight)):
        product = F.linear(x, weight)
    elif torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        product = _Product.apply(x, weight)  # type: ignore[no-untyped-call]
    elif added is None or tiled:
        product = _product(x, weight)
    else:
        return torch.ops.mkldnn._linear_pointwise.binary(x, added, weight, None, "add")
    return product if added is None else product + added


def packed(weight: Tensor, rows: int) -> Tensor:
    """A copy of a frozen weight [out, in] for `linear`, in the order in which oneDNN reads it.

    Args:
        weight: not packed yet.
        rows: that x will usually have.
    """
    if not packs(weight):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)


def packs(weight: Tensor) -> bool:
    """Whether `packed` makes a copy; if not, it gives the weight itself."""
    return _suits_onednn(weight, weight)


def _by_tiles(x: Tensor, weight: Tensor) -> bool:
    rows = x.numel() // max(1, x.shape[-1])
    suits = _is_float32_on_cpu(x, weight) and not weight.is_mkldnn
    return suits and rows * min(weight.shape) >= TILED and kernels.has_tiles()


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return weight.is_mkldnn or (_suits_onednn(x, weight) and not _prefers_mkl())


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return _is_float32_on_cpu(x, weight) and has_onednn and x.numel() > 0


def _is_float32_on_cpu(x: Tensor, weight: Tensor) -> bool:
    return x.is_cpu and x.dtype is weight.dtype is torch.float32


@cache
def _prefers_mkl() -> bool:
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return INTEL and has_mkl


class _Product(torch.autograd.Function):
    """x · weightᵀ with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = _product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            rows, grads = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
            of_weight = product_over_rows(grads, rows)
        return of_x, of_weight


def product_over_rows(x: Tensor, y: Tensor) -> Tensor:
    """[a, b] the product xᵀ · y of [n, a] and [n, b], as a weight's gradient is one."""
    if _by_tiles(x.t(), y.t()):
        return kernels.multiply_tiles(x.t(), y)
    if not _by_onednn(x, y):
        return x.t() @ y
    if _is_small(x, y):
        return kernels.product_over_rows(x, y)
    if x.shape[1] > y.shape[1]:  # oneDNN copies the first factor, transposed
        return product_over_rows(y, x).t()
    chunks = zip(*(torch.split(factor, ROWS_AT_A_TIME) for factor in (x, y)), strict=True)
    products = (_product(first.t(), second.t()) for first, second in chunks)
    product = next(products)
    for other in products:
        product += other
    return product


def _is_small(x: Tensor, y: Tensor) -> bool:
    widths = x.shape[1], y.shape[1]
    suits = max(widths) < SMALL and all(width % kernels.WIDTH == 0 for width in widths)
    return suits and kernels.usable(x, y)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """The product x · weightᵀ, without a gradient."""
    if _by_tiles(x, weight):
        product = kernels.multiply_tiles(x.flatten(0, -2), weight.t())
        return product.view(*x.shape[:-1], len(weight))
    if _by_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return F.linear(x, weight)
