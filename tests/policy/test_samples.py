"""Samples on disk."""

from pathlib import Path

import pytest
import torch

from data.errors import DataError
from policy.prompts import PromptSet
from policy.samples import read_samples, sample_records, write_samples
from reward.score import Scores
from rlhf.types import FinishReason, Rollout
from tests.reward.tiny import tiny_chat


def rollout(prompt_id: str, text: str, finish_reason: FinishReason = "eos") -> Rollout:
    ids = tiny_chat().encode_response(text)
    return Rollout(
        prompt_id=prompt_id,
        prompt_ids=[1],
        response_ids=ids,
        response_logprobs=[-0.5] * len(ids),
        finish_reason=finish_reason,
        policy_version=3,
    )


def test_records_of_two_samples_per_prompt(prompts: PromptSet) -> None:
    some = prompts.select([2, 3])
    texts = ["fox", "dog", "now", "please"]
    rollouts = [rollout(f"p{2 + n // 2}", text) for n, text in enumerate(texts)]
    first = torch.arange(4.0)
    scores = Scores(helpfulness=first, safety=first + 10, combined=first + 20)
    records = sample_records(some, rollouts, tiny_chat(), scores, step=7, temperature=0.5)
    assert [record["prompt_id"] for record in records] == ["p2", "p2", "p3", "p3"]
    assert [record["domain"] for record in records] == ["helpfulness"] * 2 + ["safety"] * 2
    assert [record["response"] for record in records] == texts
    length = len(tiny_chat().encode_response("please"))
    assert records[3] == {
        "prompt_id": "p3",
        "kind": "test",
        "domain": "safety",
        "prompt": some.rows[1].prompt[-1].content,
        "response": "please",
        "response_tokens": length,
        "finish_reason": "eos",
        "policy_version": 3,
        "logprob": -0.5 * length,
        "helpfulness_score": 3.0,
        "safety_score": 13.0,
        "combined_score": 23.0,
        "step": 7,
        "temperature": 0.5,
    }


def test_scores_of_a_function(prompts: PromptSet) -> None:
    scores = Scores(combined=torch.tensor([0.5]))
    (record,) = sample_records(prompts.select([0]), [rollout("p0", "fox")], tiny_chat(), scores)
    assert [name for name in record if name.endswith("_score")] == ["combined_score"]


def test_without_scores(prompts: PromptSet) -> None:
    (record,) = sample_records(prompts.select([0]), [rollout("p0", "fox", "length")], tiny_chat())
    assert record["finish_reason"] == "length" and "combined_score" not in record


def test_samples_come_back(tmp_path: Path, prompts: PromptSet) -> None:
    path = tmp_path / "samples.parquet"
    assert read_samples(path) == []
    rollouts = [rollout("p0", "fox"), rollout("p1", "dog")]
    records = sample_records(prompts.select([0, 1]), rollouts, tiny_chat(), step=0)
    write_samples(path, records)
    assert read_samples(path) == records
    assert [file.name for file in tmp_path.iterdir()] == ["samples.parquet"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(
        DataError, match=r"samples\.parquet' is damaged or no Parquet file; restore"
    ):
        read_samples(path)
