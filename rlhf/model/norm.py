"""Root-mean-square normalisation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.model import kernels


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm with a backward pass of its own on CPUs, where torch composes one."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] → [..., dim]."""
        assert self.eps is not None
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return rms_norm(x, self.weight, self.eps)
        return _Normalise.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[..., dim] → w · x / r with r = √(mean x² + ε), without gradients on a CPU."""
    if kernels.usable(x, weight):
        return kernels.rms_norm(x, weight, eps)[0]
    return F.rms_norm(x, weight.shape, weight, eps)


class _Normalise(torch.autograd.Function):
    """In float32 whatever the inputs are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if kernels.usable(x, weight):
            out, inverse = kernels.rms_norm(x, weight, eps)
        else:
            inverse = (x.float().square().mean(dim=-1) + eps).rsqrt_()
            out = (x.float() * inverse[..., None] * weight).to(x.dtype)
        ctx.save_for_backward(x, inverse, weight)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, inverse, weight = ctx.saved_tensors
        grad = grad.contiguous()
        if kernels.usable(grad, x, weight):
            return *kernels.rms_norm_backward(grad, x, inverse, weight), None
        inverse = inverse[..., None]
        normed, wide = x.to(inverse.dtype) * inverse, grad.to(inverse.dtype)
        product = wide * normed
        of_weight = product.sum(dim=tuple(range(grad.dim() - 1))).to(weight.dtype)
        # dL/dx = (w · g − n · mean(w · g · n)) / r with n = x / r
        shared = (product @ weight.to(inverse.dtype)[:, None]) / -weight.numel()
        of_x = (wide * weight).addcmul_(normed, shared).mul_(inverse)
        return of_x.to(grad.dtype), of_weight, None
