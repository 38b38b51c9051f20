"""Pretraining on plain text."""

import gzip
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
import yaml

import policy.pretrain
from data.errors import ConfigError
from data.texts import open_corpus
from data.tokenizer import Tokenizer
from policy.language_task import LanguageTask, steps_for
from policy.pretrain import PretrainConfig, pretrain
from rlhf.cli.main import main
from rlhf.cli.parsing import parse
from rlhf.cli.pretrain import PretrainCommand
from rlhf.engine.optim import OptimConfig, learning_rate
from rlhf.metrics import read_metrics
from rlhf.model.heads import LanguageModel
from rlhf.model.weights import load_language_model
from rlhf.run import Run, read_json
from rlhf.training import LoopConfig, TrainWorker
from tests.policy.in_process import HERE
from tests.reward.tiny import TORCH, VOCAB_SIZE

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("RLHF_SHARED_DATA", ROOT.parent / "shared" / "data"))
SHAKESPEARE = SHARED / "corpus" / "input.txt.gz"
NANOGPT = 1.88
"""Nats per character on the last tenth of tiny Shakespeare, by nanoGPT's README."""
TEXTS = [f"the quick brown fox jumps over the lazy dog {n % 3}" for n in range(20)]
CONFIG = PretrainConfig(
    size="tiny",
    row_length=64,
    batch_rows=4,
    micro_batch_rows=4,
    epochs=4.0,
    optim=OptimConfig(lr=3e-3, eps=1e-8),
)


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS))
    return path


@pytest.fixture
def learn(tmp_path: Path, corpus_file: Path, chat_model: Path) -> Any:
    """`learn("name", config)`: figures and run of pretraining on the corpus file."""

    def run_it(name: str, config: PretrainConfig = CONFIG) -> tuple[dict[str, float], Run]:
        run = Run(tmp_path / name, "pretrain", {})
        corpus = open_corpus(corpus_file)
        figures = pretrain(corpus, config, run, tokenizer=chat_model, engine=TORCH, placement=HERE)
        return figures, run

    return run_it


def test_a_model_learns_its_corpus(learn: Any) -> None:
    figures, run = learn("run")
    assert figures["validation/loss"] < 2.0  # log 352 = 5.9 to begin with
    assert read_metrics(run.directory)[-1]["validation/loss"] == figures["validation/loss"]
    assert load_language_model(run.model).config.vocab_size == VOCAB_SIZE
    assert "training" in (run.directory / "loss.svg").read_text()
    assert not (run.directory / "tokens").exists()  # of no use any more


def test_every_token_of_a_pass_is_taken_in(learn: Any, chat_model: Path) -> None:
    ids = Tokenizer.load(chat_model).encode_batch(TEXTS)
    figures, _ = learn("run", replace(CONFIG, epochs=1.0, batch_rows=1, validation_share=0.1))
    held_out = {0, 10}  # every tenth
    assert figures["tokens"] == sum(len(x) + 2 for n, x in enumerate(ids) if n not in held_out)


def test_resuming_equals_never_having_stopped(
    learn: Any, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, loop=LoopConfig(log_every=2, checkpoint_every=2))
    whole, through = learn("whole", config)
    steps = TrainWorker.train

    def stops(self: TrainWorker, first: int, last: int) -> Any:
        if first == 4:
            raise KeyboardInterrupt
        return steps(self, first, last)

    monkeypatch.setattr(TrainWorker, "train", stops)
    with pytest.raises(KeyboardInterrupt):
        learn("parts", config)
    monkeypatch.setattr(TrainWorker, "train", steps)
    monkeypatch.setattr("data.token_cache._encoded", None)  # the corpus is not read again
    parts, again = learn("parts", config)
    assert parts == whole
    ours, theirs = (load_language_model(run.model).state_dict() for run in (again, through))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[LanguageTask]:
    """What would be trained; training stops before it begins."""
    tasks: list[LanguageTask] = []

    def stop(task: LanguageTask, *_: Any, **__: Any) -> None:
        tasks.append(task)
        raise KeyboardInterrupt

    monkeypatch.setattr(policy.pretrain, "train", stop)
    return tasks


def test_the_shape_follows_the_tokenizer(learn: Any, tasks: list[LanguageTask]) -> None:
    with pytest.raises(KeyboardInterrupt):
        learn("run")
    (task,) = tasks
    assert isinstance(task.build(), LanguageModel)
    assert task.start.vocab_size == VOCAB_SIZE  # type: ignore[union-attr]


def test_no_document_is_longer_than_the_context(
    learn: Any, corpus_file: Path, tasks: list[LanguageTask]
) -> None:
    """Nano's, of 64 tokens, in the paper's rows of 4096."""
    corpus_file.write_text("\n".join([" ".join(TEXTS)] * 3))
    with pytest.raises(KeyboardInterrupt):
        learn("run", PretrainConfig(size="nano"))
    row = tasks[0].train.select(np.arange(1))
    assert row.tokens.shape == (1, 4096)
    assert max(np.bincount(row.documents[row.documents >= 0])) == 64


def test_nothing_to_learn(learn: Any, corpus_file: Path) -> None:
    corpus_file.write_text("one")  # the held-out document is the only one
    with pytest.raises(ConfigError, match="nothing to train on"):
        learn("run")


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_a_share_that_every_so_many_documents_cannot_be(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"^validation_share is {share}; it must be at least 0"):
        PretrainConfig(validation_share=share)


