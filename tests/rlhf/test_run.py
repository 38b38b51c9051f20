"""Run directories: begun, continued, refused; checkpoints complete or absent."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import ConfigError
from rlhf.run import KEEP_CHECKPOINTS, Run, progress, read_json, tracked, write_json

CONFIG: dict[str, Any] = {
    "out": "runs/a",
    "train": {"lr": 1e-3, "sizes": [1, 2], "optim": {"betas": [0.9, 0.95]}},
    "placement": {"workers": 1},
    "seed": None,
}


def changed(**changes: Any) -> dict[str, Any]:
    return CONFIG | changes


def put(content: str) -> Any:
    """A `write` for checkpoints."""

    def write(directory: Path) -> None:
        (directory / "state.pt").write_text(content)

    return write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", "sft", CONFIG)


def test_the_resolved_config_is_written_down(run: Run) -> None:
    text = (run.directory / "config.yaml").read_text()
    assert text.startswith("# rlhf sft\n")
    assert yaml.safe_load(text) == CONFIG
    assert run.model == run.directory / "model"
    assert not run.finished
    assert run.resume() == (0, None)


def test_the_same_command_and_config_continue(run: Run) -> None:
    before = (run.directory / "config.yaml").read_bytes()
    Run(run.directory, "sft", CONFIG)
    elsewhere = changed(out="another/name", placement={"workers": 4, "ray": True})
    Run(run.directory, "sft", elsewhere)  # neither changes a result
    assert (run.directory / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("command", "config", "reason"),
    [
        ("sft", changed(seed=1), "its seed is None, yours is 1"),
        (
            "sft",
            changed(train=CONFIG["train"] | {"lr": 1e-4}),
            r"its train\.lr is 0\.001, yours is 0\.0001",
        ),
        (
            "sft",
            changed(train=CONFIG["train"] | {"optim": {"betas": [0.9, 0.999]}}),
            r"its train\.optim\.betas is \[0\.9, 0\.95\], yours is \[0\.9, 0\.999\]",
        ),
        ("sft", changed(extra=3), "its extra is None, yours is 3"),
        ("ppo", CONFIG, "its command is '# rlhf sft', yours is '# rlhf ppo'"),
    ],
)
def test_another_run_is_refused_with_the_key_that_differs(
    run: Run, command: str, config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=rf"holds another run: {reason}; choose another --out"):
        Run(run.directory, command, config)


def test_a_directory_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty and holds no run; choose another --out"):
        Run(tmp_path, "sft", CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    assert Run(tmp_path, "sft", CONFIG).directory == tmp_path


def test_the_newest_checkpoint_is_resumed_and_the_last_two_are_kept(run: Run) -> None:
    for step in (5, 50, 100):
        run.checkpoint(step, put(f"state {step}"))
    step, directory = run.resume()
    assert step == 100
    assert directory is not None
    assert (directory / "state.pt").read_text() == "state 100"
    names = sorted(p.name for p in (run.directory / "checkpoints").iterdir())
    assert names == ["step-000050", "step-000100"]
    assert len(names) == KEEP_CHECKPOINTS


def test_a_crash_while_writing_leaves_the_checkpoint_before(run: Run) -> None:
    run.checkpoint(10, put("good"))

    def crash(directory: Path) -> None:
        (directory / "state.pt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.checkpoint(20, crash)
    again = Run(run.directory, "sft", CONFIG)
    step, directory = again.resume()
    assert step == 10
    assert directory is not None
    assert (directory / "state.pt").read_text() == "good"
    again.checkpoint(20, put("better"))  # what was left over is in nobody's way
    assert again.resume()[0] == 20
    assert sorted(p.name for p in (run.directory / "checkpoints").iterdir()) == [
        "step-000010",
        "step-000020",
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
from rlhf import run as module
from rlhf.run import Run

run = Run(Path(sys.argv[1]), "sft", {"seed": 1})
run.checkpoint(10, lambda d: (d / "state.pt").write_text("good"))
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

where = sys.argv[2]
if where == "before run.json":
    module.write_durably = die
elif where == "before the rename":
    module.os.rename = die
def write(d):
    (d / "state.pt").write_text("half")
    if where == "while writing":
        die()
run.checkpoint(20, write)
"""


@pytest.mark.parametrize("where", ["while writing", "before run.json", "before the rename"])
def test_kill_9_leaves_a_checkpoint_complete_or_absent(tmp_path: Path, where: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), where], capture_output=True, timeout=60
    )
    assert ended.returncode == -9, ended.stderr
    step, directory = Run(tmp_path, "sft", {"seed": 1}).resume()
    assert step == 10
    assert directory is not None
    assert (directory / "state.pt").read_text() == "good"


def test_a_checkpoint_without_its_last_file_does_not_count(run: Run) -> None:
    run.checkpoint(10, put("good"))
    run.checkpoint(20, put("torn"))
    (run.directory / "checkpoints" / "step-000020" / "run.json").unlink()
    assert run.resume()[0] == 10


def test_a_finished_run(run: Run) -> None:
    run.checkpoint(10, put("good"))
    run.finish(loss=1.5, tokens=7)
    assert run.finished
    assert Run(run.directory, "sft", CONFIG).finished
    summary = read_json(run.directory / "finished.json")
    assert (summary["loss"], summary["tokens"]) == (1.5, 7)
    assert 0 <= summary["seconds"] < 60
    assert not (run.directory / "checkpoints").exists()


def test_seconds_of_earlier_sessions_count(run: Run) -> None:
    run.checkpoint(10, put("good"))
    path = run.directory / "checkpoints" / "step-000010" / "run.json"
    path.write_text(json.dumps({"step": 10, "seconds": 1000.0}))
    again = Run(run.directory, "sft", CONFIG)
    again.resume()
    assert 1000 <= again.seconds < 1060


def test_metrics_of_a_resumed_run(run: Run) -> None:
    log = run.metrics(0)
    for step in range(4):
        log.log(step, {"loss": 1.0})
    run.metrics(2).log(2, {"loss": 9.0})
    lines = (run.directory / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]


def test_json_files(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, None, "ü"]})
    assert read_json(tmp_path / "a.json") == {"x": [1, None, "ü"]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_progress_bars_pass_everything_on() -> None:
    assert list(tracked([3, 1, 2], "items", total=3)) == [3, 1, 2]
    with progress("steps", total=10, done=4) as advance:
        advance(6, "loss 1.0")
