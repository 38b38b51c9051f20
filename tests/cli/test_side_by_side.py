"""Stages that run at once, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest

from data.errors import ConfigError
from rlhf.cli import side_by_side
from rlhf.cli.main import command_module
from rlhf.cli.reproducing import SeedsConfig
from rlhf.cli.side_by_side import StageFailed, ready_stages, run_side_by_side

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
several = pytest.mark.skipif(len(CORES) < 2, reason="one core: stages run one after the other")
SIZE = (
    "--size.documents 10 --size.demonstrations 10 --size.prompts 20 --size.held_out_prompts 20 "
    "--size.dialogues 10"
).split()
WORLD = ["data", "simulate", *SIZE]
LONG = [*WORLD, "--size.documents", "100000000"]
"""More than any test waits for."""


def tokenizer(world: Path) -> list[str]:
    return ["tokenizer", "train", "--input", str(world / "corpus.txt"), "--vocab_size", "320"]


def ready(out: Path, stages: Mapping[str, str], done: Sequence[str] = ()) -> list[str]:
    split = {name: words.format(out=out).split() for name, words in stages.items()}
    waiting = [name for name in stages if name not in done]
    return ready_stages(out, split, waiting, [])


def test_a_stage_waits_for_what_its_command_reads() -> None:
    stages = {
        "seed-0/collect": "collect --model {out}/sft/model",
        "seed-0/reward": "reward train --data {out}/seed-0/collect/comparisons",
        "seed-0/ppo": "ppo --rewards {out}/seed-0/reward",
        "seed-0/ppo_2": "ppo --rewards {out}/seed-0/reward --model {out}/seed-0/ppo/model",
        "seed-1/collect": "collect --model {out}/sft/model",
    }
    out = Path("runs/some")
    assert ready(out, stages) == ["seed-0/collect", "seed-1/collect"]
    done = ["seed-0/collect", "seed-0/reward"]
    assert ready(out, stages, done) == ["seed-0/ppo", "seed-1/collect"]
    assert ready(out, stages, [*done, "seed-0/ppo"]) == ["seed-0/ppo_2", "seed-1/collect"]


@several
def test_stages_that_wait_for_one_another() -> None:
    stages = {"a": ["ppo", "--model", "runs/some/b"], "b": ["ppo", "--model", "runs/some/a"]}
    with pytest.raises(AssertionError, match="these stages wait for one another: a, b"):
        run_side_by_side(Path("runs/some"), stages, 2)


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """All shares are of one length: which stage gets which is chance."""
    cores = {0, 1, 2, 5, 7}
    monkeypatch.setattr(os, "sched_setaffinity", None, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    assert side_by_side._shares_of_cores(2) == [[0, 2], [1, 5]]
    assert side_by_side._shares_of_cores(None) == [[0], [1], [2], [5], [7]]
    cores.update(range(64))
    assert [len(share) for share in side_by_side._shares_of_cores(None)] == [8] * 8
    monkeypatch.delattr(os, "sched_setaffinity")
    assert side_by_side._shares_of_cores(None) == [[]]


def test_processes_where_none_can_choose_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert SeedsConfig().processes is None
    assert SeedsConfig(processes=1).processes == 1
    with pytest.raises(ConfigError, match="this system does not let a process choose its cores"):
        SeedsConfig(processes=2)


def test_a_command_is_found_by_its_first_words() -> None:
    assert command_module(["reward", "train", "--out", "x"]) == "rlhf.cli.reward_train"
    with pytest.raises(KeyError):
        command_module(["reward"])


@several
def test_stages_run_to_their_end_and_are_kept(tmp_path: Path) -> None:
    stages = {"a/world": WORLD, "b/world": WORLD, "a/tokenizer": tokenizer(tmp_path / "a/world")}
    run_side_by_side(tmp_path, stages, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert (tmp_path / "a" / "tokenizer" / "finished.json").exists()
    told = (tmp_path / "b" / "world.log").read_text()
    assert told.startswith("data simulate: ") and "\x1b" not in told
    run_side_by_side(tmp_path, stages, 2)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


@several
def test_a_failure_is_told_and_ends_the_others(tmp_path: Path) -> None:
    """Also one that may not have come as far as its log."""
    before = active_children()
    stages = {"long": LONG, "fails": tokenizer(tmp_path / "nowhere")}
    why = r"fails' did not finish: rlhf tokenizer train: error: .*nowhere.*fails\.log"
    with pytest.raises(StageFailed, match=why):
        run_side_by_side(tmp_path, stages, 2)
    assert set(active_children()) <= set(before)
    assert not (tmp_path / "long" / "finished.json").exists()


@several
@pytest.mark.slow  # starts a process that imports torch; the last test, too, is of such a one
def test_a_killed_stage_is_told_and_interrupts_the_others(tmp_path: Path) -> None:
    with start(tmp_path) as (parent, stages):
        stages[0].kill()
        _, told = parent.communicate(timeout=300)
    assert "did not finish: it was killed, perhaps for want of memory" in told
    logs = [(tmp_path / f"{name}.log").read_text() for name in "ab"]
    assert ["interrupted" in log for log in logs].count(True) == 1


SCRIPT = """
import signal
from pathlib import Path
from rlhf.cli import side_by_side
if __name__ == "__main__":
    side_by_side.PATIENCE = 200.0  # on a busy machine the usual one may be too short
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    side_by_side.run_side_by_side(Path({out!r}), {stages!r}, 2)
"""


@contextmanager
def start(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Two stages that would take hours, and their processes."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(out=str(tmp_path), stages={"a": LONG, "b": LONG}))
    command = [sys.executable, str(script)]
    stages: list[psutil.Process] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as parent:
        try:
            deadline = time.monotonic() + 300
            while not all((tmp_path / name / "config.yaml").exists() for name in "ab"):
                assert parent.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            stages = pinned(psutil.Process(parent.pid))
            assert len(stages) == 2
            yield parent, stages
        finally:
            for process in (parent, *stages):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def pinned(parent: psutil.Process) -> list[psutil.Process]:
    """Its descendants that keep to some of the cores, one of them for each share."""
    found = {}
    for child in parent.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if len(child.cpu_affinity()) < len(CORES):
                found[tuple(child.cpu_affinity())] = child
    return list(found.values())


@several
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stages_end_with_the_command(tmp_path: Path, how: signal.Signals) -> None:
    """However it ends: else those who start it again find the directories in use."""
    with start(tmp_path) as (parent, stages):
        parent.send_signal(how)
        parent.communicate(timeout=300)
        gone, alive = psutil.wait_procs(stages, timeout=300)
        assert all(process.status() == psutil.STATUS_ZOMBIE for process in alive), gone
    if how is signal.SIGINT:
        for name in "ab":
            assert json.loads((tmp_path / name / ".seconds.json").read_text())["seconds"] > 0
            assert "interrupted" in (tmp_path / f"{name}.log").read_text()
