"""Matrix products of the sampler."""

import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """The product x · weightᵀ.

    oneDNN would be up to twice as fast in float32 on some CPUs, but keeps buffers for every shape
    that it has met: in long-lived workers that cost the quickstart gigabytes.

    Args:
        x: [..., in].
        weight: [out, in].

    Returns:
        [..., out].
    """
    return F.linear(x, weight)
