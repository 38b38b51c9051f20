"""Fixtures of the tests of policies: random models on disk, prompts, and PPO in this process."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.schemas import Message, Prompt
from policy.ppo import PpoConfig
from policy.ppo_workers import CriticWorker, PolicyWorker
from policy.prompts import PromptSet
from rlhf.actors.group import start_workers
from rlhf.actors.placement import Placement
from rlhf.engine.base import EngineConfig
from rlhf.generation.sampling import SamplingConfig
from rlhf.run import Run
from tests.local_ray import own_ray
from tests.policy.in_process import (
    HERE,
    MakePpo,
    Ppo,
    RuleScorer,
    StartPpo,
    Watched,
    constant,
)
from tests.reward.tiny import TORCH, tiny_chat, write_language_model, write_reward_model


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random chat model."""
    return write_language_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="session")
def critic_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random reward model, for critics to start from."""
    return write_reward_model(tmp_path_factory.mktemp("critic") / "model", seed=1)


@pytest.fixture
def prompts() -> PromptSet:
    """16 prompts of 5 to 20 tokens; every fourth is about safety."""
    rows = [
        Prompt(
            prompt_id=f"p{n}",
            prompt=(Message("user", "a quick fox jumps"[: n + 1]),),
            domain="safety" if n % 4 == 3 else "helpfulness",
            kind="test",
            source="test",
        )
        for n in range(16)
    ]
    return PromptSet.encode(rows, tiny_chat())


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray for the tests of a file."""
    with own_ray():
        yield


@pytest.fixture
def start_ppo(make_ppo: MakePpo) -> StartPpo:
    """`start_ppo("name", rule, kl_coef=0.1, …)`: fresh workers and that run directory."""
    return make_ppo(HERE, TORCH)


@pytest.fixture
def make_ppo(
    tmp_path: Path, chat_model: Path, critic_model: Path, prompts: PromptSet
) -> Iterator[MakePpo]:
    """`start_ppo` with the workers of policy and critic so placed, and this engine."""
    started: list[Ppo] = []

    def start(
        placement: Placement,
        engine: EngineConfig,
        name: str,
        rule: Callable[[list[int]], float],
        **changes: Any,
    ) -> Ppo:
        values: dict[str, Any] = {
            "iterations": 1,
            "prompts_per_iteration": 16,
            "minibatch_size": 16,
            "micro_batch_size": 8,
            "sampling": SamplingConfig(max_new_tokens=6),
            "optim": constant(1e-3),
            "critic_optim": constant(1e-3),
        }
        config = PpoConfig(**values | changes)
        policy = start_workers(
            PolicyWorker,
            placement,
            *(chat_model, chat_model, engine, config.optim, config.sampling.temperature),
            name="policy",
        )
        critic = start_workers(
            CriticWorker,
            placement,
            *(critic_model, config.critic_init, engine, config.critic_optim),
            name="critic",
        )
        run, scorer = Run(tmp_path / name, "ppo", {}), RuleScorer(rule)
        started.append(Ppo(config, Watched(policy), Watched(critic), scorer, prompts, run))
        return started[-1]

    yield lambda placement, engine: partial(start, placement, engine)
    for ppo in started:
        ppo.close()
