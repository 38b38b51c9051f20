"""Workers that several stages share. Plain classes; rlhf/actors/group.py makes them actors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rlhf.actors.group import Seat, WorkerGroup
from rlhf.generation.generator import generate
from rlhf.generation.sampling import SamplingConfig
from rlhf.model.documents import without_padding
from rlhf.model.heads import LanguageModel
from rlhf.model.weights import load_language_model
from rlhf.types import Experience, PromptIds, Rollout

ROWS_PER_PASS = 32


@dataclass(frozen=True)
class GenerationRequest:
    """One worker's share of a list of prompts."""

    prompts: list[PromptIds]
    streams: list[int]
    """Place of each prompt in the whole list: its random stream."""
    sampling: SamplingConfig
    eos_id: int
    seed: int
    policy_version: int = 0
    """Of the weights that must sample; those of a frozen model are 0."""


@dataclass(frozen=True)
class LogprobRequest:
    """One worker's share of rollouts whose log-probabilities are wanted."""

    rollouts: list[Rollout]
    temperature: float
    """Divides the logits; above 0."""


class GenerateWorker:
    """A frozen language model that samples, and says how likely others' samples are."""

    def __init__(self, seat: Seat, model: Path) -> None:
        self._device = seat.take()
        self._model = load_language_model(model).to(self._device).eval()

    def generate(self, request: GenerationRequest) -> list[Rollout]:
        """One response per prompt."""
        return respond(self._model, request)

    @torch.inference_mode()
    def logprobs(self, request: LogprobRequest) -> list[float]:
        """Log π(response | prompt) of each rollout under this model, in nats."""
        found: list[float] = []
        for start in range(0, len(request.rollouts), ROWS_PER_PASS):
            part = request.rollouts[start : start + ROWS_PER_PASS]
            rows = Experience.from_rollouts(part, pad_id=0)
            out = self._model(
                rows.tokens.to(self._device),
                rows.response_mask.to(self._device),
                without_padding(rows.lengths.to(self._device), rows.tokens.shape[1]),
                temperature=request.temperature,
            )
            found += out.logprobs.sum(dim=1).tolist()
        return found


def respond(model: LanguageModel, request: GenerationRequest) -> list[Rollout]:
    """What a worker generates, its model being of the policy version that is asked for."""
    return generate(
        model,
        request.prompts,
        request.sampling,
        eos_id=request.eos_id,
        seed=request.seed,
        streams=request.streams,
        policy_version=request.policy_version,
    )


def generate_with(
    workers: WorkerGroup[GenerateWorker],
    prompts: Sequence[PromptIds],
    sampling: SamplingConfig,
    *,
    eos_id: int,
    seed: int,
    first_stream: int = 0,
) -> list[Rollout]:
    """Responses in the order of the prompts; the same ones for any number of workers.

    A list of prompts may also be given in pieces: `first_stream` is where a piece begins in it.
    """
    requests = share_out(
        prompts, workers.size, sampling, eos_id=eos_id, seed=seed, first_stream=first_stream
    )
    parts = workers.scatter(GenerateWorker.generate, requests)
    by_stream = {
        stream: rollout
        for request, part in zip(requests, parts, strict=True)
        for stream, rollout in zip(request.streams, part, strict=True)
    }
    return [by_stream[stream] for stream in range(first_stream, first_stream + len(prompts))]


def logprobs_with(
    workers: WorkerGroup[GenerateWorker], rollouts: Sequence[Rollout], temperature: float
) -> list[float]:
    """[N] log π(response | prompt) in nats, in the order of the rollouts."""
    size = workers.size
    requests = [LogprobRequest(list(rollouts[rank::size]), temperature) for rank in range(size)]
    found = [0.0] * len(rollouts)
    for rank, part in enumerate(workers.scatter(GenerateWorker.logprobs, requests)):
        found[rank::size] = part
    return found


def share_out(
    prompts: Sequence[PromptIds],
    num_workers: int,
    sampling: SamplingConfig,
    *,
    eos_id: int,
    seed: int,
    policy_version: int = 0,
    first_stream: int = 0,
) -> list[GenerationRequest]:
    """Contiguous shares, so that equal prompts stay together and are read once."""
    size = -(-len(prompts) // num_workers)
    starts = [min(worker * size, len(prompts)) for worker in range(num_workers)]
    return [
        GenerationRequest(
            list(prompts[start : start + size]),
            [first_stream + place for place in range(start, min(start + size, len(prompts)))],
            sampling,
            eos_id,
            seed,
            policy_version,
        )
        for start in starts
    ]
