"""What every rank of a training does, in a process of its own; `play` starts all of them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf.engine.base import EngineConfig, TrainEngine
from rlhf.engine.build import build_engine
from rlhf.engine.distributed import Rank
from rlhf.engine.optim import OptimConfig
from rlhf.model.heads import LanguageModel
from rlhf.types import Mean, Stats, merge_stats
from tests.distributed.processes import in_processes
from tests.tiny_models import random_tokens, small_language_model

STEPS, PAUSE = 20, 10
"""Optimizer steps, and after how many of them the state is saved."""
MICRO_BATCHES = 6
"""Of a step, over all ranks: one, two and three ranks then have equally many."""
OPTIM = OptimConfig(lr=1e-3, clip_norm=0.5)
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Job:
    """One engine, trained from the first step or from a checkpoint to the last step."""

    config: EngineConfig
    load: Path | None = None
    """State after PAUSE steps to continue from."""
    save: Path | None = None
    """Where the state after PAUSE steps goes."""


@dataclass(frozen=True)
class Found:
    """What one rank found."""

    stats: list[Stats]
    weights: dict[str, Tensor]
    """The gathered ones: of rank 0 only."""
    copy: dict[str, Tensor]
    """The weights as another module received them."""
    sharded: bool


def fresh_model(seed: int = 0) -> LanguageModel:
    """With tied embeddings, a weight that two modules share: the harder case for sharding."""
    return small_language_model(seed=seed, tie_embeddings=True)


def micro_batches(step: int, rank: Rank) -> list[Batch]:
    """This rank's part of the micro-batches of a step, with unequal numbers of tokens."""
    batches = []
    for index in range(rank.index, MICRO_BATCHES, rank.world_size):
        seed = MICRO_BATCHES * step + index
        mask = torch.rand(3, 12, generator=torch.Generator().manual_seed(seed)) < 0.1 * (index + 2)
        mask[:, 0] = False
        batches.append((random_tokens(3, 12, seed=seed), mask))
    return batches


def train(engine: TrainEngine, steps: range, rank: Rank) -> list[Stats]:
    """Steps of next-token training; statistics of this rank."""
    found = []
    for step in steps:
        everything = micro_batches(step, Rank())
        num_global = sum(int(mask.sum()) for _, mask in everything)

        def loss(module: nn.Module, batch: Batch, n: int = num_global) -> tuple[Tensor, Stats]:
            total = -module(*batch).logprobs.sum()
            return total / n, {"loss": Mean(float(total.detach()), float(batch[1].sum()))}

        found.append(engine.train_step(micro_batches(step, rank), loss, 1e-3))
    return found


def work(job: Job, rank: Rank) -> Found:
    """Does a job on one rank; every rank calls."""
    engine = build_engine(fresh_model(seed=9 if job.load else 0), job.config, OPTIM, rank)
    stats = []
    if job.load is None:
        stats = train(engine, range(PAUSE), rank)
    else:
        engine.load(job.load)
    if job.save is not None:
        engine.save(job.save)
    stats += train(engine, range(PAUSE, STEPS), rank)
    copy = fresh_model(seed=5).to(job.config.dtype)
    engine.copy_weights_to(copy)
    return Found(stats, engine.gather_weights(), dict(copy.state_dict()), engine.sharded)


def alone(job: Job) -> Found:
    """The job in this process."""
    return work(job, Rank())


def play(directory: Path, world_size: int, jobs: dict[str, Job]) -> list[dict[str, Found]]:
    """Does the jobs, one after the other, in so many processes over gloo; results by rank."""
    return in_processes(directory, world_size, partial(_all, jobs))


def _all(jobs: dict[str, Job], rank: Rank) -> dict[str, Found]:
    return {name: work(job, rank) for name, job in jobs.items()}


def joined(ranks: list[Found]) -> list[Stats]:
    """Statistics of all ranks, step by step."""
    return [merge_stats(parts) for parts in zip(*(rank.stats for rank in ranks), strict=True)]