@pytest.mark.parametrize(("size", "rate"), [("7b", 3e-4), ("13b", 3e-4), ("70b", 1.5e-4)])
def test_configs_of_the_paper(size: str, rate: float) -> None:
    path = ROOT / "configs" / size / "pretrain.yaml"
    words = ["--config", str(path), "--corpus", "c", "--tokenizer", "t"]
    train = parse(PretrainCommand, words, prog="rlhf pretrain").train
    assert (train.size, train.optim.lr, train.epochs) == (size, rate, 1.0)
    assert train.batch_rows * train.row_length == 4 * 2**20  # 4M tokens a step
    num_steps = steps_for(2 * 10**12 // train.row_length, train.batch_rows, train.epochs)
    assert num_steps == 476_837
    assert learning_rate(train.optim, 1999, num_steps) == rate  # warmed up after 2000 steps
    assert learning_rate(train.optim, 1998, num_steps) < rate
    assert learning_rate(train.optim, num_steps, num_steps) == pytest.approx(0.1 * rate)


def test_the_command_takes_several_files_and_says_where_the_curve_is(
    corpus_file: Path, chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "more.parquet"
    pq.write_table(pa.table({"body": ["a lazy dog", "a quick fox"]}), table)
    out = tmp_path / "run"
    words = ["pretrain", "--train.size", "tiny", "--train.row_length", "64", "--out", str(out)]
    words += ["--train.batch_rows", "1", "--tokenizer", str(chat_model)]
    words += ["--placement.ray", "false", "--corpus", f"[{corpus_file}, {table}]"]
    assert main(words) == 2
    assert "has no column 'text' of text; it has body" in capsys.readouterr().err
    assert main([*words, "--column", "body"]) == 0  # the failed start is begun anew
    told = " ".join(capsys.readouterr().err.split())
    assert f"loss curve {out / 'loss.svg'}" in told
    assert re.search(r"about [\d.]+ Wh, [\d.]+ g CO2eq", told)
    ids = Tokenizer.load(chat_model).encode_batch([*TEXTS, "a lazy dog", "a quick fox"])
    # a 50th is held out: the first document
    assert read_json(out / "finished.json")["tokens"] == sum(len(x) + 2 for x in ids[1:])


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of configs/tiny/characters.yaml."""
    if not SHAKESPEARE.exists():
        pytest.skip("the corpus is not here")
    out = tmp_path_factory.mktemp("characters") / "tokenizer"
    config = str(ROOT / "configs" / "tiny" / "characters.yaml")
    words = ["tokenizer", "train", "--config", config, "--input", str(SHAKESPEARE)]
    assert main([*words, "--out", str(out)]) == 0
    return out


def test_a_token_is_a_character_of_shakespeare(characters: Path) -> None:
    text = gzip.decompress(SHAKESPEARE.read_bytes()).decode()
    ids = Tokenizer.load(characters).encode(text)
    assert len(ids) == len(text) + 1  # a blank before the text
    assert len(set(ids)) == len(set(text)) == 65


def nats_as_nanogpt_counts(model: LanguageModel, ids: list[int]) -> float:
    """Mean cross-entropy of windows of 64 targets, each predicted from the 1 to 64 before it."""
    windows = torch.tensor(ids[: len(ids) // 65 * 65]).view(-1, 65)
    with torch.no_grad():
        losses = [
            F.cross_entropy(
                model.lm_head(model.model(part[:, :-1])).flatten(0, 1), part[:, 1:].flatten()
            )
            for part in windows.split(128)[:-1]  # of equal size
        ]
    return float(torch.stack(losses).mean())


@pytest.mark.slow  # one and a half minutes on two cores: the whole of nanoGPT's run
@pytest.mark.timeout(1200)  # five minutes on cores that others share
def test_shakespeare_is_learned_as_well_as_by_nanogpt(characters: Path, tmp_path: Path) -> None:
    config = ROOT / "configs" / "tiny" / "shakespeare.yaml"
    words = ["pretrain", "--config", str(config), "--corpus", str(SHAKESPEARE)]
    words += ["--tokenizer", str(characters), "--placement.ray", "false"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert read_metrics(tmp_path / "run")[-1]["step"] == 2000
    loss = read_json(tmp_path / "run" / "finished.json")["validation/loss"]
    assert loss <= NANOGPT
    text = gzip.decompress(SHAKESPEARE.read_bytes()).decode()
    held_out = Tokenizer.load(characters).encode(text[int(0.9 * len(text)) :])
    model = load_language_model(tmp_path / "run" / "model")
    assert nats_as_nanogpt_counts(model, held_out) == pytest.approx(loss, abs=0.02)


def test_the_config_of_shakespeare_is_nanogpts() -> None:
    config = yaml.safe_load((ROOT / "configs" / "tiny" / "shakespeare.yaml").read_text())
    train = config["train"]
    assert (train["row_length"], train["batch_rows"]) == (64, 12)
    assert train["optim"]["lr"] == 1e-3 and train["optim"]["betas"] == [0.9, 0.99]
    # 1,115,394 characters, BOS, a blank for each of the two blocks, EOS: 17,429 rows, the last
    # tenth held out
    rows = 17_429 - round(17_429 / 10)
    assert round(rows * train["epochs"] / 12) == 2000
    assert round(2000 * train["optim"]["warmup_ratio"]) == 100
