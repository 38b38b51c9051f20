"""Scores of sequences, whatever the batch, the padding, the order and the number of workers."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import reward.score
from data.schemas import Message, Prompt
from reward.combine import combine_scores
from reward.score import RewardModels, ScoreWorker, model_directory, reward_models, score_with
from rlhf.actors.group import LocalGroup
from rlhf.actors.placement import Placement
from rlhf.model.weights import load_scalar_model
from rlhf.types import Rollout
from tests.reward.tiny import VOCAB_SIZE, write_reward_model

HERE = Placement(ray=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `rlhf reward train` run with two different models."""
    run = tmp_path_factory.mktemp("run")
    write_reward_model(model_directory(run, "helpfulness"), seed=1)
    write_reward_model(model_directory(run, "safety"), seed=2)
    return run


@pytest.fixture(scope="module")
def worker(run: Path) -> LocalGroup[ScoreWorker]:
    return LocalGroup(ScoreWorker, HERE, model_directory(run, "helpfulness"))


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    """23 sequences of 1 to 60 tokens."""
    rng = random.Random(0)
    lengths = [rng.randrange(1, 61) for _ in range(23)]
    return [[rng.randrange(VOCAB_SIZE) for _ in range(length)] for length in lengths]


class Ranks:
    """Several workers of a role, called one after the other."""

    def __init__(self, size: int, model: Path) -> None:
        self.size = size
        self._workers = [LocalGroup(ScoreWorker, HERE, model) for _ in range(size)]

    def begin(self, method: Callable[..., Any], shards: Sequence[Any]) -> Callable[[], list[Any]]:
        pairs = list(zip(self._workers, shards, strict=True))
        return lambda: [worker.scatter(method, [shard])[0] for worker, shard in pairs]


class Begun:
    """Writes down when it is told to score and when it is asked for the scores."""

    size = 1

    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    def begin(self, method: Callable[..., Any], shards: Sequence[Any]) -> Callable[[], list[Any]]:
        self._log.append(f"{self._name} begins")

        def results() -> list[list[float]]:
            self._log.append(f"{self._name} is asked")
            return [[]]

        return results


def test_both_models_score_at_once() -> None:
    log: list[str] = []
    models = RewardModels(Begun("a", log), Begun("b", log))  # type: ignore[arg-type]
    models.score([], [])
    assert log == ["a begins", "b begins", "a is asked", "b is asked"]


