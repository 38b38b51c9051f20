"""Scores of responses; those of reward models, on workers of their own.

A Python function may take their place: reward/function.py.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from data.errors import DataError
from data.schemas import DOMAINS, Domain, Prompt
from reward.combine import SAFETY_THRESHOLD, combine_scores
from reward.train import scores_at
from rlhf.actors.group import Seat, WorkerGroup, start_workers
from rlhf.actors.placement import Placement
from rlhf.model.weights import load_scalar_model
from rlhf.types import Rollout

TOKENS_PER_PASS = 4096


class ScoreWorker:
    """A reward model on one worker. Knows token ids, not text."""

    def __init__(self, seat: Seat, model: Path, dtype: torch.dtype = torch.float32) -> None:
        self._device = seat.take()
        self._model = load_scalar_model(model).to(self._device, dtype).eval()

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Raw scores of prompt + response ids, read at the last of them."""
        scores = [0.0] * len(sequences)
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for part in _bounded(order, sequences):
            values = self._score_some([sequences[i] for i in part])
            for index, value in zip(part, values, strict=True):
                scores[index] = value
        return scores

    def _score_some(self, sequences: list[Sequence[int]]) -> list[float]:
        """Sequences of similar length, padded to the longest; causality hides the padding."""
        longest = max(len(ids) for ids in sequences)
        tokens = torch.zeros(len(sequences), longest, dtype=torch.long)
        for row, ids in enumerate(sequences):
            tokens[row, : len(ids)] = torch.tensor(ids)
        last = torch.tensor([[row, len(ids) - 1] for row, ids in enumerate(sequences)])
        return scores_at(last.to(self._device), self._model, tokens.to(self._device)).tolist()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """[B] raw scores; those of the two models only where there are models."""

    helpfulness: Tensor | None = None
    safety: Tensor | None = None
    combined: Tensor

    @property
    def named(self) -> dict[str, Tensor]:
        """Those that are there."""
        return {name: values for name, values in vars(self).items() if values is not None}


class Rewards(Protocol):
    """What says how good responses are."""

    def score(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        """[B] scores of the responses; `prompts` has one for each."""
        ...


@dataclass(frozen=True)
class RewardModels:
    """Both reward models, ready to score; each has its own workers."""

    helpfulness: WorkerGroup[ScoreWorker]
    safety: WorkerGroup[ScoreWorker]
    threshold: float = SAFETY_THRESHOLD

    def score(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        """Both scores of every response, and R_c as a raw score."""
        sequences = [rollout.ids for rollout in rollouts]
        begun = [begin_scoring(workers, sequences) for workers in (self.helpfulness, self.safety)]
        helpfulness, safety = (torch.tensor(scores()) for scores in begun)
        tags = torch.tensor([prompt.domain == "safety" for prompt in prompts], dtype=torch.bool)
        combined = combine_scores(safety, helpfulness, tags, self.threshold)
        return Scores(helpfulness=helpfulness, safety=safety, combined=combined)


@contextmanager
def reward_models(
    directory: Path,
    placement: Placement,
    dtype: torch.dtype = torch.float32,
    threshold: float = SAFETY_THRESHOLD,
) -> Iterator[RewardModels]:
    """Both models of a `rlhf reward train` run, for the length of a block."""
    first, second = (model_directory(directory, domain) for domain in DOMAINS)
    with (
        start_workers(
            ScoreWorker, placement, first, dtype, name="helpfulness scorer", groups=len(DOMAINS)
        ) as helpfulness,
        start_workers(
            ScoreWorker, placement, second, dtype, name="safety scorer", groups=len(DOMAINS)
        ) as safety,
    ):
        yield RewardModels(helpfulness, safety, threshold)


def model_directory(run: Path, domain: Domain) -> Path:
    """Where a run of `rlhf reward train` keeps the model of a domain."""
    return run / domain / "model"


def both_models(run: Path) -> dict[Domain, Path]:
    """Where a finished run of `rlhf reward train` keeps its models.

    Raises:
        DataError: one is missing.
    """
    models = {domain: model_directory(run, domain) for domain in DOMAINS}
    for domain, directory in models.items():
        if not (directory / "config.json").is_file():
            raise DataError(
                f"{str(run)!r} holds no {domain}/model, so it is no finished run of "
                "`rlhf reward train` with both models; give the directory that its --out named"
            )
    return models


def score_with(
    workers: WorkerGroup[ScoreWorker], sequences: Sequence[Sequence[int]]
) -> list[float]:
    """Scores in the order of the sequences, which the workers share."""
    return begin_scoring(workers, sequences)()


def begin_scoring(
    workers: WorkerGroup[ScoreWorker], sequences: Sequence[Sequence[int]]
) -> Callable[[], list[float]]:
    """The same, but other groups may work meanwhile; see `WorkerGroup.begin`.

    Equal sequences, of which a small model samples many at low temperatures, are scored once.
    """
    size = workers.size
    different = list(dict.fromkeys(map(tuple, sequences)))
    begun = workers.begin(ScoreWorker.score, [different[rank::size] for rank in range(size)])

    def scores() -> list[float]:
        found = {}
        for rank, part in enumerate(begun()):
            found |= dict(zip(different[rank::size], part, strict=True))
        return [found[tuple(sequence)] for sequence in sequences]

    return scores


def _bounded(order: list[int], sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Neighbours in the order, as many at a time as fit into a pass when padded."""
    parts: list[list[int]] = []
    for index in order:
        longest = len(sequences[index])  # ascending, so the newest is the longest
        if parts and longest * (len(parts[-1]) + 1) <= TOKENS_PER_PASS:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts
