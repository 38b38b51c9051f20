"""Workers that several stages share. Plain classes; rlhf/actors/group.py makes them actors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.actors.group import Seat, WorkerGroup
from rlhf.generation.generator import generate
from rlhf.generation.sampling import SamplingConfig
from rlhf.model.weights import load_language_model
from rlhf.types import PromptIds, Rollout


@dataclass(frozen=True)
class GenerationRequest:
    """One worker's share of a list of prompts."""

    prompts: list[PromptIds]
    streams: list[int]
    """Place of each prompt in the whole list: its random stream."""
    sampling: SamplingConfig
    eos_id: int
    seed: int


class GenerateWorker:
    """A frozen language model that samples."""

    def __init__(self, seat: Seat, model: Path) -> None:
        self._model = load_language_model(model).to(seat.take()).eval()

    def generate(self, request: GenerationRequest) -> list[Rollout]:
        """One response per prompt."""
        return generate(
            self._model,
            request.prompts,
            request.sampling,
            eos_id=request.eos_id,
            seed=request.seed,
            streams=request.streams,
        )


def generate_with(
    workers: WorkerGroup[GenerateWorker],
    prompts: Sequence[PromptIds],
    sampling: SamplingConfig,
    *,
    eos_id: int,
    seed: int,
) -> list[Rollout]:
    """Responses in the order of the prompts; the same ones for any number of workers."""
    requests = share_out(prompts, workers.size, sampling, eos_id=eos_id, seed=seed)
    parts = workers.scatter(GenerateWorker.generate, requests)
    by_stream = {
        stream: rollout
        for request, part in zip(requests, parts, strict=True)
        for stream, rollout in zip(request.streams, part, strict=True)
    }
    return [by_stream[stream] for stream in range(len(prompts))]


def share_out(
    prompts: Sequence[PromptIds],
    num_workers: int,
    sampling: SamplingConfig,
    *,
    eos_id: int,
    seed: int,
) -> list[GenerationRequest]:
    """Contiguous shares, so that equal prompts stay together and are read once."""
    size = -(-len(prompts) // num_workers)
    starts = [min(worker * size, len(prompts)) for worker in range(num_workers)]
    return [
        GenerationRequest(
            list(prompts[start : start + size]),
            list(range(start, min(start + size, len(prompts)))),
            sampling,
            eos_id,
            seed,
        )
        for start in starts
    ]
