"""What every rank of a two-rank training does, in a process of its own; `play` starts both."""

import multiprocessing
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.engine.base import EngineConfig, TrainEngine
from rlhf.engine.build import build_engine
from rlhf.engine.distributed import Rank, free_address, join
from rlhf.engine.optim import OptimConfig
from rlhf.model.heads import LanguageModel
from rlhf.types import Mean, Stats, merge_stats
from tests.tiny_models import random_tokens, small_language_model

STEPS, PAUSE = 4, 2
"""Optimizer steps, and after how many of them the state is saved."""
OPTIM = OptimConfig(lr=1e-3, clip_norm=0.5)
SECONDS = 120.0
"""Until a rank that waits for the other gives up."""
Batch = tuple[Tensor, Tensor]


def fresh_model(seed: int = 0) -> LanguageModel:
    """With tied embeddings, a weight that two modules share: the harder case for sharding."""
    return small_language_model(seed=seed, tie_embeddings=True)


def micro_batches(step: int, rank: Rank) -> list[Batch]:
    """This rank's part of the four micro-batches of a step, with unequal numbers of tokens."""
    batches = []
    for index in range(rank.index, 4, rank.world_size):
        seed = 10 * step + index
        mask = torch.rand(3, 12, generator=torch.Generator().manual_seed(seed)) < 0.2 * (index + 1)
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

        found.append(engine.train_step(micro_batches(step, rank), loss, 1e-3 / (step + 1)))
    return found


def alone() -> tuple[list[Stats], dict[str, Tensor]]:
    """The same training in one process: what two ranks must reproduce."""
    engine = build_engine(fresh_model(), EngineConfig(kind="torch"), OPTIM, Rank())
    return train(engine, range(STEPS), Rank()), engine.gather_weights()


def play(directory: Path, stages: list[int]) -> list[dict[int, Any]]:
    """Trains with each ZeRO stage on two ranks over gloo; what each rank found, by stage."""
    context = multiprocessing.get_context("spawn")
    address = free_address()
    processes = []
    for index in range(2):
        rank = Rank(index=index, world_size=2, address=address)
        process = context.Process(target=_rank, args=(rank, directory, stages), daemon=True)
        process.start()
        processes.append(process)
    for index, process in enumerate(processes):
        process.join(SECONDS)
        if process.exitcode != 0:
            for other in processes:
                other.kill()
            raise RuntimeError(f"rank {index} ended with {process.exitcode}")
    return [torch.load(directory / f"rank-{index}.pt", weights_only=False) for index in range(2)]


def _rank(rank: Rank, directory: Path, stages: list[int]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # DeepSpeed calls names that torch is about to rename
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  DeepSpeed prints its progress
    join(rank, SECONDS)
    found = {stage: _stage(stage, rank, directory / f"zero-{stage}") for stage in stages}
    torch.save(found, directory / f"rank-{rank.index}.pt")
    torch.distributed.destroy_process_group()


def _stage(stage: int, rank: Rank, state: Path) -> dict[str, Any]:
    """Trains, saves in the middle, and trains the rest again from what was saved."""
    config = EngineConfig(kind="deepspeed", zero_stage=stage)
    engine = build_engine(fresh_model(), config, OPTIM, rank)
    stats = train(engine, range(PAUSE), rank)
    engine.save(state)
    stats += train(engine, range(PAUSE, STEPS), rank)
    copy = fresh_model(seed=5)
    engine.copy_weights_to(copy)
    resumed = build_engine(fresh_model(seed=9), config, OPTIM, rank)
    resumed.load(state)
    train(resumed, range(PAUSE, STEPS), rank)
    return {
        "stats": stats,
        "weights": engine.gather_weights(),
        "copy": dict(copy.state_dict()),
        "resumed": resumed.gather_weights(),
        "sharded": engine.sharded,
    }


def joined(stats: list[list[Stats]]) -> list[Stats]:
    """Statistics of all ranks, step by step."""
    return [merge_stats(parts) for parts in zip(*stats, strict=True)]
