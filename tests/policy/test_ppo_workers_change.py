"""PPO begun by Ray actors and continued in this process, and the reverse."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from policy.ppo import PpoConfig, Roles, train_ppo
from policy.ppo_workers import CriticWorker, PolicyWorker
from policy.prompts import PromptSet
from rlhf.actors.group import start_workers
from rlhf.actors.placement import Placement
from rlhf.engine.base import EngineConfig
from rlhf.generation.sampling import SamplingConfig
from rlhf.metrics import read_metrics
from rlhf.run import Run
from tests.policy.in_process import HERE, RuleScorer, constant
from tests.reward.tiny import tiny_chat

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed]
TWO = Placement(workers=2, timeout=300)
APART = Placement(cpus_per_worker=0.5, timeout=300)
"""One worker, in a placement group."""
CONFIG = PpoConfig(
    iterations=4,
    prompts_per_iteration=16,
    minibatch_size=8,
    micro_batch_size=4,
    kl_control="adaptive",
    sampling=SamplingConfig(max_new_tokens=6),
    optim=constant(1e-4),
    critic_optim=constant(1e-4),
    checkpoint_every=2,
)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((TWO, APART), (HERE, HERE)),
        pytest.param((HERE, HERE), (TWO, TWO), marks=pytest.mark.slow),  # four processes
    ],
    ids=["two and another to one", "one to two and two"],
)
def test_another_number_of_workers_continues(
    tmp_path: Path,
    chat_model: Path,
    critic_model: Path,
    prompts: PromptSet,
    first: tuple[Placement, Placement],
    then: tuple[Placement, Placement],
) -> None:
    """Placements are those of policy and critic."""

    def go(
        name: str, placements: tuple[Placement, Placement], iterations: int = CONFIG.iterations
    ) -> Run:
        """Trains until the scorer has been asked so often; then the power fails."""

        def rule(ids: list[int]) -> float:
            if len(scorer.seen) > iterations:
                raise KeyboardInterrupt
            return sum(ids) / 1000

        run, scorer = Run(tmp_path / name, "ppo", {}), RuleScorer(rule)
        engine = EngineConfig(zero_stage=3)
        here, there = placements
        policy = (PolicyWorker, here, chat_model, chat_model, engine, CONFIG.optim, 1.0)
        critic = (CriticWorker, there, critic_model, "helpfulness", engine, CONFIG.critic_optim)
        with (
            start_workers(*policy, name="policy") as policies,
            start_workers(*critic, name="critic") as critics,
        ):
            roles: Any = Roles(policies, critics, scorer)  # type: ignore[arg-type]
            train_ppo(CONFIG, roles, prompts, tiny_chat(), run)
        return run

    expected = go("expected", (HERE, HERE))
    with pytest.raises(KeyboardInterrupt):
        go("changed", first, iterations=3)
    assert Run(tmp_path / "changed", "ppo", {}).resume()[0] == 2
    found = go("changed", then)
    weights = [load_file(run.model / "model.safetensors") for run in (found, expected)]
    assert_close(*weights, atol=1e-5, rtol=0)
    for ours, theirs in zip(
        read_metrics(found.directory), read_metrics(expected.directory), strict=True
    ):
        for figure in ("step", "objective/scores", "objective/kl_coef", "loss/value_avg"):
            assert ours[figure] == pytest.approx(theirs[figure], rel=1e-4), figure
        for figure in ("objective/kl", "val/ratio", "health/probability_gap"):  # T1, T4, T11
            assert ours[figure] == pytest.approx(theirs[figure], abs=1e-5), figure