def test_both_models_share_the_cores(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[int] = []

    def start(*arguments: Any, groups: int, **names: str) -> LocalGroup[ScoreWorker]:
        shares.append(groups)
        return LocalGroup(ScoreWorker, HERE, arguments[2])

    monkeypatch.setattr(reward.score, "start_workers", start)
    with reward_models(run, HERE):
        assert shares == [2, 2]


@torch.no_grad()
def one_by_one(model: Path, sequences: list[list[int]]) -> list[float]:
    """The model alone: the value at the last token of an unpadded sequence."""
    scalar = load_scalar_model(model)
    return [float(scalar(torch.tensor([ids]))[0, -1]) for ids in sequences]


def test_scores_are_the_values_at_the_last_tokens(
    run: Path, worker: LocalGroup[ScoreWorker], sequences: list[list[int]]
) -> None:
    expected = one_by_one(model_directory(run, "helpfulness"), sequences)
    assert len(set(expected)) == 23
    assert_close(score_with(worker, sequences), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens_per_pass", [1, 60, 100_000])
def test_passes_of_any_size_give_the_same(
    worker: LocalGroup[ScoreWorker],
    sequences: list[list[int]],
    tokens_per_pass: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = score_with(worker, sequences)
    monkeypatch.setattr(reward.score, "TOKENS_PER_PASS", tokens_per_pass)
    assert_close(score_with(worker, sequences), usual, rtol=0, atol=1e-5)


def test_no_pass_holds_more_tokens_than_allowed(
    worker: LocalGroup[ScoreWorker], sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[torch.Size] = []
    monkeypatch.setattr(reward.score, "TOKENS_PER_PASS", 100)
    scores_at = reward.score.scores_at

    def watch(last: torch.Tensor, model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        shapes.append(tokens.shape)
        return scores_at(last, model, tokens)

    monkeypatch.setattr(reward.score, "scores_at", watch)
    score_with(worker, sequences)
    assert sum(rows for rows, _ in shapes) == 23 and len(shapes) < 23
    assert max(rows * length for rows, length in shapes) <= 100


def test_order_of_the_sequences_is_kept(
    worker: LocalGroup[ScoreWorker], sequences: list[list[int]]
) -> None:
    forwards = score_with(worker, sequences)
    assert_close(score_with(worker, sequences[::-1]), forwards[::-1], rtol=0, atol=1e-5)
    assert score_with(worker, []) == []


def test_equal_sequences_are_scored_once(
    run: Path, sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whichever worker."""
    rows: list[list[int]] = []

    def score(self: ScoreWorker, part: Sequence[Sequence[int]]) -> list[float]:
        rows.extend(map(list, part))
        return [float(sum(ids)) for ids in part]

    monkeypatch.setattr(ScoreWorker, "score", score)
    ranks: Any = Ranks(2, model_directory(run, "helpfulness"))
    repeated = [sequences[i] for i in (0, 1, 0, 2, 2, 0)]
    assert score_with(ranks, repeated) == [float(sum(ids)) for ids in repeated]
    assert sorted(rows) == sorted(sequences[:3])


@pytest.mark.parametrize("size", [2, 3, 30])  # 30: some ranks have nothing to do
def test_any_number_of_workers(
    run: Path, worker: LocalGroup[ScoreWorker], sequences: list[list[int]], size: int
) -> None:
    ranks: Any = Ranks(size, model_directory(run, "helpfulness"))
    assert_close(score_with(ranks, sequences), score_with(worker, sequences), rtol=0, atol=1e-5)


def test_both_models_and_the_rule(run: Path, sequences: list[list[int]]) -> None:
    tags = [number % 3 == 0 for number in range(23)]
    prompts = [
        Prompt(
            prompt_id="p",
            prompt=(Message("user", "?"),),
            domain="safety" if tag else "helpfulness",
            kind="test",
            source="test",
        )
        for tag in tags
    ]
    rollouts = [
        Rollout(
            prompt_id="p",
            prompt_ids=ids[:1],
            response_ids=ids[1:],
            response_logprobs=[0.0] * len(ids[1:]),
            finish_reason="length",
            policy_version=0,
        )
        for ids in sequences
    ]
    with reward_models(run, HERE, threshold=0.5) as models:
        assert isinstance(models, RewardModels)
        scores = models.score(prompts, rollouts)
    assert scores.helpfulness is not None and scores.safety is not None
    for domain, found in (("helpfulness", scores.helpfulness), ("safety", scores.safety)):
        expected = one_by_one(run / domain / "model", sequences)
        assert_close(found, torch.tensor(expected), rtol=0, atol=1e-5)
    combined = combine_scores(scores.safety, scores.helpfulness, torch.tensor(tags), 0.5)
    assert torch.equal(scores.combined, combined)
    from_safety = scores.combined == scores.safety
    assert from_safety[::3].all() and not from_safety.all()


def test_bf16_rounds_scores_a_little(run: Path, sequences: list[list[int]]) -> None:
    model = model_directory(run, "safety")
    exact, rounded = (
        torch.tensor(
            LocalGroup(ScoreWorker, HERE, model, dtype).scatter(ScoreWorker.score, [ids])[0]
        )
        for dtype, ids in ((torch.float32, sequences), (torch.bfloat16, sequences))
    )
    error = (exact - rounded).abs()
    assert 0 < error.mean() < 0.02 * exact.std()
