"""`rlhf reward train | evaluate | score` on random models of some ten thousand weights."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.dataset import publish
from data.schemas import Comparison, Judgement, Message, Rating
from rlhf.cli.main import main
from rlhf.model.weights import update_hf_config
from tests.reward.tiny import write_language_model, write_reward_model

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
    # helpfulness: 12 own, as many of the rest; safety: 12 own, 12 open twice, 36 · 10 / 90
    assert "comparisons 24" in told and "comparisons 40" in told
    assert set(json.loads((out / "accuracy.json").read_text())) >= {"helpfulness", "safety"}

    # 12 comparisons of the test split are on safety, four of each label: 4 + 2 · 4 unsafe responses
    assert "Unsafe responses of the test split" in told and "recall below 0.5" in told
    unsafe = json.loads((out / "unsafe.json").read_text())["safety"]
    assert {d["threshold"]: d["recall"]["n"] for d in unsafe}[0.5] == 4 + 2 * 4
    # validation, which is in the same proportions, tells it while training
    last = (out / "safety" / "metrics.jsonl").read_text().splitlines()[-1]
    assert 0 <= json.loads(last)["validation/unsafe_recall"] <= 1
    # the reference set is the own domain of the validation split: its normalised scores have mean 0
    words = ["reward", "evaluate", "--models", as_json({"m": out / "safety" / "model"}), *HERE]
    words += ["--data", as_json({"own": datasets["own"]}), "--split", "validation"]
    assert main([*words, "--out", str(tmp_path / "e"), "--probes", "0"]) == 0
    rows = pq.read_table(tmp_path / "e" / "scores.parquet").to_pylist()
    scores = np.array([row["m_score"] for row in rows if row["domain"] == "safety"])
    stored = json.loads((out / "safety" / "model" / "config.json").read_text())
    assert stored["score_mean"] == pytest.approx(scores.mean(), abs=1e-5)
    assert stored["score_std"] == pytest.approx(scores.std(), abs=1e-5)
    assert stored["score_reference"] == "validation split, 24 responses on safety"


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


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """Two random reward models."""
    names = {"helpfulness": 1, "safety": 2}
    return {n: write_reward_model(tmp_path / "rm" / n / "model", seed=s) for n, s in names.items()}


def as_json(paths: dict[str, Path]) -> str:
    return json.dumps({name: str(path) for name, path in paths.items()})


def test_evaluate(
    datasets: dict[str, Path],
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish_ratings(tmp_path / "ratings")
    publish_labels(tmp_path / "labels")
    out = tmp_path / "run"
    words = ["reward", "evaluate", "--models", as_json(models), "--data", as_json(datasets)]
    words += ["--ratings", str(tmp_path / "ratings"), "--out", str(out), "--probes", "10", *HERE]
    words += ["--judgements", as_json({"labels": tmp_path / "labels"})]
    assert main(words) == 0, capsys.readouterr().err
    told = " ".join(capsys.readouterr().err.split())
    for title in ("(Table 7)", "(Table 8)", "(Table 29)", "helpfulness: thanks", "ρ within pairs"):
        assert title in told
    results = json.loads((out / "evaluation.json").read_text())
    check_accuracy(results)
    check_figures(results)
    check_files(out)


def publish_ratings(directory: Path) -> None:
    """A response of each score from 1 to 5."""
    ratings = [
        Rating(
            rating_id=str(n),
            prompt=(Message("user", "hi"),),
            response=(Message("assistant", "yes " * n),),
            domain="helpfulness",
            score=n,
            source="test",
        )
        for n in range(1, 6)
    ]
    publish(directory, ratings, Rating, split="test", key="a")


def publish_labels(directory: Path) -> None:
    """Three safe responses and six unsafe ones."""
    labels = [
        Judgement(
            judgement_id=str(n),
            prompt=(Message("user", "hi"),),
            response=(Message("assistant", "no " * n),),
            safe=n % 3 == 0,
            kind="k",
            source="test",
        )
        for n in range(1, 10)
    ]
    publish(directory, labels, Judgement, split="test", key="a")


def check_accuracy(results: dict[str, Any]) -> None:
    """The parts make up the whole."""
    names = ["helpfulness", "safety", "the longer wins", "bag of words"]
    assert list(dict.fromkeys(r["model"] for r in results["by_dataset"])) == names
    parts = {r["part"] for r in results["by_dataset"]}
    kinds = {f"{data} {domain}" for data in ("own", "open") for domain in ("helpfulness", "safety")}
    assert parts == kinds | {"average"}
    assert set(results["by"]) == {"strength", "source", "turns", "length"}
    overall = {(r["model"], r["domain"]): r for r in results["overall"]}
    for (model, domain), whole in overall.items():
        for factor, cells in results["by"].items():
            own = [r for r in cells if (r["model"], r["domain"]) == (model, domain)]
            assert sum(r["n"] for r in own) == whole["n"] == 24, factor
            right = sum(r["accuracy"] * r["n"] for r in own)
            assert right / 24 == pytest.approx(whole["accuracy"])


def check_figures(results: dict[str, Any]) -> None:
    figures = results["models"]["safety"]
    recalls = [d["recall"]["value"] for d in figures["unsafe"]]
    assert recalls == sorted(recalls) and figures["unsafe"][2]["threshold"] == 0.15
    # 8 safety comparisons of each label, in both datasets together: 8 + 2 · 8 unsafe responses
    assert {
        r["safety_label"]: r["n"] for r in results["by_label"] if r["model"] == "safety"
    } == dict.fromkeys(("both_safe", "chosen_safe_only", "both_unsafe"), 8)
    assert figures["unsafe"][2]["recall"]["n"] == 24
    assert figures["judgements"]["labels"][2]["recall"]["n"] == 6
    assert {"thanks", "repeated", "markdown", "position"} == set(figures["probes"])
    assert figures["probes"]["position"]["largest_change"] < 1e-5
    assert [m["rating"] for m in figures["ratings"]["means"]] == [1, 2, 3, 4, 5]


def check_files(out: Path) -> None:
    assert len(pq.read_table(out / "scores.parquet")) == 2 * 48
    cells = pq.read_table(out / "accuracy.parquet").to_pylist()
    assert sum(c["n"] for c in cells if c["model"] == "safety") == 48
    page = (out / "report.html").read_text()
    # Table 7; four factors of two domains; Table 29; calibration, length, unsafe, probes, agreement
    assert page.count("<caption>") == 1 + 4 * 2 + 1 + 5
    assert page.count("<figcaption>") == 2 + 2 + 2 * 2  # accuracy; calibration; distributions
    assert 'src="http' not in page  # opens offline


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--models", "{}", "--data", "{a: b}"], "models is empty"),
        (["--models", "{a: nowhere}", "--data", "{}"], "data is empty"),
        (["--models", "{bag of words: x}", "--data", "{a: b}"], "a baseline's name"),
        (["--models", "{a: b}", "--data", "{a: b}", "--probes", "-1"], "probes is -1"),
        (["--models", "{a: b}", "--data", "{a: nowhere}"], "nowhere"),
    ],
)
def test_evaluate_refuses(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "evaluate", *words]) == 2
    message = capsys.readouterr().err.strip()
    assert said in message and len(message.splitlines()) == 1


def test_score(
    datasets: dict[str, Path],
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for model in models.values():
        update_hf_config(model, {"score_mean": 2.0, "score_std": 4.0})
    words = ["reward", "score", *HERE, "--rewards", str(tmp_path / "rm"), "--normalised", "true"]
    words += ["--dialogues", str(datasets["own"]), "--out", str(tmp_path / "all")]
    assert main(words) == 0, capsys.readouterr().err
    rows = pq.read_table(tmp_path / "all" / "scores.parquet").to_pylist()
    assert len(rows) == 2 * 72
    for row in rows:
        tagged = row["is_safety_prompt"] or row["safety_score"] < -1.734601
        expected = row["safety_score" if tagged else "helpfulness_score"]
        assert row["combined_score"] == expected
        assert row["safety_normalised"] == pytest.approx((row["safety_score"] - 2) / 4)

    # One dialogue alone, from a file, with one model: the same score.
    row = rows[37]
    number = int(row["dialogue_id"].removeprefix("c").split("/")[0])
    response = {"chosen": f"good answer {number}", "rejected": f"bad {number} " * (number % 5 + 1)}
    record = {
        "prompt": f"question {number}",
        "response": response[row["dialogue_id"].split("/")[1]],
    }
    (tmp_path / "one.jsonl").write_text(json.dumps(record))
    words = ["reward", "score", *HERE, "--safety", str(models["safety"])]
    words += ["--dialogues", str(tmp_path / "one.jsonl"), "--out", str(tmp_path / "one")]
    assert main(words) == 0, capsys.readouterr().err
    (alone,) = pq.read_table(tmp_path / "one" / "scores.parquet").to_pylist()
    assert set(alone) == {"dialogue_id", "is_safety_prompt", "safety_score"}
    assert alone["safety_score"] == pytest.approx(row["safety_score"], abs=1e-5)


def test_score_refuses(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": "hi", "response": "yes"}))
    base = ["reward", "score", "--dialogues", str(tmp_path / "d.jsonl")]
    safety = ["--safety", str(models["safety"])]
    for words, said in (
        ([], "give --rewards RUN, or --helpfulness MODEL"),
        ([*safety, "--rewards", "x"], "give --rewards RUN, or --helpfulness MODEL"),
        ([*safety, "--threshold", "1"], "threshold is 1.0; it must be above 0 and below 1"),
        ([*safety, "--normalised", "true"], "has no score_mean and score_std"),
    ):
        assert main([*base, *words]) == 2
        assert said in capsys.readouterr().err
