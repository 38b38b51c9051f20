"""Bad input ends in one line with the remedy and exit code 2, and leaves nothing half-written."""

import errno
import json
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import durable
from data.dataset import publish, read_rows
from data.schemas import Comparison, Message, Prompt
from data.tokenizer import train_tokenizer
from rlhf.cli.main import main
from rlhf.cli.reward_train import RewardTrainCommand, _start
from rlhf.run import Run
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
        (["--train.epoch", "3"], "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        (["--train.epochs", "-1"], "epochs is -1.0; it must be above 0"),
        (["--train.seed", "-1"], "seed is -1; it must be 0 or more"),
        (["--train.batch_rows", "0"], "batch_rows is 0; it must be above 0"),
        (["--train.optim.lr", "-3"], "lr is -3.0; it must be 0 or more"),
        (["--train.epochs", "many"], "train.epochs: expected a number; got many"),
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


@pytest.mark.parametrize("domain", ["helpfulness", "safety"])
@pytest.mark.parametrize("command", ["ppo", "rejection-sampling", "evaluate gold"])
def test_tokenizers_of_two_models_that_must_agree(
    micro_run: MicroRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    domain: str,
) -> None:
    rewards = tmp_path / "reward"
    shutil.copytree(micro_run.out / "reward", rewards)
    corpus = (micro_run.out / "world" / "corpus.txt").read_text().splitlines()
    train_tokenizer(corpus[:150], 512).save(rewards / domain / "model")
    message = refused(with_rewards(micro_run, command, tmp_path / "out", rewards), capsys)
    assert "have different tokenizers" in message
    assert domain in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["ppo", "rejection-sampling", "evaluate gold"])
