"""Bad input ends in one line with the remedy and exit code 2, and leaves nothing half-written."""

import errno
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import durable
from data.tokenizer import train_tokenizer
from rlhf.cli.main import main
from tests.cli.conftest import MicroRun

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed]  # they read what a whole run left
Words = Sequence[str | Path]


def refused(words: Words, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line about a command that ends with exit code 2."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    message = capsys.readouterr().err.strip()
    assert "Traceback" not in message
    assert len(message.splitlines()) == 1, message
    return message


def sft(run: MicroRun, out: Path, *more: str) -> list[str | Path]:
    """A fine-tuning command that would work."""
    model, data = run.out / "pretrain" / "model", run.out / "world" / "demonstrations"
    return [
        "sft",
        "--model",
        model,
        "--data",
        data,
        "--out",
        out,
        "--placement.ray",
        "false",
        *more,
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train.epohs", "3"], "unknown key 'train.epohs'; did you mean 'train.epochs'?"),
        (["--train.epochs", "-1"], "epochs is -1.0; it must be above 0"),
        (["--train.batch_rows", "0"], "batch_rows is 0; it must be above 0"),
        (["--train.optim.lr", "-3"], "lr is -3.0; it must be 0 or more"),
        (["--train.epochs", "many"], "train.epochs: expected a float; got many"),
        (["--engine.zero_stage", "5"], "zero_stage is 5; ZeRO has stages 0 to 3"),
        (["--placement.workers", "2"], "without Ray there is exactly one"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_settings(
    micro_run: MicroRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    out = tmp_path / "out"
    assert said in refused(sft(micro_run, out, *words), capsys)
    assert not out.exists()


def test_missing_model(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sft(micro_run, tmp_path / "out", "--model", str(tmp_path / "nothing"))
    assert f"at '{tmp_path / 'nothing'}'" in refused(words, capsys)


def test_missing_data(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sft(micro_run, tmp_path / "out", "--data", str(tmp_path / "nothing"))
    assert str(tmp_path / "nothing") in refused(words, capsys)
    assert not (tmp_path / "out").exists()


def test_rows_of_another_kind(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reward", "train", "--data", micro_run.out / "world" / "prompts", "--out", tmp_path]
    assert "holds prompts; comparisons need a dataset of their own" in refused(words, capsys)


def test_parquet_of_another_schema(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "comparisons"
    shutil.copytree(micro_run.out / "collect" / "comparisons", data)
    for path in data.glob("**/*.parquet"):
        pq.write_table(pa.table({"question": ["hi"]}), path)
    message = refused(["reward", "train", "--data", data, "--out", tmp_path / "out"], capsys)
    assert str(data) in message
    assert not (tmp_path / "out").exists()


def test_tokenizer_that_does_not_fit_the_model(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(micro_run.out / "pretrain" / "model", model)
    corpus = (micro_run.out / "world" / "corpus.txt").read_text().splitlines()
    train_tokenizer(corpus[:150], 400).save(model)
    message = refused(sft(micro_run, tmp_path / "out", "--model", str(model)), capsys)
    assert "has 400 ids, the model beside it 512" in message


def test_tokenizers_of_two_models_that_must_agree(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards = tmp_path / "reward"
    shutil.copytree(micro_run.out / "reward", rewards)
    corpus = (micro_run.out / "world" / "corpus.txt").read_text().splitlines()
    train_tokenizer(corpus[:150], 512).save(rewards / "helpfulness" / "model")
    words = ["ppo", "--model", micro_run.out / "sft" / "model", "--rewards", rewards]
    words += ["--prompts", micro_run.out / "world" / "prompts", "--out", tmp_path / "out"]
    assert "have different tokenizers" in refused(words, capsys)


def test_place_that_cannot_be_written(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "a file"
    blocked.touch()  # root may write everywhere, but nobody can make a folder in a file
    message = refused(sft(micro_run, blocked / "out"), capsys)
    assert str(blocked) in message


def test_full_disk(
    micro_run: MicroRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(temporary: Path, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(durable, "put_in_place", full)
    out = tmp_path / "out"
    message = refused(sft(micro_run, out), capsys)
    assert "No space left on device" in message
    assert "free some space and run the command again" in message
    assert not (out / "config.yaml").exists()


def test_ray_that_cannot_be_reached(
    micro_run: MicroRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
        words = sft(micro_run, tmp_path / "out")
        words[words.index("false")] = "true"
        assert "cannot be reached" in refused(words, capsys)


def test_directory_that_holds_another_run(
    micro_run: MicroRun, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(sft(micro_run, micro_run.out / "sft"), capsys)
    assert "holds another run" in message
    assert "choose another --out" in message


def test_debug_shows_the_traceback(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*sft(micro_run, tmp_path / "out", "--train.epohs", "3"), "--debug"]
    assert main([str(word) for word in words]) == 2
    assert "Traceback" in capsys.readouterr().err
