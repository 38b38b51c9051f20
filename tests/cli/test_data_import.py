"""`rlhf data import generic` and `rlhf data export trl` as they are typed."""

import json
from pathlib import Path

import pytest

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
    assert json.loads((out / "dropped.jsonl").read_text())["line"] == 31
    assert main(["data", "export", "trl", str(out), "--out", str(tmp_path / "trl")]) == 0
    rows = [x for file in (tmp_path / "trl").iterdir() for x in file.read_text().splitlines()]
    assert len(rows) == 30 and set(json.loads(rows[0])) == {"prompt", "chosen", "rejected"}
