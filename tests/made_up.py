"""Rows as PPO has them, of no policy."""

import torch
from torch import Tensor

from rlhf.types import Experience


def experience(tokens: Tensor, prompt_length: int) -> Experience:
    """Rows that fill their width, sampled from their prompt on; every figure about them is 0.

    Args:
        tokens: [B, T] ids.
        prompt_length: of every row.
    """
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[:, prompt_length:] = True
    rows, length = tokens.shape
    zeros = torch.zeros(tokens.shape)
    return Experience(
        tokens=tokens, lengths=torch.full((rows,), length), response_mask=mask,
        ended=torch.zeros(rows, dtype=torch.bool), logprobs=zeros, ref_logprobs=zeros, values=zeros,
        scores=torch.zeros(rows), rewards=zeros, advantages=zeros, returns=zeros,
    )  # fmt: skip
