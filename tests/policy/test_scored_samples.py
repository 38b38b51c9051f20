"""Samples in parts: the same as in one go, and none is made twice after an interruption."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import DataError
from policy import scored_samples
from policy.prompts import PromptSet
from policy.scored_samples import (
    SamplePlan,
    ScoredSamples,
    sample_scored,
    scored_records,
)
from reward.score import model_directory, reward_models
from rlhf.generation.sampling import SamplingConfig
from tests.policy.in_process import HERE
from tests.reward.tiny import tiny_chat, write_reward_model

PLAN = SamplePlan(
    per_prompt=3,
    sampling=SamplingConfig(max_new_tokens=5),
    temperatures=(1.0,),
    seed=0,
    part_prompts=5,
)
Sample = Callable[..., ScoredSamples]


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random reward models."""
    root = tmp_path_factory.mktemp("rewards")
    for seed, domain in enumerate(("helpfulness", "safety")):
        write_reward_model(model_directory(root, domain), seed=seed)  # type: ignore[arg-type]
    return root


@pytest.fixture
def sample(chat_model: Path, rewards: Path, prompts: PromptSet) -> Sample:
    """`sample(directory, plan, prompts)`."""

    def run(directory: Path, plan: SamplePlan = PLAN, some: PromptSet = prompts) -> ScoredSamples:
        opened = partial(reward_models, rewards, HERE)
        return sample_scored(
            directory, some, plan, tiny_chat(), model=chat_model, rewards=opened, placement=HERE
        )

    return run


def check_equal(found: ScoredSamples, expected: ScoredSamples) -> None:
    """The same tokens, scores and order. Batches of other shapes round differently."""
    assert [r.response_ids for r in found.rollouts] == [r.response_ids for r in expected.rollouts]
    assert [r.prompt_id for r in found.rollouts] == [r.prompt_id for r in expected.rollouts]
    assert np.allclose(found.table, expected.table, atol=1e-5)
    assert found.temperatures == expected.temperatures


def test_parts_give_the_samples_of_one_go(sample: Sample, tmp_path: Path) -> None:
    whole = sample(tmp_path / "whole", replace(PLAN, part_prompts=100))
    assert len(whole.rollouts) == 16 * 3
    assert len({tuple(r.response_ids) for r in whole.rollouts}) > 40  # not one stream for all
    check_equal(sample(tmp_path / "parts"), whole)
    names = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert names == [
        f"{kind}-t00-{start:07d}.parquet"
        for kind in ("sampled", "scored")
        for start in (0, 5, 10, 15)
    ]


def test_temperatures_stand_side_by_side(
    sample: Sample, prompts: PromptSet, tmp_path: Path
) -> None:
    warm, both = (replace(PLAN, temperatures=t) for t in ((1.0,), (1.0, 0.0)))
    found, alone = sample(tmp_path / "both", both), sample(tmp_path / "warm", warm)
    assert found.temperatures == (1.0, 0.0) * 3
    assert [r.prompt_id for r in found.rollouts[:7]] == ["p0"] * 6 + ["p1"]
    assert list(found.tables) == [0.0, 1.0]
    assert np.allclose(found.tables[1.0], alone.table, atol=1e-5)
    for greedy in found.responses[0.0]:
        assert greedy[0] == greedy[1] == greedy[2]
    assert found.responses[1.0] == alone.responses[1.0]
    records = scored_records(prompts, found, tiny_chat())
    assert [record["temperature"] for record in records[:4]] == [1.0, 0.0, 1.0, 0.0]
    assert records[7]["combined_score"] == pytest.approx(found.table[1, 1])


def test_temperatures_do_not_share_random_numbers(sample: Sample, tmp_path: Path) -> None:
    # the same distribution twice: equal streams would give equal answers
    found = sample(tmp_path, replace(PLAN, temperatures=(1.0, 1.0 + 1e-9)))
    first, second = found.responses.values()
    pairs = [(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)]
    assert sum(a == b for a, b in pairs) < 5


class Killed(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.parametrize("write", [1, 3, 5, 8])
def test_an_interruption_at_any_write_loses_that_part_only(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """Eight writes: four parts sampled, four scored."""
    writes, asked = [], []
    make, put = scored_samples.generate_with, scored_samples.write_samples

    def generating(workers: Any, prompts: Any, *args: Any, **options: Any) -> Any:
        asked.append([prompt.prompt_id for prompt in prompts])
        return make(workers, prompts, *args, **options)

    def writing(path: Path, records: Any) -> None:
        writes.append(path)
        if len(writes) == write:
            raise Killed
        put(path, records)

    monkeypatch.setattr(scored_samples, "generate_with", generating)
    monkeypatch.setattr(scored_samples, "write_samples", writing)
    with pytest.raises(Killed):
        sample(tmp_path / "parts")
    found = sample(tmp_path / "parts")
    # eight parts; the one that was interrupted was tried twice
    assert len(writes) == 9
    assert writes[write - 1] == writes[write]
    assert len(set(writes)) == 8
    assert len(asked) == (5 if write <= 4 else 4)
    monkeypatch.undo()
    check_equal(found, sample(tmp_path / "undisturbed"))


def test_samples_of_other_prompts_are_refused(
    sample: Sample, prompts: PromptSet, tmp_path: Path
) -> None:
    sample(tmp_path)
    turned = prompts.select(range(len(prompts) - 1, -1, -1))
    with pytest.raises(DataError, match=r"holds samples of other prompts than the dataset does"):
        sample(tmp_path, PLAN, turned)
