"""Inputs of small commands on two workers, and what they give when nothing goes wrong."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.dataset import publish
from data.schemas import DOMAINS, Demonstration, Message, Prompt
from reward.score import model_directory
from tests.faults.command import Command
from tests.reward.tiny import write_language_model, write_reward_model

Start = Callable[..., Command]
TWO = ["--placement.workers", "2"]
EVERY = 5
"""Steps between checkpoints, and between lines of metrics: a call of half a second or more."""


@dataclass(frozen=True)
class Inputs:
    """What the commands read."""

    root: Path

    def sft(self, out: Path, *more: str) -> list[str]:
        """Fifteen steps of 32 rows."""
        return [
            "sft", *TWO, "--out", str(out), "--model", str(self.root / "model"),
            "--data", str(self.root / "demonstrations"),
            "--train.row-length", "160", "--train.batch-rows", "32", "--train.epochs", "7.5",
            "--train.loop.log-every", str(EVERY), "--train.loop.checkpoint-every", str(EVERY),
            *more,
        ]  # fmt: skip

    def evaluated(self, out: Path) -> list[str]:
        """Two steps, the first of them kept, and an evaluation of many seconds."""
        return self.sft(
            out, "--data", str(self.root / "evaluated"), "--train.epochs", "1",
            "--train.loop.checkpoint-every", "1",
        )  # fmt: skip

    def ppo(self, out: Path, *more: str) -> list[str]:
        """Three iterations with a checkpoint after each, the weights in parts."""
        return [
            "ppo", *TWO, "--out", str(out), "--model", str(self.root / "model"),
            "--rewards", str(self.root / "rewards"), "--prompts", str(self.root / "prompts"),
            "--engine.zero-stage", "3", "--train.iterations", "3",
            "--train.prompts-per-iteration", "16", "--train.minibatch-size", "4",
            "--train.sampling.max-new-tokens", "64", "--train.checkpoint-every", "1",
            "--train.optim.lr", "1e-3", *more,
        ]  # fmt: skip


@pytest.fixture(scope="package")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Random models, 64 dialogues of about a row each, 16 prompts."""
    root = tmp_path_factory.mktemp("inputs")
    write_language_model(root / "model")
    for seed, domain in enumerate(DOMAINS):
        write_reward_model(model_directory(root / "rewards", domain), seed=seed)
    for name, held_out in (("demonstrations", 2), ("evaluated", 4000)):
        _publish_demonstrations(root / name, "train", 64)
        _publish_demonstrations(root / name, "validation", held_out)
    prompts = [
        Prompt(
            prompt_id=f"p{n}",
            prompt=(Message("user", "a quick fox jumps"[: n + 1]),),
            domain=DOMAINS[n % 2],
            kind="test",
            source="test",
        )
        for n in range(16)
    ]
    publish(root / "prompts", prompts, Prompt, split="train", key="prompts")
    return Inputs(root)


def _publish_demonstrations(directory: Path, split: str, number: int) -> None:
    rows = [
        Demonstration(
            demonstration_id=f"{split}{n}",
            messages=(
                Message("user", f"please, number {n}"),
                Message("assistant", f"{n} foxes jump over the lazy dog " * 8),
            ),
            domain="helpfulness",
            source="test",
        )
        for n in range(number)
    ]
    publish(directory, rows, Demonstration, split=split, key=split)  # type: ignore[arg-type]


@contextmanager
def _commands() -> Iterator[Start]:
    """Commands that end with the block whatever happens in it."""
    directory = Path(tempfile.mkdtemp(prefix="ray-"))  # sockets need a short path
    with ExitStack() as stack:
        yield lambda words: stack.enter_context(Command(words, directory))
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(words)`: a running command, which ends with the test."""
    with _commands() as start:
        yield start


@pytest.fixture(scope="module")
def start_once() -> Iterator[Start]:
    """The same for a whole module."""
    with _commands() as start:
        yield start
