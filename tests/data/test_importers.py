"""Every importer on the publisher's own file, and the generic one on each form."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.counting import WordCounter
from data.dataset import open_manifest
from data.errors import ConfigError, DataError
from data.importers import (
    generic,
    mtbench_votes,
    oasst,
    qa_feedback,
    safety_labels,
    tulu_humaneval,
)
from data.importers.imported import DROPPED, TIES, publish_files, reasons_of
from data.schemas import Comparison, Judgement, Message, Vote, from_table
from data.trl_export import export_trl
from data.validation import find_faults

WORDS = WordCounter()


def test_tulu_humaneval(shared_data: Path, tmp_path: Path) -> None:
    (file,) = files = tulu_humaneval.read_files(
        [shared_data / "tulu-humaneval/eval_annotations_tulu_1.jsonl.gz"], WORDS
    )
    # 1,150 records: 188 + 160 better, 235 + 191 slightly better, 376 ties.
    assert (len(file.rows), len(file.ties)) == (771, 373)
    assert reasons_of(files) == {"duplicate": 5, "identical": 1}
    assert {row.strength for row in file.rows} == {"better", "slightly_better"}
    out = tmp_path / "out"
    for _ in range(2):  # again: nothing changes
        publish_files(out, files, Comparison, name="t", validation=0.1, test=0.2, seed=0)
    assert open_manifest(out).num_rows() == 771 and not list(find_faults(out))
    ties = from_table(pq.read_table(out / TIES), Vote)
    assert len(ties) == 373 and {tie.winner for tie in ties} == {"tie"}
    assert len((out / DROPPED).read_text().splitlines()) == 6


def test_qa_feedback(shared_data: Path) -> None:
    path = shared_data / "qa-feedback/dev_feedback.json.gz"
    (file,) = qa_feedback.read_files([path], WORDS)
    # 500 records of 6 pairs
    assert (len(file.rows), len(file.ties), len(file.dropped)) == (2616, 384, 0)
    assert len(file.rows) + len(file.ties) == 500 * 6


def test_mtbench_votes(shared_data: Path) -> None:
    folder = shared_data / "mtbench-votes"
    (file,) = mtbench_votes.read_files([folder / "human.jsonl.gz"], folder / "question.jsonl.gz")
    assert (len(file.rows), len(file.ties), len(file.dropped)) == (3355, 780, 0)
    assert len({row.annotator_id for row in file.rows}) == 65
    assert max(Counter(row.item_id for row in file.rows).values()) > 1
    assert all(row.first_model < row.second_model for row in file.rows)  # type: ignore[operator]
    with pytest.raises(DataError, match="is no question with question_id and turns"):
        mtbench_votes.read_files([folder / "human.jsonl.gz"], folder / "human.jsonl.gz")


def test_oasst(shared_data: Path) -> None:
    (file,) = files = oasst.read_files([shared_data / "oasst/en_100_tree.jsonl.gz"], WORDS)
    # Ranked replies n give n(n - 1)/2 pairs: 57 of 2, 117 of 3, 27 of 4, 3 of 5, 6 of 6, 1 of 8
    # and 1 of 9; 57 + 351 + 162 + 30 + 90 + 28 + 36 = 754.
    assert len(file.rows) == 754
    assert reasons_of(files) == {"no rank": 6}
    assert all(row.prompt[-1].role == "user" for row in file.rows)


@pytest.mark.parametrize(
    ("name", "pattern", "kept", "dropped"),
    [
        ("diasafety", "*.json.gz", 10104, {"duplicate": 8, "empty reply": 2}),
        ("xstest", "*completions*", 874, {"partial refusal of an unsafe prompt": 26}),
    ],
)
def test_safety_labels(
    shared_data: Path,
    tmp_path: Path,
    name: safety_labels.Format,
    pattern: str,
    kept: int,
    dropped: dict[str, int],
) -> None:
    files = safety_labels.read_files(sorted((shared_data / name).glob(pattern)), name)
    assert sum(len(file.rows) for file in files) == kept
    assert reasons_of(files) == dropped
    publish_files(tmp_path / "o", files, Judgement, name=name, validation=0.1, test=0.2, seed=0)
    assert not list(find_faults(tmp_path / "o"))


def read(path: Path, **options: Any) -> Any:
    values: dict[str, Any] = {"domain": "safety", "source": "mine", "columns": {}} | options
    (file,) = generic.read_comparisons([path], WORDS, **values)
    return file


def test_malformed_lines_are_set_aside_or_stop_a_strict_import(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = {"question": "Hi?", "good": "a", "bad": "b", "margin": 3}
    path.write_text(f"{json.dumps(good)}\nnot JSON\n[1]\n")
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    file = read(path, columns=columns)
    (row,) = file.rows
    assert (row.prompt, row.chosen) == ((Message("user", "Hi?"),), (Message("assistant", "a"),))
    assert row.strength == "significantly_better"
    assert [(d.line, d.reason, d.text) for d in file.dropped] == [
        (2, "malformed", "not JSON"),
        (3, "malformed", "[1]"),
    ]
    with pytest.raises(DataError, match=r"a\.jsonl:2 is malformed"):
        read(path, columns=columns, strict=True)
    with pytest.raises(ConfigError, match="map names 'promt'"):
        read(path, columns={"promt": "question"})


def test_csv_and_dialogues_without_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected\n"two\nlines",a,b\nq,a\n')
    file = read(path)
    assert file.rows[0].prompt[0].content == "two\nlines"
    assert [d.line for d in file.dropped] == [4]
    path = tmp_path / "b.jsonl"
    ask = {"role": "user", "content": "q"}
    replies = [[ask, {"role": "assistant", "content": text}] for text in "ab"]
    path.write_text(json.dumps({"chosen": replies[0], "rejected": replies[1]}))
    (row,) = read(path).rows
    assert row.prompt == (Message("user", "q"),) and row.rejected[0].content == "b"


def test_export_loads_with_datasets_and_comes_back(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "a.jsonl"
    records = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", "margin": 2} for i in range(20)]
    path.write_text("\n".join(map(json.dumps, records)))
    imported = read(path)
    publish_files(
        tmp_path / "ds", [imported], Comparison, name="g", validation=0.0, test=0.0, seed=0
    )
    margins = dict.fromkeys(("significantly_better", "slightly_better", "negligibly_better"), 0.0)
    written = export_trl(tmp_path / "ds", tmp_path / "trl", margins={**margins, "better": 2.0})  # type: ignore[dict-item]
    assert written == {"train": 20}
    rows = json.loads((tmp_path / "trl/train.jsonl").read_text().splitlines()[0])
    assert list(rows) == ["prompt", "chosen", "rejected", "margin"] and rows["margin"] == 2.0
    loaded = datasets.load_dataset(
        "json",
        data_files=str(tmp_path / "trl/train.jsonl"),
        cache_dir=str(tmp_path / "cache"),
        split="train",
    )
    assert loaded.column_names == ["prompt", "chosen", "rejected", "margin"]
    loaded.save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path / "saved").rows == imported.rows
