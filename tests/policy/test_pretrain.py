"""Pretraining on plain text."""

from pathlib import Path
from typing import Any

import pytest

import policy.pretrain
from data.errors import ConfigError
from data.packing import PackedRows
from policy.language_task import LanguageTask
from policy.pretrain import PretrainConfig, pretrain
from rlhf.engine.optim import OptimConfig
from rlhf.metrics import read_metrics
from rlhf.model.weights import load_language_model
from rlhf.run import Run
from tests.policy.in_process import HERE
from tests.reward.tiny import TORCH, VOCAB_SIZE, tiny_tokenizer

TEXTS = [f"the quick brown fox jumps over the lazy dog {n % 3}" for n in range(20)]


@pytest.fixture
def task_for(tmp_path: Path, chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`task_for(texts, config)`: the task that pretraining would run."""

    def build(texts: list[str], config: PretrainConfig) -> LanguageTask:
        tasks: list[LanguageTask] = []
        monkeypatch.setattr(policy.pretrain, "train", lambda task, *_, **__: tasks.append(task))
        run = Run(tmp_path / "task", "pretrain", {})
        pretrain(texts, config, run, tokenizer=chat_model, engine=TORCH, placement=HERE)
        return tasks[0]

    return build


def real_tokens(rows: PackedRows) -> int:
    """Tokens but for the padding."""
    return int((rows.documents >= 0).sum())


def test_documents_are_held_out_whole(task_for: Any) -> None:
    config = PretrainConfig(size="tiny", row_length=64, batch_rows=4, validation_share=0.1)
    task = task_for(TEXTS, config)
    tokens = [len(ids) + 2 for ids in tiny_tokenizer().encode_batch(TEXTS)]  # with BOS and EOS
    assert real_tokens(task.validation) == tokens[0] + tokens[10]  # every tenth
    assert real_tokens(task.train) == sum(tokens) - tokens[0] - tokens[10]
    # everything is learned but the first token of a document
    assert int(task.train.loss_mask.sum()) == real_tokens(task.train) - 18
    assert task.start.vocab_size == VOCAB_SIZE
    task = task_for(TEXTS, PretrainConfig(size="tiny", validation_share=0.0))
    assert real_tokens(task.validation) == 0


def test_long_documents_are_cut(task_for: Any) -> None:
    config = PretrainConfig(size="tiny", row_length=16, batch_rows=4, validation_share=0.0)
    task = task_for(["fox " * 40], config)
    ids = tiny_tokenizer().encode("fox " * 40)
    length = len(ids) + 2
    assert len(task.train) == -(-length // 16) and real_tokens(task.train) == length
    documents = sorted(
        row[mask >= 0].tolist()
        for row, mask in zip(task.train.tokens, task.train.documents, strict=True)
    )
    whole = [tiny_tokenizer().bos_id, *ids, tiny_tokenizer().eos_id]
    assert documents == sorted(whole[start : start + 16] for start in range(0, length, 16))


def test_a_model_learns_its_corpus(tmp_path: Path, chat_model: Path) -> None:
    config = PretrainConfig(
        size="tiny",
        row_length=64,
        batch_rows=4,
        micro_batch_rows=4,
        epochs=4.0,
        optim=OptimConfig(lr=3e-3, eps=1e-8),
    )
    run = Run(tmp_path / "run", "pretrain", {})
    figures = pretrain(TEXTS, config, run, tokenizer=chat_model, engine=TORCH, placement=HERE)
    assert figures["validation/loss"] < 2.0  # log 352 = 5.9 to begin with
    assert read_metrics(run.directory)[-1]["validation/loss"] == figures["validation/loss"]
    assert load_language_model(run.model).config.vocab_size == VOCAB_SIZE


def test_nothing_to_learn(tmp_path: Path, chat_model: Path) -> None:
    # With a single document, the held-out one, nothing is left to train on.
    run = Run(tmp_path / "run", "pretrain", {})
    with pytest.raises(ConfigError, match="nothing to train on"):
        pretrain(
            ["one"],
            PretrainConfig(size="tiny"),
            run,
            tokenizer=chat_model,
            engine=TORCH,
            placement=HERE,
        )
