"""From logits to the next token. Pure functions; S sequences, V vocabulary."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import ConfigError
from rlhf.model import kernels

CHUNK = 64
"""Tokens whose probabilities are added up first."""

BELOW_ONE = 1 - 2**-23
"""Times any float32 number it is a smaller one."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How responses are sampled."""

    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all, as PPO needs."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this probability; 1 keeps all, as PPO needs."""
    max_new_tokens: int = 64
    """Responses are cut at this many tokens."""
    min_new_tokens: int = 0
    """EOS is impossible before a response has this many tokens; 0, as PPO needs, never."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; it must be 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be in (0, 1]")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}; it must be 1 or more")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ConfigError(
                f"min_new_tokens is {self.min_new_tokens}; it must be 0 to "
                f"max_new_tokens ({self.max_new_tokens})"
            )

    @property
    def truncates(self) -> bool:
        """Whether unlikely tokens are never drawn."""
        return self.top_k > 0 or self.top_p < 1

    def require_all_tokens(self, purpose: str) -> None:
        """Log-probabilities of samples are the model's own only where every token may be drawn.

        Raises:
            ConfigError: a setting excludes tokens; `purpose` needs the whole distribution.
        """
        for name, all_of_them in (("top_k", 0), ("top_p", 1.0), ("min_new_tokens", 0)):
            value = getattr(self, name)
            if value != all_of_them:
                raise ConfigError(
                    f"sampling.{name} is {value}; {purpose} needs the log-probabilities of the "
                    f"full distribution: leave it at {all_of_them:g}"
                )


class Sampled(NamedTuple):
    """The next token of every sequence."""

    tokens: Tensor
    """[S] ids."""
    logprobs: Tensor
    """[S] under the distribution sampled from, in nats."""


def sample(logits: Tensor, uniforms: Tensor, config: SamplingConfig) -> Sampled:
    """Draws one token per sequence by inverting the cumulative distribution.

    One uniform number per sequence decides, so a sequence's own random stream gives the same
    tokens in whatever batch it runs. It is also seven times faster than `torch.multinomial`.

    Args:
        logits: [S, V].
        uniforms: [S] in [0, 1).
        config: temperature 0 takes the likeliest token and reports its untempered log-probability.
    """
    logits = logits.float()
    if config.temperature == 0:
        tokens = logits.argmax(dim=-1)
        return Sampled(tokens, _chosen(logits, tokens) - logits.logsumexp(dim=-1))
    if not config.truncates and kernels.usable(logits, uniforms):
        return Sampled(*kernels.draw(logits, uniforms, config.temperature))
    scaled = logits if config.temperature == 1 else logits / config.temperature
    probs = _truncate(scaled, config).softmax(dim=-1)
    tokens = _inverse_of_cumulative(probs, uniforms)
    return Sampled(tokens, _chosen(probs, tokens).log())


def _inverse_of_cumulative(probs: Tensor, uniforms: Tensor) -> Tensor:
    """[S] the first token whose cumulative probability exceeds the uniform number.

    Sums of chunks lead to the chunk, so that only one chunk needs its cumulative sums.
    """
    vocab_size = probs.shape[1]
    if vocab_size % CHUNK:
        probs = F.pad(probs, (0, -probs.shape[1] % CHUNK))
    chunks = probs.view(len(probs), -1, CHUNK)
    ends = chunks.sum(dim=-1).cumsum(dim=-1)
    # Sums miss 1 by rounding; a fraction below 1 of what they are never leads to an impossible one.
    target = uniforms[:, None].clamp(max=BELOW_ONE) * ends[:, -1:]
    # The bounds are for logits that are no numbers, which must not stop a GPU.
    chunk = torch.searchsorted(ends, target, right=True).clamp_(max=ends.shape[1] - 1)
    begins = F.pad(ends, (1, 0))
    begin, end = begins.gather(1, chunk), ends.gather(1, chunk)
    within = chunks[torch.arange(len(probs), device=probs.device), chunk[:, 0]].cumsum(dim=-1)
    rest = ((target - begin) / (end - begin)).clamp_(max=BELOW_ONE) * within[:, -1:]
    place = torch.searchsorted(within, rest, right=True)
    return (chunk * CHUNK + place).squeeze(1).clamp_(max=vocab_size - 1)


def uniform_stream(seed: int, stream: int, length: int) -> np.ndarray:
    """The random numbers of one sequence, whatever the batch, slot or worker."""
    bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))
    return np.random.Generator(bits).random(length, dtype=np.float32)


def _truncate(logits: Tensor, config: SamplingConfig) -> Tensor:
    if config.top_k:
        k = min(config.top_k, logits.shape[1])
        smallest = logits.topk(k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if config.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probs = ordered.softmax(dim=-1)
        before = probs.cumsum(dim=-1) - probs  # the likeliest token always stays
        drop = torch.zeros_like(logits, dtype=torch.bool)
        drop.scatter_(1, order, before >= config.top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def _chosen(values: Tensor, tokens: Tensor) -> Tensor:
    return values.gather(1, tokens[:, None]).squeeze(1)
