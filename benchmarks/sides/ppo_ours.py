"""`rlhf ppo` as a side of benchmarks/ppo.py: `-m benchmarks.sides.ppo_ours WORK.json RAY`."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks.sides.turns import EXTRA_ITERATIONS, Clock, Iteration, serve
from policy.ppo import Roles, train_ppo
from reward.score import RewardModels
from rlhf.actors.group import WorkerGroup
from rlhf.actors.session import ray_session
from rlhf.cli import ppo as command

PHASES = {
    "generate": "generate",
    "score": "score",
    "ref_logprobs": "reference",
    "values": "values",
    "update": "train",
}
"""Method of a worker → phase."""


class TimedGroup:
    """A group whose calls are timed as the driver sees them, transfers included."""

    def __init__(self, group: WorkerGroup[Any], clock: Clock) -> None:
        self._group, self._clock, self.size = group, clock, group.size

    def broadcast(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        return self._timed(method, self._group.broadcast)(method, *args, **kwargs)

    def scatter(self, method: Callable[..., Any], shards: Sequence[Any]) -> list[Any]:
        return self._timed(method, self._group.scatter)(method, shards)

    def begin(self, method: Callable[..., Any], shards: Sequence[Any]) -> Callable[[], list[Any]]:
        begun = self._timed(method, self._group.begin)(method, shards)
        return self._timed(method, begun)

    def _timed(self, method: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
        phase = PHASES.get(method.__name__)
        return self._clock.timed(phase, call) if phase else call


def timed(roles: Roles, clock: Clock) -> Roles:
    def group(inner: WorkerGroup[Any]) -> Any:
        return TimedGroup(inner, clock)

    rewards = roles.rewards
    assert isinstance(rewards, RewardModels)
    rewards = replace(rewards, helpfulness=group(rewards.helpfulness), safety=group(rewards.safety))
    return replace(roles, policy=group(roles.policy), critic=group(roles.critic), rewards=rewards)


def arguments_of(work: dict[str, Any], ray: str) -> list[str]:
    """The command line, but for the run directory."""
    settings = {
        "model": work["model"],
        "rewards": work["rewards"],
        "prompts": work["dataset"],
        "placement.ray": ray,
        "reward_placement.ray": ray,
        "train.iterations": work["iterations"] + EXTRA_ITERATIONS,
        "train.prompts_per_iteration": work["batch"],
        "train.minibatch_size": work["batch"],
        "train.micro_batch_size": work["batch"],
        "train.epochs": work["epochs"],
        "train.sampling.max_new_tokens": work["response_tokens"],
        "train.optim.lr": work["rate"],
        "train.critic_optim.lr": work["rate"],
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def main(work_file: str, ray: str) -> None:
    work = json.loads(Path(work_file).read_text(encoding="utf-8"))
    clock = Clock()

    def train(config: Any, roles: Roles, *rest: Any) -> dict[str, float]:
        return train_ppo(config, timed(roles, clock), *rest)

    def turn() -> list[Iteration]:
        with TemporaryDirectory() as run, patch.object(command, "train_ppo", train):
            command.main([*arguments_of(work, ray), "--out", run])
        return clock.take()

    with ray_session() if ray == "true" else nullcontext():  # so that its workers stay
        serve(turn)


if __name__ == "__main__":
    main(*sys.argv[1:])
