"""PPO on held-out prompts: what is measured when, and early stopping."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from data.errors import ConfigError
from data.schemas import Prompt
from policy.ppo import PpoConfig, Roles, train_ppo
from reward.score import Scores
from rlhf.metrics import read_metrics
from rlhf.types import Rollout
from tests.policy.in_process import Ppo, StartPpo
from tests.reward.tiny import tiny_chat

HELD_OUT = 4


def rule(ids: list[int]) -> float:
    return float(sum(ids) % 11)


class ScriptedScorer:
    """A rule for the prompts that are learned from; held-out ones get the next of these scores."""

    def __init__(self, *held_out: float, dies_in_batch: int = -1) -> None:
        self.held_out = list(held_out)
        self.dies_in_batch = dies_in_batch
        self.batches = 0

    def score(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        if len(rollouts) == HELD_OUT:
            values = torch.full((HELD_OUT,), self.held_out.pop(0))
        else:
            if self.batches == self.dies_in_batch:
                raise KeyboardInterrupt
            self.batches += 1
            values = torch.tensor([rule(rollout.ids) for rollout in rollouts])
        return Scores(helpfulness=values, safety=values, combined=values)


def train(ppo: Ppo, scorer: Any = None) -> None:
    roles: Any = Roles(ppo.policy, ppo.critic, scorer or ppo.scorer)  # type: ignore[arg-type]
    held_out = ppo.prompts.select(range(6))
    train_ppo(ppo.config, roles, ppo.prompts, tiny_chat(), ppo.run, held_out)


def weights(ppo: Ppo) -> bytes:
    return (ppo.run.model / "model.safetensors").read_bytes()


def test_evaluations_come_when_due_and_change_nothing(start_ppo: StartPpo) -> None:
    settings = {"iterations": 5, "eval_every": 2, "eval_prompts": HELD_OUT}
    watched, plain = start_ppo("watched", rule, **settings), start_ppo("plain", rule, iterations=5)
    train(watched)
    plain.train()
    assert weights(watched) == weights(plain)
    lines = read_metrics(watched.run.directory)
    assert [line["step"] for line in lines if "eval/scores" in line] == [1, 3, 4]

    requests = [shards[0] for (shards,) in watched.policy.arguments("generate")]
    evaluations = [request for request in requests if len(request.prompts) == HELD_OUT]
    assert [request.policy_version for request in evaluations] == [2, 4, 5]
    assert len({request.seed for request in evaluations}) == 1  # the same noise each time
    answers = [seen for seen in watched.scorer.seen if len(seen) == HELD_OUT]
    for line, seen in zip((lines[1], lines[3], lines[4]), answers, strict=True):
        assert line["eval/scores"] == pytest.approx(sum(map(rule, seen)) / HELD_OUT)
        lengths = [len(s) - len(p.ids) for s, p in zip(seen, watched.prompts.ids, strict=False)]
        assert line["eval/tokens"] == pytest.approx(sum(lengths) / HELD_OUT)
        assert abs(line["eval/kl"]) > 1e-4


def test_it_stops_early_and_keeps_the_best_policy(start_ppo: StartPpo) -> None:
    settings = {"eval_every": 1, "eval_prompts": HELD_OUT, "patience": 2}
    ppo = start_ppo("run", rule, iterations=9, **settings)
    train(ppo, ScriptedScorer(1.0, 3.0, 2.0, 2.5, 9.0))  # the second is the best when it stops
    assert len(read_metrics(ppo.run.directory)) == 4
    acts = [name for name, _ in ppo.policy.calls if name in ("update", "save_model")]
    assert acts == ["update", "save_model", "update", "save_model", "update", "update"]
    two = start_ppo("two", rule, iterations=2)
    two.train()
    assert weights(ppo) == weights(two)


def test_without_a_reason_to_stop_all_iterations_run(start_ppo: StartPpo) -> None:
    settings = {"eval_every": 2, "eval_prompts": HELD_OUT, "patience": 1}
    ppo = start_ppo("run", rule, iterations=3, **settings)
    train(ppo, ScriptedScorer(1.0, 2.0))  # after two iterations and after the last
    assert len(read_metrics(ppo.run.directory)) == 3
    plain = start_ppo("plain", rule, iterations=3)
    plain.train()
    assert weights(ppo) == weights(plain)


def test_a_resumed_run_stops_where_it_would_have(start_ppo: StartPpo) -> None:
    settings: dict[str, Any] = {
        "iterations": 9,
        "eval_every": 1,
        "eval_prompts": HELD_OUT,
        "patience": 2,
        "checkpoint_every": 1,
    }
    straight = start_ppo("straight", rule, **settings)
    train(straight, ScriptedScorer(1.0, 3.0, 2.0, 2.5))
    with pytest.raises(KeyboardInterrupt):
        train(start_ppo("stopped", rule, **settings), ScriptedScorer(1.0, 3.0, dies_in_batch=2))
    resumed = start_ppo("stopped", rule, **settings)
    train(resumed, ScriptedScorer(2.0, 2.5))
    assert weights(resumed) == weights(straight)
    assert len(read_metrics(resumed.run.directory)) == 4


def test_evaluations_that_cannot_be(start_ppo: StartPpo) -> None:
    with pytest.raises(ConfigError, match="patience is 2 and eval_every 0; early stopping needs"):
        PpoConfig(patience=2)
    with pytest.raises(ConfigError, match="eval_prompts is 0; it must be above 0"):
        PpoConfig(eval_prompts=0)
    with pytest.raises(ConfigError, match="eval_every is 1; there are no held-out prompts"):
        start_ppo("run", rule, eval_every=1).train()
