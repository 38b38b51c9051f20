"""Which response sits in which slot of the cache. No tensors, no model."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from rlhf.types import FinishReason


@dataclass
class Sample:
    """One response in the making."""

    stream: int
    """Its place in the output, and the number of its random stream."""
    prompt_id: str
    prompt_ids: list[int]
    max_new_tokens: int
    response_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def finish(self, response_ids: list[int], logprobs: list[float], eos_id: int) -> None:
        """Takes the whole response, which ends with EOS or is as long as it may be."""
        self.response_ids, self.logprobs = response_ids, logprobs
        self.finish_reason = "eos" if response_ids[-1] == eos_id else "length"


class Move(NamedTuple):
    """How running samples come to stand in the first slots."""

    sources: list[int]
    targets: list[int]
    """Where the sample of each source goes."""
    slots: int
    """How many slots remain."""


class Slots:
    """Running samples by slot, and those that wait for a free one."""

    def __init__(self, samples: Iterable[Sample], num_slots: int) -> None:
        self._waiting = deque(samples)
        self.running: list[Sample | None] = [None] * min(num_slots, len(self._waiting))

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self._waiting) or any(self.running)

    @property
    def active(self) -> list[int]:
        """Slots that hold a running sample."""
        return [slot for slot, sample in enumerate(self.running) if sample is not None]

    @property
    def longest(self) -> int:
        """Positions that the longest waiting sample may need."""
        return max((len(s.prompt_ids) + s.max_new_tokens for s in self._waiting), default=0)

    @property
    def longest_response(self) -> int:
        """Tokens that the longest response of a waiting sample may have."""
        return max((s.max_new_tokens for s in self._waiting), default=0)

    @property
    def next_prompt(self) -> list[int] | None:
        """Of the next in line; None where nobody waits."""
        return self._waiting[0].prompt_ids if self._waiting else None

    def release(self, slots: Iterable[int]) -> None:
        """Empties the slots of finished samples."""
        for slot in slots:
            self.running[slot] = None

    def admit(self, at_least: int) -> dict[int, Sample]:
        """Fills free slots, once so many are free (or nothing runs) that a prefill is worth it."""
        free = [slot for slot, sample in enumerate(self.running) if sample is None]
        if len(free) < at_least and len(free) < len(self.running):
            return {}
        admitted = {}
        for slot in free:
            if not self._waiting:
                break
            admitted[slot] = self.running[slot] = self._waiting.popleft()
        return admitted

    def compact(self) -> Move | None:
        """Drops empty slots, eight at a time, once nobody waits for them.

        Eight, because matrix products of a new size cost their library a moment of preparation.
        """
        active = self.active
        size = -(-len(active) // 8) * 8
        if self._waiting or not active or size >= len(self.running):
            return None
        sources = [slot for slot in active if slot >= size]
        targets = [slot for slot in range(size) if self.running[slot] is None][: len(sources)]
        for source, target in zip(sources, targets, strict=True):
            self.running[target] = self.running[source]
        del self.running[size:]
        return Move(sources, targets, size)
