"""Run directories: begun, continued, refused; checkpoints complete or absent."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console
from rich.table import Table

from data import durable
from data.errors import ConfigError, DataError
from rlhf import run as run_module
from rlhf.actors.placement import usable_cores
from rlhf.run import KEEP_CHECKPOINTS, Run, open_console, progress, read_json, write_json

CONFIG: dict[str, Any] = {
    "out": "runs/a",
    "train": {"lr": 1e-3, "sizes": [1, 2], "optim": {"betas": [0.9, 0.95]}},
    "placement": {"workers": 1},
    "reward_placement": {"workers": 1},
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


@pytest.fixture
def begun(run: Run) -> Run:
    """A run with a result."""
    run.metrics(0).log(0, {"loss": 1.0})
    return run


def test_the_resolved_config_is_written_down(run: Run) -> None:
    text = (run.directory / "config.yaml").read_text()
    assert text.startswith("# rlhf sft\n")
    assert yaml.safe_load(text) == CONFIG
    assert run.model == run.directory / "model"
    assert not run.finished
    assert run.resume() == (0, None)


def test_the_same_command_and_config_continue(begun: Run) -> None:
    before = (begun.directory / "config.yaml").read_bytes()
    Run(begun.directory, "sft", CONFIG)
    four = {"workers": 4, "ray": True}
    assert (begun.directory / "config.yaml").read_bytes() == before
    elsewhere = changed(out="another/name", placement=four, reward_placement=four)
    elsewhere["critic_placement"] = four
    Run(begun.directory, "sft", elsewhere)  # none of them changes a result


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
        ("ppo", CONFIG, "its command is 'sft', yours is 'ppo'"),
    ],
)
def test_another_run_is_refused_with_the_key_that_differs(
    begun: Run, command: str, config: dict[str, Any], reason: str
) -> None:
    for _ in range(2):  # and it stays the first one's
        with pytest.raises(ConfigError, match=rf"another run: {reason}; choose another --out"):
            Run(begun.directory, command, config)
    begun.finish()
    with pytest.raises(ConfigError, match=rf"another run: {reason}; choose another --out"):
        Run(begun.directory, command, config)


def test_a_start_that_failed_is_nobodys_run(run: Run) -> None:
    (run.directory / "helpfulness").mkdir()  # a run inside that began as well
    (run.directory / "helpfulness" / "config.yaml").write_text("# rlhf reward train helpfulness\n")
    Run(run.directory, "sft", changed(seed=1))
    assert yaml.safe_load((run.directory / "config.yaml").read_text())["seed"] == 1
    Run(run.directory, "ppo", CONFIG).metrics(0)
    with pytest.raises(ConfigError, match="its command is 'ppo', yours is 'sft'"):
        Run(run.directory, "sft", CONFIG)


@pytest.mark.parametrize("operation", ["fsync", "rename"])
def test_a_start_on_a_full_disk_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, operation, full)
        with pytest.raises(OSError, match="No space left"):
            Run(tmp_path, "sft", CONFIG)
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    assert Run(tmp_path, "sft", changed(seed=1)).resume() == (0, None)


def test_what_a_kill_in_the_middle_of_the_start_leaves(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.tmp").write_text("# rlhf sf")
    Run(tmp_path, "sft", CONFIG)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "config.yaml"]


@pytest.mark.parametrize(
    "damage", [b"# rlhf sft\ntrain: {lr: 1", b"# rlhf sft\n- a list\n", b"# rlhf sft\nout: \xff"]
)
def test_a_damaged_config(begun: Run, damage: bytes) -> None:
    (begun.directory / "config.yaml").write_bytes(damage)
    with pytest.raises(DataError, match=r"config\.yaml' is damaged .*; restore it from a copy"):
        Run(begun.directory, "sft", CONFIG)


HOLD = """
import sys
from pathlib import Path
from rlhf.run import Run

