"""Sampling with a cache: the same responses whatever the slots, the batch and the order."""

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.testing import assert_close

from data.errors import ConfigError, DataError
from rlhf.generation.generator import generate
from rlhf.generation.sampling import SamplingConfig
from rlhf.model.cached import CachedModel
from rlhf.model.heads import LanguageModel
from rlhf.types import Experience, PromptIds, Rollout
from tests.tiny_models import SMALL, random_tokens, small_language_model

EOS = 2
SAMPLING = SamplingConfig(temperature=0.8, max_new_tokens=12)


@pytest.fixture(scope="module", params=[24, 96], ids=["by layers", "by whole steps"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """A random model that ends some responses by itself.

    The wider one takes the layers of a step in one call, where there is a compiler.
    """
    model = small_language_model(seed=1, dim=request.param)
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 3
    return model


@pytest.fixture(scope="module")
def prompts() -> list[PromptIds]:
    """23 prompts of 1 to 20 tokens; some stand there several times."""
    single = [PromptIds(f"p{n}", random_tokens(1 + n * 7 % 20, seed=n).tolist()) for n in range(14)]
    return [*single, *[single[0]] * 4, *[single[5]] * 5]


def run(model: LanguageModel, prompts: list[PromptIds], **changes: Any) -> list[Rollout]:
    values: dict[str, Any] = {"config": SAMPLING, "eos_id": EOS, "seed": 7}
    return generate(model, prompts, **values | changes)


def check_equal(found: list[Rollout], expected: list[Rollout]) -> None:
    assert [r.response_ids for r in found] == [r.response_ids for r in expected]
    assert [r.finish_reason for r in found] == [r.finish_reason for r in expected]
    assert [r.prompt_id for r in found] == [r.prompt_id for r in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.response_logprobs == pytest.approx(theirs.response_logprobs, abs=1e-5)


@pytest.mark.parametrize("slots", [1, 2, 5, 23, 1000])
def test_the_number_of_slots_changes_nothing(
    model: LanguageModel, prompts: list[PromptIds], slots: int
) -> None:
    found = run(model, prompts, slots=slots)
    check_equal(found, run(model, prompts))
    assert {r.finish_reason for r in found} == {"eos", "length"}


def test_responses_of_different_room(model: LanguageModel, prompts: list[PromptIds]) -> None:
    """As long as the context leaves room: slots end and begin again in steps of their own."""
    config = SamplingConfig(max_new_tokens=60)
    expected = run(model, prompts, config=config)
    rooms = {len(r.response_ids) + len(r.prompt_ids) for r in expected if r.finish_reason != "eos"}
    assert SMALL.context in rooms and len({len(r.response_ids) for r in expected}) > 5
    for slots in (1, 4):
        check_equal(run(model, prompts, config=config, slots=slots), expected)


def test_the_order_of_prompts_changes_nothing(
    model: LanguageModel, prompts: list[PromptIds]
) -> None:
    expected = run(model, prompts)
    order = list(range(len(prompts)))
    random.Random(0).shuffle(order)
    found = run(model, [prompts[i] for i in order], streams=order, slots=6)
    check_equal(found, [expected[i] for i in order])


def test_two_workers_sample_what_one_samples(
    model: LanguageModel, prompts: list[PromptIds]
) -> None:
    parts = [
        run(model, prompts[start::2], streams=list(range(start, len(prompts), 2)))
        for start in (0, 1)
    ]
    interleaved = [r for pair in itertools.zip_longest(*parts) for r in pair if r is not None]
    check_equal(interleaved, run(model, prompts))


def test_seeds_and_streams_give_other_samples(
    model: LanguageModel, prompts: list[PromptIds]
) -> None:
    first = run(model, prompts)
    check_equal(run(model, prompts), first)
    other = run(model, prompts, seed=8)
    assert [r.response_ids for r in other] != [r.response_ids for r in first]
    same_prompt = {tuple(r.response_ids) for r in run(model, [prompts[3]] * 20)}
    assert len(same_prompt) > 10


@pytest.mark.parametrize(("slots", "min_new_tokens"), [(5, 0), (64, 0), (64, 3)])
def test_a_prompt_is_read_once_for_all_its_samples(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, slots: int, min_new_tokens: int
) -> None:
    """Though 16 samples of a prompt are admitted in parts, as slots become free."""
    lengths = [40, 33, 33, 32, 31, 20, 17, 9, 5, 5, 2, 1]
    single = [PromptIds(f"p{n}", random_tokens(k, seed=n).tolist()) for n, k in enumerate(lengths)]
    prompts = [prompt for prompt in single for _ in range(16)]
    config = replace(SAMPLING, min_new_tokens=min_new_tokens)
    expected = run(model, prompts, config=config, slots=1000)  # all at once
    read: list[list[int]] = []
    prefill = CachedModel.prefill

    def counting(self: CachedModel, prompts: Any, *rest: Any) -> Any:
        read.extend(map(list, prompts))
        return prefill(self, prompts, *rest)

    monkeypatch.setattr(CachedModel, "prefill", counting)
    found = run(model, prompts, config=config, slots=slots)
    assert read == [prompt.ids for prompt in single]
    check_equal(found, expected)
    assert len({len(r.response_ids) for r in found}) > 5


def test_all_samples_of_a_prompt_begin_from_the_same_bits(model: LanguageModel) -> None:
    prompt = PromptIds("p", random_tokens(20, seed=3).tolist())
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=12)
    first = {r.response_logprobs[0] for r in run(model, [prompt] * 16, config=greedy, slots=3)}
    assert len(first) == 1


def test_greedy_is_a_loop_of_argmax(model: LanguageModel, prompts: list[PromptIds]) -> None:
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=10)
    for prompt, rollout in zip(prompts, run(model, prompts, config=greedy, slots=4), strict=True):
        ids = list(prompt.ids)
        while len(ids) < len(prompt.ids) + 10:
            with torch.no_grad():
                hidden = model.model(torch.tensor([ids]))
                ids.append(int(model.lm_head(hidden)[0, -1].argmax()))
            if ids[-1] == EOS:
                break
        assert rollout.ids == ids


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@torch.no_grad()
def test_log_probabilities_are_those_of_the_trainer(
    model: LanguageModel, prompts: list[PromptIds], temperature: float
) -> None:
    config = SamplingConfig(temperature=temperature, max_new_tokens=12)
    rollouts = run(model, prompts, config=config, slots=4)
    batch = Experience.from_rollouts(rollouts, pad_id=0)
    recomputed = model(batch.tokens, batch.response_mask, temperature=temperature).logprobs
    assert_close(batch.logprobs, recomputed, atol=2e-5, rtol=0)
    assert batch.logprobs[batch.response_mask].std() > 0.1
    # T11 of the checklist, with three digits to spare
    assert (batch.logprobs.exp() - recomputed.exp()).abs().mean() < 5e-6


def test_a_response_ends_at_its_first_eos_or_at_its_length(
    model: LanguageModel, prompts: list[PromptIds]
) -> None:
    for rollout in run(model, prompts * 3):
        assert EOS not in rollout.response_ids[:-1]
        if rollout.finish_reason == "eos":
            assert rollout.response_ids[-1] == EOS
            assert len(rollout.response_ids) <= 12
        else:
            assert rollout.response_ids[-1] != EOS
            assert len(rollout.response_ids) == 12
        assert len(rollout.response_logprobs) == len(rollout.response_ids)
        assert max(rollout.response_logprobs) <= 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_no_response_ends_before_it_may(
    model: LanguageModel, prompts: list[PromptIds], temperature: float
) -> None:
    free = SamplingConfig(temperature=temperature, max_new_tokens=12)
    lengths = [len(r.response_ids) for r in run(model, prompts * 3, config=free)]
    assert min(lengths) < 6
    found = run(model, prompts * 3, config=replace(free, min_new_tokens=5))
    assert min(len(r.response_ids) for r in found) == 6  # five others, then EOS
    assert not any(EOS in r.response_ids[:5] for r in found)


def test_log_probabilities_know_what_could_not_be_drawn() -> None:
    """Of ids 0, 1 and EOS, equally likely, EOS is forbidden once: ½, then ⅓."""
    model = small_language_model(vocab_size=3)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    config = SamplingConfig(max_new_tokens=2, min_new_tokens=1)
    (found,) = run(model, [PromptIds("p", [0])], config=config)
    assert found.response_logprobs == pytest.approx([math.log(1 / 2), math.log(1 / 3)])


def test_a_response_stays_within_the_context(model: LanguageModel) -> None:
    prompt = PromptIds("p", random_tokens(SMALL.context - 3).tolist())
    found = run(model, [prompt] * 20, config=SamplingConfig(max_new_tokens=50))
    assert {len(r.ids) for r in found if r.finish_reason == "length"} == {SMALL.context}


def test_a_length_that_no_context_holds_takes_no_memory(
    model: LanguageModel, prompts: list[PromptIds]
) -> None:
    context = SamplingConfig(max_new_tokens=SMALL.context)
    found = run(model, prompts, config=replace(context, max_new_tokens=10**12))
    assert found == run(model, prompts, config=context)


@pytest.mark.parametrize("slots", [0, -1])
def test_no_slots(model: LanguageModel, prompts: list[PromptIds], slots: int) -> None:
    with pytest.raises(ConfigError, match=f"^slots is {slots}; it must be 1 or more"):
        run(model, prompts, slots=slots)


def test_the_policy_version_is_written_down(model: LanguageModel, prompts: list[PromptIds]) -> None:
    assert {r.policy_version for r in run(model, prompts, policy_version=3)} == {3}


def test_no_prompts(model: LanguageModel) -> None:
    assert run(model, []) == []


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([], "prompt 'bad' is empty; a prompt has at least one token"),
        ([3] * 64, "prompt 'bad' has 64 tokens; the model's context is 64"),
        ([3, 61], "prompt 'bad' holds id 61; the model knows 0 to 60: was it encoded by another"),
        ([3, -1], "holds id -1"),
    ],
)
def test_prompts_that_cannot_be(model: LanguageModel, ids: list[int], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        run(model, [PromptIds("good", [3]), PromptIds("bad", ids)])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_that_diverged(temperature: float) -> None:
    model = small_language_model(seed=1)
    with torch.no_grad():
        model.lm_head.weight[5] = math.nan
    with pytest.raises(
        DataError, match="logits after the prompt 'p' are no finite numbers; its tr"
    ):
        run(model, [PromptIds("p", [3])], config=SamplingConfig(temperature=temperature))


@pytest.mark.parametrize("slots", [7, 128])
def test_samples_follow_the_models_distribution(slots: int) -> None:
    """Chi-square over all 49 pairs of two tokens, from a model of seven ids."""
    model = small_language_model(seed=2, vocab_size=7)
    prompt = [3, 4]
    with torch.no_grad():
        first = model.lm_head(model.model(torch.tensor([prompt])))[0, -1].softmax(0)
        second = model.lm_head(model.model(torch.tensor([[*prompt, token] for token in range(7)])))[
            :, -1
        ].softmax(1)
    expected = (first[:, None] * second).double().numpy()
    expected[EOS] = 0  # a response that begins with EOS has no second token
    expected[EOS, 0] = first[EOS]
    draws = 4000
    config = SamplingConfig(max_new_tokens=2)
    counts = np.zeros((7, 7))
    for rollout in run(model, [PromptIds("p", prompt)] * draws, config=config, slots=slots):
        ids = rollout.response_ids
        counts[ids[0], ids[1] if len(ids) == 2 else 0] += 1
    often = expected * draws >= 5  # the rule of thumb for chi-square
    observed = [*counts[often], counts[~often].sum()]
    wanted = np.array([*expected[often], expected[~often].sum()])
    assert chisquare(observed, wanted / wanted.sum() * draws).pvalue > 0.001
