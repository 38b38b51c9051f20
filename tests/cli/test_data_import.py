"""`rlhf data import generic` and `rlhf data export trl` as they are typed."""

import json
from pathlib import Path

import pytest

from data.dataset import read_rows
from data.schemas import Prompt
from rlhf.cli.main import main


def test_map_export_and_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    records = [{"q": f"q{i}", "good": "a", "bad": "b"} for i in range(30)]
    path.write_text("\n".join([*map(json.dumps, records), "not JSON"]))
    words = ["data", "import", "generic", str(path), "--domain", "safety", "--source", "mine"]
    words += ["--map", "prompt=q", "--map", "chosen=good", "--map", "rejected=bad"]
    out = tmp_path / "ds"
    assert main([*words, "--out", str(tmp_path / "no"), "--strict"]) == 2
    assert "mine.jsonl:31 is malformed" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert main([*words, "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "kept 30" in shown and "dropped: malformed 1" in shown
    assert f"malformed: {path}:31: not JSON" in shown
    assert json.loads((out / "dropped.jsonl").read_text())["line"] == 31
    assert main(["data", "export", "trl", str(out), "--out", str(tmp_path / "trl")]) == 0
    rows = [x for file in (tmp_path / "trl").iterdir() for x in file.read_text().splitlines()]
    assert len(rows) == 30 and set(json.loads(rows[0])) == {"prompt", "chosen", "rejected"}


def test_nothing_that_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": "a"}))
    words = ["data", "import", "generic", str(path), "--domain", "safety", "--source", "mine"]
    assert main([*words, "--out", str(tmp_path / "ds")]) == 2
    captured = capsys.readouterr()
    assert "kept 0" in " ".join(captured.out.split())
    assert "none of the records became a Comparison" in captured.err
    assert len((tmp_path / "ds" / "dropped.jsonl").read_text().splitlines()) == 1


def test_not_every_malformed_line_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    good = json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"})
    path.write_text("\n".join([good, *("[bold]" for _ in range(7))]))
    words = ["data", "import", "generic", str(path), "--domain", "safety", "--source", "mine"]
    assert main([*words, "--out", str(tmp_path / "ds")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2] for line in shown if line.startswith("malformed:")] == [
        *(f"mine.jsonl:{number}: [bold]" for number in range(2, 7)),
        "malformed: and 2 more, all in dropped.jsonl",
    ]
    assert len((tmp_path / "ds" / "dropped.jsonl").read_text().splitlines()) == 7


NAMED = [
    # name, files, what is printed: kept, ties, reasons of what was dropped
    (
        "tulu-humaneval",
        ["tulu-humaneval/eval_annotations_tulu_1.jsonl.gz"],
        "kept 771 ties 373 malformed 0 duplicate 5 identical 1",
    ),
    ("qa-feedback", ["qa-feedback/dev_feedback.json.gz"], "kept 2,616 ties 384 malformed 0"),
    ("oasst", ["oasst/en_100_tree.jsonl.gz"], "kept 754 ties 0 malformed 0 no rank 6"),
    ("mtbench-votes", ["mtbench-votes/human.jsonl.gz"], "kept 3,355 ties 780 malformed 0"),
    ("diasafety", ["diasafety/val.json.gz"], "kept 1,097 ties 0 malformed 0"),
    (
        "xstest",
        ["xstest/xstest_v2_completions_mistralinstruct.csv.gz"],
        "kept 425 ties 0 malformed 0 partial refusal of an unsafe prompt 25",
    ),
    (
        "hh-rlhf",
        ["hh-rlhf/harmless-base.test.jsonl.gz"],
        "kept 2,303 ties 0 malformed 0 empty reply 4 prefixes differ 5",
    ),
]


@pytest.mark.parametrize(("name", "files", "outcome"), NAMED, ids=[n[0] for n in NAMED])
def test_every_named_format_is_imported_validated_and_counted(
    name: str,
    files: list[str],
    outcome: str,
    shared_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out = tmp_path / "ds"
    words = ["data", "import", name, *(str(shared_data / f) for f in files), "--out", str(out)]
    if name == "mtbench-votes":
        words += ["--questions", str(shared_data / "mtbench-votes/question.jsonl.gz")]
    assert main(words) == 0
    printed = " ".join(capsys.readouterr().out.replace("dropped: ", "").split())
    told, _, rest = printed.partition(" rows/s ")
    rate, _, rest = rest.partition(" ")
    assert float(rate.replace(",", "")) > 100
    assert outcome in f"{told} {rest}"
    assert main(["data", "validate", str(out)]) == 0
    assert main(["data", "stats", str(out), "--json", str(tmp_path / "stats.json")]) == 0
    figures = json.loads((tmp_path / "stats.json").read_text())
    kept = int(outcome.split()[1].replace(",", ""))
    if name == "mtbench-votes":
        assert (figures["votes"], figures["judges"], figures["winners"]["tie"]) == (3355, 65, 780)
    elif name in ("diasafety", "xstest"):
        assert sum(kind["responses"] for kind in figures["kinds"]) == kept
    else:
        assert figures["total"]["comparisons"] == kept
        assert figures["ties"] == int(outcome.split()[3].replace(",", ""))


def test_what_stats_says_of_votes_and_judgements(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "mtbench-votes"
    votes, labels = tmp_path / "votes", tmp_path / "labels"
    words = ["data", "import", "mtbench-votes", str(folder / "human.jsonl.gz")]
    words += ["--questions", str(folder / "question.jsonl.gz"), "--out", str(votes)]
    assert main(words) == 0
    xstest = shared_data / "xstest/xstest_v2_completions_mistralinstruct.csv.gz"
    assert main(["data", "import", "xstest", str(xstest), "--out", str(labels)]) == 0
    capsys.readouterr()
    assert main(["data", "stats", str(votes)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "3,355 votes of 65 judges on 1,814 pairs" in printed and "with ties 960 65.5" in printed
    assert main(["data", "stats", str(labels)]) == 0
    # 25 prompts, of which 2 got a partial refusal; 22 of the rest were answered
    assert "contrast_definitions 23 95.7%" in " ".join(capsys.readouterr().out.split())


@pytest.mark.filterwarnings("ignore")  # datasets warns about itself
def test_tsv_and_saved_datasets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same rows as TSV, as a saved dataset and as a saved dictionary of splits."""
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(30)]
    table = tmp_path / "rows.tsv"
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    table.write_text("\n".join(lines))
    whole = datasets.Dataset.from_list(rows)
    whole.save_to_disk(str(tmp_path / "whole"))
    parts = {"train": datasets.Dataset.from_list(rows[:20]), "test": whole.select(range(20, 30))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "parts"), num_shards={"train": 2})
    manifests = []
    for path in (table, tmp_path / "whole", tmp_path / "parts"):
        words = ["data", "import", "generic", str(path), "--domain", "helpfulness"]
        out = tmp_path / "out" / path.name
        assert main([*words, "--source", "mine", "--out", str(out)]) == 0, capsys.readouterr().err
        manifest = json.loads((out / "manifest.json").read_text())
        manifests.append([{k: f[k] for k in ("path", "rows", "sha256")} for f in manifest["files"]])
    assert manifests[0] == manifests[1] == manifests[2]
    assert sum(file["rows"] for file in manifests[0]) == 30


def test_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text or messages; the user has the last word."""
    path = tmp_path / "mine.jsonl"
    two = [{"role": "user", "content": "q2"}, {"role": "assistant", "content": "a"}]
    records = [
        {"prompt": "q1"},
        {"messages": [*two, {"role": "user", "content": "q3"}]},
        {"messages": two},
        {"prompt": "  "},
        {"prompt": "q1"},
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    words = ["data", "import", "generic", str(path), "--domain", "helpfulness", "--source", "mine"]
    words += ["--rows", "prompts", "--validation", "0", "--test", "0"]
    assert main([*words, "--out", str(tmp_path / "ds")]) == 0
    assert "kept 2" in " ".join(capsys.readouterr().out.split())
    rows = read_rows(tmp_path / "ds", Prompt, "train")
    assert [[m.content for m in row.prompt] for row in rows] == [["q1"], ["q2", "a", "q3"]]
    assert {(row.domain, row.kind, row.source) for row in rows} == {("helpfulness", "mine", "mine")}
    assert len({row.prompt_id for row in rows}) == 2
