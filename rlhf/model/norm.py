"""Root-mean-square normalisation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm with a backward pass of its own on CPUs.

    There torch composes the operation of small ones and differentiates each of them; this takes
    half the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] → [..., dim]."""
        assert self.eps is not None
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        return _Normalise.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]


class _Normalise(torch.autograd.Function):
    """y = w · x / r with r = √(mean x² + ε), in float32 whatever the inputs are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt_()
        normed = wide * inverse
        ctx.save_for_backward(normed, inverse, weight)
        return (normed * weight).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, inverse, weight = ctx.saved_tensors
        wide = grad.to(normed.dtype)
        product = wide * normed
        of_weight = product.sum(dim=tuple(range(grad.dim() - 1))).to(weight.dtype)
        # dL/dx = (w · g − n · mean(w · g · n)) / r with n = x / r
        shared = (product @ weight.float()[:, None]) / -weight.numel()
        of_x = (wide * weight).addcmul_(normed, shared).mul_(inverse)
        return of_x.to(grad.dtype), of_weight, None
