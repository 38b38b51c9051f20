"""`rlhf reward train | evaluate | score` on random models of some ten thousand weights."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from data.dataset import publish
from data.schemas import Comparison, Message
from rlhf.cli.main import main
from tests.reward.tiny import write_language_model

Make = Callable[..., Comparison]
HERE = ["--placement.ray", "false"]
STRENGTHS = ("significantly_better", "better", "slightly_better", "negligibly_better")


@pytest.fixture
def datasets(tmp_path: Path, make_comparison: Make) -> dict[str, Path]:
    """An own dataset of both domains and an open one, each with three splits."""
    found = {}
    for place, name in enumerate(("own", "open")):
        directory = tmp_path / name
        for part, split in enumerate(("train", "validation", "test")):
            rows = [_comparison(make_comparison, 100 * place + 30 * part + n) for n in range(24)]
            publish(directory, rows, Comparison, split=split, key=split)  # type: ignore[arg-type]
        found[name] = directory
    return found


def _comparison(make: Make, number: int) -> Comparison:
    labels = ("both_safe", "chosen_safe_only", "both_unsafe")
    return make(
        number,
        domain="safety" if number % 2 else "helpfulness",
        safety_label=labels[number // 2 % 3] if number % 2 else None,
        strength=STRENGTHS[number % 4],
        source="ab"[number % 2],
        rejected=(Message("assistant", f"bad {number} " * (number % 5 + 1)),),
    )


@pytest.fixture
def chat_model(tmp_path: Path) -> Path:
    return write_language_model(tmp_path / "chat")


def train_words(model: Path, data: Path, out: Path, *more: str) -> Sequence[str]:
    words = ["reward", "train", "--model", model, "--data", data, "--out", out, *HERE, *more]
    return [str(word) for word in words]


def test_train_with_open_data(
    datasets: dict[str, Path], chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_data = json.dumps({str(datasets["open"]): 2})
    out = tmp_path / "run"
    words = train_words(chat_model, datasets["own"], out, "--open_data", open_data)
    assert main([*words, "--train.batch_pairs", "8"]) == 0, capsys.readouterr().err
    told = " ".join(capsys.readouterr().err.split())
    # helpfulness: 12 own, as many of the rest; safety: 12 own and 12 open twice, 36 · 10 / 90 others
    assert "comparisons 24" in told and "comparisons 40" in told
    assert set(json.loads((out / "accuracy.json").read_text())) >= {"helpfulness", "safety"}


def test_a_leaking_test_split_is_refused(
    datasets: dict[str, Path],
    chat_model: Path,
    tmp_path: Path,
    make_comparison: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    leak = replace(_comparison(make_comparison, 61), comparison_id="leak")  # is in own's test split
    publish(datasets["open"], [leak], Comparison, split="train", key="more")
    out = tmp_path / "run"
    open_data = json.dumps({str(datasets["open"]): 1.0})
    words = train_words(chat_model, datasets["own"], out, "--open_data", open_data)
    assert main(words) == 2
    message = capsys.readouterr().err.strip()
    assert "have a prompt of the test split" in message and "'leak'" in message
    assert len(message.splitlines()) == 1 and not out.exists()


def test_a_weight_above_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "train", "--data", "x", "--open_data", '{"y": 0}']) == 2
    assert "open_data.y is 0.0; a weight must be above 0" in capsys.readouterr().err
