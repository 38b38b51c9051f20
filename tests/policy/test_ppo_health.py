"""Runs of PPO with a planted fault, each found by the alarm that names it; a sound one raises none.

The policy is a random model that has a liking for EOS, and less of one for the word "please".
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import policy.ppo
from data.schemas import Message
from policy.health import ALARMS_FILE
from rlhf.generation.sampling import SamplingConfig
from rlhf.metrics import read_metrics
from rlhf.model.init import init_language_model
from rlhf.model.weights import save_model
from rlhf.run import read_json
from tests.policy.in_process import Ppo, StartPpo, constant
from tests.reward.tiny import tiny_chat, tiny_shape, tiny_tokenizer

EOS, PLEASE = tiny_tokenizer().eos_id, tiny_tokenizer().piece_id("▁please")
PROMPT_END = tiny_chat().encode_prompt((Message("user", "a"),))[-1]
SETTINGS: dict[str, Any] = {
    "iterations": 10,
    "prompts_per_iteration": 64,
    "minibatch_size": 32,
    "micro_batch_size": 32,
    "sampling": SamplingConfig(max_new_tokens=32),
    "optim": constant(1e-3),
    "critic_optim": constant(1e-3),
    "critic_init": "zero_head",
    "missing_eos_penalty": 0.0,  # so that only the reward acts on the length
}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model whose responses end after some ten tokens."""
    directory, tokenizer = tmp_path_factory.mktemp("ends") / "model", tiny_tokenizer()
    model = init_language_model(tiny_shape(), seed=0)
    embedding = model.model.embed_tokens.weight
    with torch.no_grad():
        # a direction that every hidden state has, so that it favours the same tokens everywhere
        embedding[:, 0] = 3.0
        embedding[EOS, 0], embedding[PLEASE, 0] = 4.2, 3.6  # 8 % and 1.7 % of the tokens
    save_model(model, directory, tokenizer.special_ids)
    tokenizer.save(directory)
    return directory


def alarms(ppo: Ppo) -> dict[str, str]:
    """Name → what was found."""
    return {a["name"]: a["finding"] for a in read_json(ppo.run.directory / ALARMS_FILE)}


def likes_odd_beginnings(ids: list[int]) -> float:
    """A sound reward, for the first token: it pays neither for length nor for one word."""
    return float(ids[ids.index(PROMPT_END) + 1] % 2)


def test_a_sound_run_raises_no_alarm(start_ppo: StartPpo) -> None:
    ppo = start_ppo("run", likes_odd_beginnings, **SETTINGS)
    ppo.train()
    lines = read_metrics(ppo.run.directory)
    assert alarms(ppo) == {}
    assert 5 < lines[0]["response/tokens"] < 20 and lines[0]["health/eos_share"] > 0.8
    assert all(line["health/probability_gap"] < 1e-5 for line in lines)
    assert lines[-1]["val/ratio_var"] > 1e-6  # it did learn


def test_a_reward_that_pays_for_length(
    start_ppo: StartPpo, capsys: pytest.CaptureFixture[str]
) -> None:
    ppo = start_ppo("run", lambda ids: float(len(ids)), **SETTINGS)
    ppo.train()
    assert "the longer one scores higher" in alarms(ppo)["reward_pays_for_length"]
    assert "ALARM, iteration" in capsys.readouterr().err


def test_a_reward_that_pays_for_please(start_ppo: StartPpo) -> None:
    ppo = start_ppo("run", lambda ids: float(PLEASE in ids), **SETTINGS)
    ppo.train()
    assert "of the responses say 'please'" in alarms(ppo)["favourite_phrase"]


def test_a_learning_rate_100_times_too_high(start_ppo: StartPpo) -> None:
    ppo = start_ppo(
        "run", likes_odd_beginnings, **SETTINGS | {"optim": constant(0.1), "iterations": 2}
    )
    ppo.train()
    assert "an update moves the policy too far" in alarms(ppo)["step_too_large"]


def test_an_eos_that_the_sampler_does_not_know(
    start_ppo: StartPpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_out = policy.ppo.share_out

    def deaf(*args: Any, **named: Any) -> Any:
        requests = share_out(*args, **named)
        return [dataclasses.replace(request, eos_id=-1) for request in requests]

    monkeypatch.setattr(policy.ppo, "share_out", deaf)
    ppo = start_ppo("run", likes_odd_beginnings, **SETTINGS | {"iterations": 1})
    ppo.train()
    assert "only 0% of the responses end by themselves" in alarms(ppo)["no_end"]
