"""Sampling and scoring by workers: the same figures here, in one actor and in two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data.errors import DataError
from rlhf.actors.group import WorkerGroup, start_workers
from rlhf.actors.placement import Placement
from rlhf.actors.workers import GenerateWorker, generate_with, logprobs_with, share_out
from rlhf.generation.sampling import SamplingConfig
from rlhf.model.weights import load_language_model, save_model
from rlhf.types import PromptIds, Rollout
from tests.tiny_models import random_tokens, small_language_model

EOS = 2
SAMPLING = SamplingConfig(temperature=0.8, max_new_tokens=8)
PLACES = {
    "here": Placement(ray=False),
    "one actor": Placement(timeout=300),
    "two actors": Placement(workers=2, timeout=300),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("workers") / "model"
    special = {"bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": 0}
    save_model(small_language_model(), path, special)
    return path


@pytest.fixture(scope="module")
def prompts() -> list[PromptIds]:
    """Seven prompts, each twice: no even share for two workers."""
    return [PromptIds(f"p{n}", random_tokens(3 + n, seed=n).tolist()) for n in range(7)] * 2


@pytest.fixture(
    params=["here", *(pytest.param(p, marks=pytest.mark.ray) for p in PLACES if p != "here")]
)
def workers(request: pytest.FixtureRequest, model: Path) -> Iterator[WorkerGroup[GenerateWorker]]:
    place = PLACES[request.param]
    if place.ray:
        request.getfixturevalue("local_ray")
    with start_workers(GenerateWorker, place, model, name="sampler") as group:
        yield group


def sampled_here(model: Path, prompts: list[PromptIds]) -> list[Rollout]:
    with start_workers(GenerateWorker, PLACES["here"], model, name="sampler") as group:
        return generate_with(group, prompts, SAMPLING, eos_id=EOS, seed=3)


def test_samples_and_their_probabilities_are_the_same_everywhere(
    workers: WorkerGroup[GenerateWorker], model: Path, prompts: list[PromptIds]
) -> None:
    found = generate_with(workers, prompts, SAMPLING, eos_id=EOS, seed=3)
    expected = sampled_here(model, prompts)
    assert [r.response_ids for r in found] == [r.response_ids for r in expected]
    assert [r.prompt_id for r in found] == [p.prompt_id for p in prompts]
    assert found[0].response_ids != found[7].response_ids  # the same prompt, another stream
    logprobs = logprobs_with(workers, found, 0.8)
    sums = [sum(rollout.response_logprobs) for rollout in found]
    assert logprobs == pytest.approx(sums, abs=1e-4)


@torch.no_grad()
def test_log_probabilities_of_others_samples(model: Path, prompts: list[PromptIds]) -> None:
    rollouts = sampled_here(model, prompts)
    with start_workers(GenerateWorker, PLACES["here"], model, name="sampler") as group:
        found = logprobs_with(group, rollouts, 2.0)
    plain = load_language_model(model)
    for rollout, logprob in zip(rollouts, found, strict=True):
        ids = torch.tensor([rollout.ids])
        log_probs = (plain.lm_head(plain.model(ids)) / 2.0)[0, :-1].log_softmax(dim=-1)
        start = len(rollout.prompt_ids)
        chosen = log_probs[torch.arange(start - 1, ids.shape[1] - 1), ids[0, start:]]
        assert logprob == pytest.approx(float(chosen.sum()), abs=1e-4)


def test_more_rollouts_than_fit_one_pass(model: Path, prompts: list[PromptIds]) -> None:
    rollouts = sampled_here(model, prompts)
    with start_workers(GenerateWorker, PLACES["here"], model, name="sampler") as group:
        many = logprobs_with(group, rollouts * 5, 1.0)  # 70, and a pass takes 32
        assert many == pytest.approx(logprobs_with(group, rollouts, 1.0) * 5, abs=1e-4)


def test_shares_are_contiguous_and_complete(prompts: list[PromptIds]) -> None:
    requests = share_out(prompts, 4, SAMPLING, eos_id=EOS, seed=3)
    # 14 prompts over 4 workers: 4, 4, 4, 2
    assert [r.streams for r in requests] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [12, 13],
    ]
    assert [p for r in requests for p in r.prompts] == prompts
    few = share_out(prompts[:2], 4, SAMPLING, eos_id=EOS, seed=3)
    assert [r.streams for r in few] == [[0], [1], [], []]


def test_no_prompts(workers: WorkerGroup[GenerateWorker]) -> None:
    assert generate_with(workers, [], SAMPLING, eos_id=EOS, seed=3) == []
    assert logprobs_with(workers, [], 1.0) == []


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    for place in PLACES.values():
        with pytest.raises(DataError, match=r"no model at .*nowhere.*check the path"):
            start_workers(GenerateWorker, place, tmp_path / "nowhere", name="sampler")
