"""Rotary position embedding, in the half-split layout of Hugging Face's Llama."""

import math
from typing import Any

import torch
from torch import Tensor

from rlhf.model import kernels
from rlhf.model.config import RopeScaling


def rope_frequencies(head_dim: int, base: float, scaling: RopeScaling | None = None) -> Tensor:
    """[head_dim / 2] angular frequencies, base^(−2i / head_dim), stretched where asked for."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = base**-exponents
    if scaling is None:
        return frequencies
    stretched = frequencies / scaling.factor
    if scaling.kind == "linear":
        return stretched
    # Llama 3.1: between the two wavelengths, from wholly stretched to not at all.
    turns = scaling.original_context * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * stretched + kept * frequencies


def rope_tables(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines for `apply_rope`.

    Args:
        positions: [B, T] token positions.
        frequencies: [D / 2].

    Returns:
        Two tensors [B, 1, T, D], float32, ready to broadcast over heads.
    """
    angles = positions[:, None, :, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x [B, H, T, D] by the angles of its positions."""
    if not x.requires_grad:
        return _rotated(x, cos, sin, 1)
    return _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]


class _Rotation(torch.autograd.Function):
    """Its gradient is the rotation back, so that nothing but the tables is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    if x.dtype is cos.dtype and len(x) == len(cos) and kernels.usable(cos, sin):
        return kernels.rotate(x.contiguous(), cos, sin, direction)
    half = x.shape[-1] // 2
    rotated = x * cos
    rotated[..., :half].addcmul_(x[..., half:], sin[..., half:], value=-direction)
    rotated[..., half:].addcmul_(x[..., :half], sin[..., :half], value=direction)
    return rotated.to(x.dtype)
