"""What every rank of a reward model's training does, in a process of its own."""

import multiprocessing
import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from reward.train import RewardTask
from rlhf.engine.base import EngineConfig
from rlhf.engine.build import build_engine
from rlhf.engine.distributed import Rank, free_address, join
from rlhf.engine.optim import OptimConfig
from rlhf.types import Stats
from tests.reward.test_train import draw_pairs, task_of

STEPS = 3
TOKENS = 80
"""A step's seven comparisons then make an odd number of micro-batches: one rank gets an empty one,
and has to take part in it all the same."""
OPTIM = OptimConfig(lr=1e-3, clip_norm=0.5)
SECONDS = 300.0


class Found(NamedTuple):
    """What one rank found."""

    stats: list[Stats]
    validated: Stats
    weights: dict[str, Tensor]


def task() -> RewardTask:
    """Three steps of seven labelled comparisons."""
    return task_of(
        draw_pairs(21),
        draw_pairs(5, seed=1),
        batch_pairs=7,
        micro_batch_pairs=0,
        micro_batch_tokens=TOKENS,
    )


def work(config: EngineConfig, rank: Rank) -> Found:
    """Trains and validates on one rank; every rank calls."""
    reward = task()
    engine = build_engine(reward.build(), config, OPTIM, rank)
    stats = [
        engine.train_step(
            reward.micro_batches(step, rank.index, rank.world_size), reward.loss, 1e-3
        )
        for step in range(STEPS)
    ]
    with torch.no_grad():
        validated = reward.evaluate(engine.module, rank.index, rank.world_size)
    return Found(stats, validated, engine.gather_weights())


def play(directory: Path, configs: dict[str, EngineConfig]) -> list[dict[str, Found]]:
    """Trains with every config in two processes over gloo; results by rank."""
    context = multiprocessing.get_context("spawn")
    ranks = [
        Rank(index=index, world_size=2, address=address)
        for address in [free_address()]
        for index in range(2)
    ]
    processes = [context.Process(target=_rank, args=(r, directory, configs)) for r in ranks]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(SECONDS)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return [torch.load(directory / f"{r.index}.pt", weights_only=False) for r in ranks]


def _rank(rank: Rank, directory: Path, configs: dict[str, EngineConfig]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # DeepSpeed calls names that torch is about to rename
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  DeepSpeed prints its progress
    join(rank, SECONDS)
    found = {name: work(config, rank) for name, config in configs.items()}
    torch.save(found, directory / f"{rank.index}.pt")
    torch.distributed.destroy_process_group()
