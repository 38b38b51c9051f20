"""What every rank of a reward model's training does, in a process of its own."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from reward.train import RewardTask
from rlhf.engine.base import EngineConfig
from rlhf.engine.build import build_engine
from rlhf.engine.distributed import Rank
from rlhf.engine.optim import OptimConfig
from rlhf.types import Stats
from tests.distributed.processes import in_processes
from tests.reward.test_train import draw_pairs, task_of

STEPS = 3
TOKENS = 80
"""A step's seven comparisons then make an odd number of micro-batches: one rank gets an empty one,
and has to take part in it all the same."""
OPTIM = OptimConfig(lr=1e-3, clip_norm=0.5)


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
    return in_processes(directory, 2, partial(_all, configs))


def _all(configs: dict[str, EngineConfig], rank: Rank) -> dict[str, Found]:
    return {name: work(config, rank) for name, config in configs.items()}
