"""Which response sits in which slot of the cache. No tensors, no model."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

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

    def append(self, token: int, logprob: float, eos_id: int) -> None:
        """Takes the next token and notices when it was the last one."""
        self.response_ids.append(token)
        self.logprobs.append(logprob)
        if token == eos_id:
            self.finish_reason = "eos"
        elif len(self.response_ids) == self.max_new_tokens:
            self.finish_reason = "length"


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

    def release_finished(self) -> None:
        """Empties the slots of finished samples."""
        for slot, sample in enumerate(self.running):
            if sample is not None and sample.finish_reason is not None:
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

    def compact(self) -> list[int] | None:
        """Drops empty slots once at most half are in use and nobody waits.

        Returns:
            The old slots that are kept, in their new order; None where nothing changes.
        """
        kept = self.active
        if self._waiting or len(kept) > len(self.running) // 2:
            return None
        self.running = [self.running[slot] for slot in kept]
        return kept
