"""What flows between the parts: ids and tensors, never text. Shapes: B sequences, T tokens."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

FinishReason = Literal["eos", "length"]


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One sampled response. Plain Python, so it travels through Ray and into Parquet as it is.

    Example: the prompt "<s>[INST] hi [/INST]" answered "hello</s>" at temperature 0.7:
        Rollout(prompt_id="p1", prompt_ids=[1, 4, 90, 5], response_ids=[77, 2],
                response_logprobs=[-0.7, -0.1], finish_reason="eos", policy_version=3)
    """

    prompt_id: str
    prompt_ids: list[int]
    response_ids: list[int]
    """Ends with EOS where finish_reason is "eos"."""
    response_logprobs: list[float]
    """Under the sampling policy at the sampling temperature, in nats."""
    finish_reason: FinishReason
    policy_version: int
    """Number of updates the sampling weights had seen."""

    @property
    def ids(self) -> list[int]:
        """Prompt and response."""
        return self.prompt_ids + self.response_ids


class Mean(NamedTuple):
    """A mean in two parts, so that parts from micro-batches and ranks add up exactly."""

    total: float
    count: float  # type: ignore[assignment]  # hides tuple.count, which nothing needs


Stats = dict[str, Mean]
"""Metric name → mean."""


def merge_stats(parts: Iterable[Stats]) -> Stats:
    """Adds up statistics of several micro-batches, steps or ranks."""
    merged: Stats = {}
    for part in parts:
        for name, mean in part.items():
            total, count = merged.get(name, Mean(0.0, 0.0))
            merged[name] = Mean(total + mean.total, count + mean.count)
    return merged


def stat_values(stats: Mapping[str, Mean]) -> dict[str, float]:
    """The means as numbers; a metric that nothing counted towards is left out."""
    return {name: mean.total / mean.count for name, mean in stats.items() if mean.count}


@dataclass(frozen=True, kw_only=True)
class Experience:
    """A right-padded batch of rollouts and what is known about every token.

    Token-aligned: index t of a [B, T] field speaks about tokens[:, t]; logprobs[:, t] is
    log π(tokens[:, t] | tokens[:, :t]). Masks, never sentinel numbers: what lies outside
    response_mask is 0 and means nothing.
    """

    tokens: Tensor
    """[B, T] ids: prompt, response, padding."""
    lengths: Tensor
    """[B] real tokens."""
    response_mask: Tensor
    """[B, T] True at sampled tokens."""
    ended: Tensor
    """[B] True where the response ends with EOS."""
    logprobs: Tensor
    """[B, T] log π_old, under the policy that sampled."""
    ref_logprobs: Tensor | None = None
    """[B, T] log π_0."""
    values: Tensor | None = None
    """[B, T] V_old: the critic's estimate before token t was chosen."""
    scores: Tensor | None = None
    """[B] reward-model output of each sequence, shaped (whitened) but without KL."""
    rewards: Tensor | None = None
    """[B, T] score at the last token, minus β KL at every token."""
    advantages: Tensor | None = None
    """[B, T]."""
    returns: Tensor | None = None
    """[B, T] targets of the critic."""

    @classmethod
    def from_rollouts(cls, rollouts: Sequence[Rollout], pad_id: int) -> "Experience":
        """Pads rollouts on the right to the longest of them."""
        longest = max(len(rollout.ids) for rollout in rollouts)
        tokens = torch.full((len(rollouts), longest), pad_id, dtype=torch.long)
        mask = torch.zeros(tokens.shape, dtype=torch.bool)
        logprobs = torch.zeros(tokens.shape)
        for row, rollout in enumerate(rollouts):
            start, end = len(rollout.prompt_ids), len(rollout.ids)
            tokens[row, :end] = torch.tensor(rollout.ids)
            mask[row, start:end] = True
            logprobs[row, start:end] = torch.tensor(rollout.response_logprobs)
        return cls(
            tokens=tokens,
            lengths=torch.tensor([len(rollout.ids) for rollout in rollouts]),
            response_mask=mask,
            ended=torch.tensor([rollout.finish_reason == "eos" for rollout in rollouts]),
            logprobs=logprobs,
        )

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def with_(self, **values: Tensor) -> "Experience":
        """A copy with these fields set."""
        return replace(self, **values)

    def select(self, rows: Tensor) -> "Experience":
        """The given rows, cut to the longest sequence among them."""
        longest = int(self.lengths[rows].max())
        chosen: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                value = value[rows]
                chosen[field.name] = value[:, :longest] if value.dim() == 2 else value
        return replace(self, **chosen)

    @property
    def num_response_tokens(self) -> int:
        """Sampled tokens of the whole batch."""
        return int(self.response_mask.sum())


class PromptIds(NamedTuple):
    """A prompt as the samplers see it."""

    prompt_id: str
    ids: list[int]