def test_rewards_that_are_no_run_of_reward_models(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    rewards = micro_run.out / "sft"
    message = refused(with_rewards(micro_run, command, tmp_path / "out", rewards), capsys)
    assert f"{str(rewards)!r} holds no helpfulness/model" in message
    assert "give the directory that its --out named" in message
    assert not (tmp_path / "out").exists()


def with_rewards(run: MicroRun, command: str, out: Path, rewards: Path | None = None) -> Words:
    """A command that would work with these reward models."""
    model = "--policies.sft" if command == "evaluate gold" else "--model"
    return [
        *command.split(),
        model,
        run.out / "sft" / "model",
        "--rewards",
        rewards or run.out / "reward",
        "--prompts",
        run.out / "world" / "prompts",
        "--out",
        out,
    ]


def collect(run: MicroRun, out: Path) -> Words:
    """A command that would work."""
    model, prompts = run.out / "sft" / "model", run.out / "world" / "prompts"
    words = ["--model", model, "--other_model", model, "--prompts", prompts, "--out", out]
    return ["collect", *words]


def recall(run: MicroRun, out: Path) -> Words:
    """A command that would work."""
    world, model = run.out / "world", run.out / "sft" / "model"
    words = ["--policies.sft", model, "--dialogues", world / "dialogues", "--out", out]
    return ["evaluate", "recall", *words, "--instructions", world / "instructions.jsonl"]


@pytest.mark.parametrize("command", ["ppo", "rejection-sampling", "evaluate gold", "collect"])
def test_prompt_that_is_too_long(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    row = read_rows(micro_run.out / "world" / "prompts", Prompt, "train")[0]
    long = replace(row, prompt_id="long", prompt=(Message("user", "why? " * 400),))
    for split in ("train", "test"):
        publish(tmp_path / "prompts", [row, long], Prompt, split=split, key="k")
    out = tmp_path / "out"
    words = (
        collect(micro_run, out) if command == "collect" else with_rewards(micro_run, command, out)
    )
    message = refused([*words, "--prompts", tmp_path / "prompts"], capsys)
    assert "prompt 'long' has " in message and "is 384" in message
    assert "shorten or drop it" in message
    assert not out.exists()


@pytest.mark.parametrize("command", ["evaluate gold", "collect"])
def test_prompts_without_gold_facts(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    row = read_rows(micro_run.out / "world" / "prompts", Prompt, "test")[0]
    foreign = replace(row, prompt_id="foreign", task=None)
    publish(tmp_path / "prompts", [foreign], Prompt, split="test", key="k")
    out = tmp_path / "out"
    words = (
        collect(micro_run, out) if command == "collect" else with_rewards(micro_run, command, out)
    )
    message = refused([*words, "--prompts", tmp_path / "prompts"], capsys)
    assert "prompt 'foreign' carries no gold facts" in message
    assert not out.exists()


def test_runs_that_cannot_be_judged(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = with_rewards(micro_run, "evaluate gold", tmp_path / "out")
    ppo, other = micro_run.out / "ppo", micro_run.out / "rejection_sampling"
    for run in (tmp_path / "nothing", other):  # no samples; samples without a step
        message = refused([*words, "--ppo_runs.ppo", run], capsys)
        assert f"ppo_runs.ppo, '{run}': there are no samples, or steps without metrics" in message
    row = read_rows(micro_run.out / "world" / "prompts", Prompt, "test")[0]
    for split in ("train", "test"):
        publish(tmp_path / "prompts", [row], Prompt, split=split, key="k")
    words = [*words, "--prompts", tmp_path / "prompts", "--ppo_runs.ppo", ppo]
    assert "is not among the training prompts" in refused(words, capsys)
    assert not (tmp_path / "out").exists()


def test_recall_that_cannot_be_measured(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = recall(micro_run, tmp_path / "out")
    unseen = tmp_path / "instructions.jsonl"
    unseen.write_text(json.dumps({"instruction": "Be brief."}) + "\n")
    assert "has no marker" in refused([*words, "--instructions", unseen], capsys)
    demonstrations = read_rows(micro_run.out / "world" / "dialogues", Prompt, "train")[:2]
    publish(tmp_path / "dialogues", demonstrations, Prompt, split="train", key="k")
    message = refused([*words, "--dialogues", tmp_path / "dialogues"], capsys)
    assert "there are no dialogues in that split" in message
    assert "policies is empty" in refused([*words[:2], *words[4:], "--policies", "{}"], capsys)
    assert not (tmp_path / "out").exists()


def test_a_domain_without_comparisons(
    micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows(micro_run.out / "collect" / "comparisons", Comparison, "train")
    own = [row for row in rows if row.domain == "helpfulness"]
    publish(tmp_path / "data", own, Comparison, split="train", key="k")
    words = ["reward", "train", "--data", tmp_path / "data", "--out", tmp_path / "out"]
    message = refused(words, capsys)
    assert "has no safety comparisons; give --domains '[helpfulness]'" in message
    remedy = [*words, "--domains", "[helpfulness]", "--model", tmp_path / "nothing"]
    assert "nothing" in refused(remedy, capsys)  # the remedy is understood
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_is_trained_once(micro_run: MicroRun, tmp_path: Path) -> None:
    config = RewardTrainCommand(data=micro_run.out / "collect" / "comparisons", vocab_size=400)
    run = Run(tmp_path, "reward train", {})
    _, directory = _start(config, run)
    trained = (directory / "tokenizer.model").stat().st_mtime_ns
    assert _start(config, run)[1] == directory
    assert (directory / "tokenizer.model").stat().st_mtime_ns == trained


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max_new_tokens", "0"], "max_new_tokens is 0; it must be above 0"),
        (["--annotators_seed", "-1"], "annotators_seed is -1; it must be 0 or more"),
        (["--judge.overlap", "7"], "overlap is 7.0; it must be in [0, 1]"),
    ],
)
def test_settings_of_a_collection(
    micro_run: MicroRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    assert said in refused([*collect(micro_run, tmp_path / "out"), *words], capsys)
    assert not (tmp_path / "out").exists()


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

    out = tmp_path / "out"
    short = ["--train.epochs", "0.1", "--train.row_length", "256", "--train.batch_rows", "4"]
    words = [str(word) for word in sft(micro_run, out, *short)]
    with monkeypatch.context() as patch:
        patch.setattr(durable, "put_in_place", full)
        message = refused(words, capsys)
    assert "No space left on device" in message
    assert "free some space and run the command again" in message
    assert not (out / "config.yaml").exists()
    assert main(words) == 0  # as the message says
    assert (out / "finished.json").exists()


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
        assert main([str(word) for word in words]) == 2
    start, message = capsys.readouterr().err.splitlines()[-2:]
    assert (
        start.startswith("joining the Ray cluster at 127.0.0.1:") and "cannot be reached" in message
    )


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
