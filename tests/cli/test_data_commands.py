"""`rlhf data import hh-rlhf`, `stats` and `validate` as they are typed."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data.dataset import publish
from data.schemas import Comparison
from rlhf.cli.main import main


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns, whatever the tests run in."""
    monkeypatch.setenv("COLUMNS", "80")


def transcript(number: int, reply: str) -> str:
    return f"\n\nHuman: Question {number}?\n\nAssistant: {reply}"


@pytest.fixture
def hh_files(tmp_path: Path) -> list[str]:
    """20 lines each of helpful-base and harmless-base; the last of each has equal replies."""
    paths = []
    for name in ("helpful-base", "harmless-base"):
        path = tmp_path / "hh" / f"{name}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        records = [
            {"chosen": transcript(n, "yes"), "rejected": transcript(n, "no" if n < 19 else "yes")}
            for n in range(20)
        ]
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
        paths.append(str(path))
    return paths


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_import_stats_validate(
    tmp_path: Path, hh_files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ds"
    assert run("data", "import", "hh-rlhf", *hh_files, "--out", out) == 0
    printed = capsys.readouterr().out
    for words in (
        "hh/helpful-base.jsonl.gz",
        "kept 19",
        "dropped: identical 1",
        "dropped: malformed 0",
    ):
        assert words in " ".join(printed.split())
    assert "train validation test total" in " ".join(printed.split())
    assert len((out / "dropped.jsonl").read_text().splitlines()) == 2

    assert run("data", "stats", out, "--json", tmp_path / "stats.json") == 0
    printed = " ".join(capsys.readouterr().out.split())
    # "Question 7 ?" is 3 words, "yes" and "no" are one each
    assert "hh-rlhf/harmless-base 19 1.0 4.0 3.0 1.0" in printed
    assert "Total 38 1.0 4.0 3.0 1.0" in printed
    assert "tokens are words and punctuation marks; the import was given no tokenizer" in printed
    assert "strength: recorded for none" in printed
    figures = json.loads((tmp_path / "stats.json").read_text())
    assert figures["total"]["comparisons"] == 38
    assert figures["sources"][1]["source"] == "hh-rlhf/helpful-base"
    assert figures["distributions"]["domain"] == {"helpfulness": 19, "safety": 19}

    assert run("data", "validate", out) == 0
    assert capsys.readouterr().out.startswith("no faults: 38 comparisons in ")


def test_import_with_a_tokenizer(
    tmp_path: Path, shared_data: Path, hh_files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = shared_data / "llama-tokenizer" / "tokenizer.model"
    words = ["data", "import", "hh-rlhf", hh_files[0], "--out", tmp_path / "ds"]
    assert run(*words, "--tokenizer", tokenizer) == 0
    assert run("data", "stats", tmp_path / "ds") == 0
    printed = " ".join(capsys.readouterr().out.split())
    # Llama's tokenizer splits digits and spends a piece on the space before them:
    # ▁Question ▁ 7 ? is 4 pieces, one more for 10 to 18: 4 + 9/19 = 4.5
    assert "hh-rlhf/helpful-base 19 1.0 5.5 4.5 1.0" in printed
    assert "tokens are pieces of the tokenizer with hash " in printed


def test_an_import_that_fails_leaves_nothing(tmp_path: Path, hh_files: list[str]) -> None:
    (tmp_path / "helpful-broken.jsonl.gz").write_bytes(Path(hh_files[0]).read_bytes()[:-20])
    words = ["data", "import", "hh-rlhf", hh_files[0], tmp_path / "helpful-broken.jsonl.gz"]
    assert run(*words, "--out", tmp_path / "ds") == 2
    assert not (tmp_path / "ds").exists()


def test_import_says_what_is_wrong(
    tmp_path: Path, hh_files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "ds"]
    (tmp_path / "mine.jsonl").write_text(json.dumps({"chosen": "x", "rejected": "y"}))
    cases: list[tuple[list[object], str]] = [
        ([hh_files[0]], "missing: out"),
        ([*out], "missing: files"),
        (["nowhere.gz", *out], "'nowhere.gz' is no file; check the path"),
        ([tmp_path / "mine.jsonl", *out], "say --domain safety or --domain helpfulness"),
        (
            [tmp_path / "mine.jsonl", *out, "--domain", "safety"],
            "holds no record of this format in its 1",
        ),
        ([hh_files[0], *out, "--test", "0.9", "--validation", "0.1"], "try 0.1 and 0.2"),
        ([hh_files[0], *out, "--tokenizer", "nowhere"], "no tokenizer at 'nowhere'"),
        ([hh_files[0], *out, "--tests", "0.9"], "unknown key 'tests'; did you mean 'test'?"),
        (["--files", hh_files[0], *out], "unknown key 'files'; give it without '--files'"),
        ([hh_files[0], "--out", tmp_path], "is not empty and no dataset of this import"),
    ]
    for words, message in cases:
        assert run("data", "import", "hh-rlhf", *words) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("rlhf data import hh-rlhf: error: ")
        assert message in printed.err and len(printed.err.splitlines()) == 1
        assert printed.out == ""
    assert not (tmp_path / "ds").exists()


def test_the_same_import_again(tmp_path: Path, hh_files: list[str]) -> None:
    words = ["data", "import", "hh-rlhf", *hh_files, "--out", tmp_path / "ds"]
    assert run(*words) == 0
    manifest = (tmp_path / "ds" / "manifest.json").read_text()
    assert run(*words) == 0
    assert run(*words, "--seed", "1") == 2
    assert (tmp_path / "ds" / "manifest.json").read_text() == manifest


def test_stats_of_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "stats", tmp_path) == 2
    assert "has no manifest.json; `rlhf data import` makes one" in capsys.readouterr().err
    assert run("data", "stats", tmp_path, "--json", tmp_path / "no" / "x.json") == 2
    assert "its folder does not exist; make it" in capsys.readouterr().err


def test_stats_of_two_tokenizers(
    tmp_path: Path,
    make_comparison: Callable[..., Comparison],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [make_comparison(n, tokenizer_hash=f"t{n}", strength="better") for n in (1, 2)]
    publish(tmp_path, rows, Comparison, split="train", key="a")
    assert run("data", "stats", tmp_path) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Total 2 1.0 – – –" in printed
    assert "counts of different tokenizers are not mixed: their means are left out (–)" in printed
    assert "strength value comparisons share ──" in printed and "better 2 100.0%" in printed


def test_stats_shows_the_most_frequent_annotators(
    tmp_path: Path,
    make_comparison: Callable[..., Comparison],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [make_comparison(n, annotator_id=f"a{n % 25:02}") for n in range(50)]
    publish(tmp_path, rows, Comparison, split="train", key="a")
    assert run("data", "stats", tmp_path) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "a19 2 4.0% (5 others) 10 20.0%" in printed and "a20" not in printed


def test_validate_prints_every_kind_of_fault(
    tmp_path: Path,
    make_comparison: Callable[..., Comparison],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [make_comparison(n % 2) for n in range(32)]  # 30 ids come again
    publish(tmp_path, rows, Comparison, split="train", key="a")
    publish(tmp_path, [make_comparison(5)], Comparison, split="test", key="a")
    (tmp_path / "test-a.parquet").unlink()
    assert run("data", "validate", tmp_path) == 2
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "duplicate id: train-a.parquet row 2: c0 revision 0"
    assert lines[20:] == [
        "missing file: test-a.parquet: listed but not there",
        "duplicate id: and 10 more",
    ]
    assert "has 31 findings (duplicate id 30, missing file 1); mend the source" in printed.err
