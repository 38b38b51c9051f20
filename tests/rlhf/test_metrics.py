"""metrics.jsonl: a line per step, readable after any crash, without a step twice."""

import json
import math
import os
from pathlib import Path

import pytest

from rlhf.metrics import METRICS_FILE, MetricsLog, read_metrics


def test_a_line_per_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, first_step=0)
    assert read_metrics(tmp_path) == []
    log.log(0, {"loss": 2.5, "objective/kl": 0.125})
    log.log(1, {"loss": 2.0})
    assert read_metrics(tmp_path) == [
        {"step": 0, "loss": 2.5, "objective/kl": 0.125},
        {"step": 1, "loss": 2.0},
    ]
    assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 2


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    MetricsLog(tmp_path, 0).log(3, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    line = (tmp_path / METRICS_FILE).read_text()
    found = json.loads(line, parse_constant=refuse)
    assert found == {"step": 3, "a": None, "b": None, "c": None, "d": 1.0}


def test_a_resumed_run_drops_the_steps_it_repeats(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in range(5):
        log.log(step, {"loss": float(step)})
    resumed = MetricsLog(tmp_path, first_step=3)
    assert [m["step"] for m in read_metrics(tmp_path)] == [0, 1, 2]
    resumed.log(3, {"loss": 30.0})
    assert [m["loss"] for m in read_metrics(tmp_path)] == [0.0, 1.0, 2.0, 30.0]


def test_a_torn_last_line_is_left_out_and_written_over(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.log(0, {"loss": 1.0})
    log.log(1, {"loss": 2.0})
    path = tmp_path / METRICS_FILE
    path.write_text(path.read_text()[:-9])  # the machine stopped in the middle of a line
    assert [m["step"] for m in read_metrics(tmp_path)] == [0]
    MetricsLog(tmp_path, first_step=9).log(1, {"loss": 3.0})
    assert [m["loss"] for m in read_metrics(tmp_path)] == [1.0, 3.0]


def test_a_crash_while_resuming_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MetricsLog(tmp_path, 0).log(0, {"loss": 1.0})

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            MetricsLog(tmp_path, first_step=1)
    assert [m["step"] for m in read_metrics(tmp_path)] == [0]
    assert [path.name for path in tmp_path.glob("*metrics*")] == [METRICS_FILE]


def test_no_file(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
