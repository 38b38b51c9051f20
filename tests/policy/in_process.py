"""PPO of tests: workers whose calls are written down, a rule in place of reward models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data.schemas import Prompt
from policy.ppo import PpoConfig, Roles, train_ppo
from policy.prompts import PromptSet
from reward.score import Scores
from rlhf.actors.group import WorkerGroup
from rlhf.actors.placement import Placement
from rlhf.engine.base import EngineConfig
from rlhf.engine.optim import OptimConfig
from rlhf.run import Run
from rlhf.types import Rollout
from tests.reward.tiny import tiny_chat

HERE = Placement(ray=False)


def constant(rate: float) -> OptimConfig:
    return OptimConfig(lr=rate, schedule="constant", warmup_ratio=0.0)


class RuleScorer:
    """Stands in for both reward models: a rule on token ids."""

    def __init__(self, rule: Callable[[list[int]], float]) -> None:
        self.rule = rule
        self.seen: list[list[list[int]]] = []
        """Sequences of each call."""

    def score(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        sequences = [rollout.ids for rollout in rollouts]
        self.seen.append(sequences)
        values = torch.tensor([self.rule(ids) for ids in sequences])
        return Scores(helpfulness=values, safety=values, combined=values)


class Watched:
    """A group whose calls are written down."""

    def __init__(self, group: WorkerGroup[Any]) -> None:
        self._group = group
        self.size = group.size
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def broadcast(self, method: Callable[..., Any], *args: Any) -> list[Any]:
        self.calls.append((method.__name__, args))
        return self._group.broadcast(method, *args)

    def scatter(self, method: Callable[..., Any], shards: list[Any]) -> list[Any]:
        self.calls.append((method.__name__, (shards,)))
        return self._group.scatter(method, shards)

    def close(self) -> None:
        self._group.close()

    def arguments(self, name: str) -> list[tuple[Any, ...]]:
        """Of every call of this method."""
        return [args for called, args in self.calls if called == name]


@dataclass(frozen=True)
class Ppo:
    """A PPO run that stands ready."""

    config: PpoConfig
    policy: Watched
    critic: Watched
    scorer: RuleScorer
    prompts: PromptSet
    run: Run

    def train(self) -> dict[str, float]:
        roles: Any = Roles(self.policy, self.critic, self.scorer)  # type: ignore[arg-type]
        return train_ppo(self.config, roles, self.prompts, tiny_chat(), self.run)

    def close(self) -> None:
        """Lets the workers go; the processes of Ray actors wait for the next ones."""
        self.policy.close()
        self.critic.close()


StartPpo = Callable[..., Ppo]
MakePpo = Callable[[Placement, EngineConfig], StartPpo]
