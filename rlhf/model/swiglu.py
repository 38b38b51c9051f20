"""The gated activation of the feed-forward."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.model import kernels


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up of [n, width] each."""
    learns = torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad)
    if not kernels.usable(gate, up):
        return F.silu(gate) * up if learns else F.silu(gate).mul_(up)
    if not learns:
        return kernels.swiglu(gate, up)
    return _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]


class _SwiGLU(torch.autograd.Function):
    """Keeps its inputs and nothing else."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return kernels.swiglu(gate, up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.swiglu_backward(grad.contiguous(), *ctx.saved_tensors)