Run(Path(sys.argv[1]), "sft", {})
print("ready", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        reason = rf"^another process is working in '{tmp_path}'; wait for it, or choose another"
        with pytest.raises(ConfigError, match=reason):
            Run(tmp_path, "sft", {})
        assert names_in(tmp_path) == [".lock", "config.yaml"]
        other.kill()
    run = Run(tmp_path, "sft", {})  # however it ended
    assert Run(tmp_path, "sft", {}).directory == run.directory  # this process may come again


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_finished_run_needs_no_lock(run: Run) -> None:
    run.finish()
    (run.directory / ".lock").unlink()
    assert Run(run.directory, "sft", CONFIG).finished  # even where nothing can be written
    assert not (run.directory / ".lock").exists()


def test_a_directory_that_holds_something_else(tmp_path: Path) -> None:
    for name in ("thesis.tex", "config.yaml"):  # the second is another program's
        (tmp_path / name).write_text("precious")
        with pytest.raises(ConfigError, match="is not empty and holds no run; choose another"):
            Run(tmp_path, "sft", CONFIG)
        assert [p.name for p in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()


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


def test_so_many_checkpoints_are_kept_as_wished(run: Run) -> None:
    for step in (999_998, 999_999, 1_000_000, 1_000_001):
        run.checkpoint(step, put(f"state {step}"), keep=3)
    assert run.resume()[0] == 1_000_001  # by number, not as words
    names = {p.name for p in (run.directory / "checkpoints").iterdir()}
    assert names == {"step-999999", "step-1000000", "step-1000001"}


def test_what_changes_no_result_may_change(tmp_path: Path) -> None:
    def config(kind: str, stage: int, keep: int) -> dict[str, Any]:
        engine = {"kind": kind, "zero_stage": stage, "precision": "fp32"}
        return {"engine": engine, "train": {"loop": {"keep_checkpoints": keep}}}

    Run(tmp_path, "sft", config("auto", 1, 2)).checkpoint(10, put("good"))
    assert Run(tmp_path, "sft", config("deepspeed", 3, 5)).resume()[0] == 10
    other = config("auto", 1, 2)
    other["engine"]["precision"] = "bf16"
    with pytest.raises(ConfigError, match=r"its engine\.precision is 'fp32', yours is 'bf16'"):
        Run(tmp_path, "sft", other)


def test_a_full_disk_leaves_the_checkpoint_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.checkpoint(10, put("good"))

    def full(directory: Path) -> None:
        (directory / "state.pt").write_text("half")
        raise RuntimeError("unexpected pos 576 vs 534")  # torch's word for it

    with pytest.raises(RuntimeError, match="pos 576"):  # there is room, so it was something else
        run.checkpoint(20, full)
    monkeypatch.setattr(durable, "LITTLE_SPACE", 1 << 80)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run.checkpoint(20, full)
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in (run.directory / "checkpoints").iterdir()] == ["step-000010"]


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
    module.write_json = die
elif where == "before the rename":
    module.put_in_place = die
def write(d):
    (d / "state.pt").write_text("half")
    if where == "while writing":
        die()
run.checkpoint(20, write)
"""


@pytest.mark.parametrize("where", ["while writing", "before run.json", "before the rename"])
def test_kill_9_leaves_a_checkpoint_complete_or_absent(tmp_path: Path, where: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), where], capture_output=True, timeout=300
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
    energy = summary["energy"]  # 5 W per core, all of them for so long
    assert energy["kwh"] == pytest.approx(energy["device_hours"] * 0.005)
    assert energy["device_hours"] == pytest.approx(
        summary["seconds"] / 3600 * usable_cores(), rel=0.1
    )
    assert not (run.directory / "checkpoints").exists()


def test_tables_in_a_log_are_not_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [str(n) * 15 for n in range(9)]  # 9 · 15 letters and the lines between them
    for columns in (None, "80"):  # what COLUMNS says is what a reader wants
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        view = Table.grid(padding=(0, 1))
        view.add_row(*cells)
        open_console().print(view)
        shown = capsys.readouterr().out
        assert all(cell in shown for cell in cells) is (columns is None)


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


def test_a_progress_bar_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(run_module, "console", Console(file=shown, force_terminal=True, width=100))
    with progress("steps", total=10, done=4) as advance:
        advance(6, "loss 1.0")
    begun, ended = shown.getvalue().split("4/10", 1)
    assert "10/10" in ended and "10/10" not in begun
    assert "loss 1.0" in ended


def test_progress_in_a_log_file_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    seconds = iter([0, 30, 61, 100, 300, 900])
    monkeypatch.setattr(run_module, "console", Console(file=shown, width=100))
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with progress("sft", total=100, done=10) as advance:
        advance(0, "")  # after 30 s
        advance(0, "loss [3]")  # 61 s
        advance(5, "loss 2")  # 100 s
        advance(5, "loss 1")  # 300 s: 10 steps of 90
        advance(80, "")  # 900 s
    lines = [line for line in shown.getvalue().splitlines() if line]
    assert lines == [
        "sft 10/100, loss [3]",
        "sft 20/100, loss 1, about 40 min left",
        "sft 100/100",
    ]
