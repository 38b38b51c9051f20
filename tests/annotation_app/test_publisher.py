"""Publishing by itself: when it is due, by one process at a time, ending with the app."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from annotation_app.ledger.access import SYSTEM, NotAllowed, ensure_person
from annotation_app.ledger.database import Database
from annotation_app.ledger.publications import Waiting, plan_parts, take_turn, waiting
from annotation_app.publish import PublishRule
from annotation_app.publisher import TURN_SECONDS, watch
from annotation_app.settings import AppSettings
from data.errors import ConfigError
from tests.annotation_app.conftest import MANAGER, Clock, wait_until
from tests.annotation_app.test_publish import annotate, ids

RULE = PublishRule(annotations=3, minutes=10)


def go_round(
    database: Database, out: Path, number: int, step: Callable[[], object] = lambda: None
) -> None:
    """Lets a publisher go round so many times, with `step` in place of each wait."""
    left = iter(range(number))
    watch(
        database,
        out,
        RULE,
        going_on=lambda: next(left, None) is not None,
        wait=lambda _: step(),
    )


def test_when_it_is_due() -> None:
    assert not RULE.is_due(Waiting(submissions=0, oldest=0.0), now=1e9)
    assert RULE.is_due(Waiting(submissions=3, oldest=1e9), now=1e9)
    assert not RULE.is_due(Waiting(submissions=2, oldest=0.0), now=599.0)
    assert RULE.is_due(Waiting(submissions=1, oldest=0.0), now=600.0)
    assert not RULE.is_due(Waiting(submissions=1, oldest=0.0), now=-600.0)  # it jumped back
    for wrong in ({"annotations": 0}, {"minutes": 0.0}, {"minutes": float("nan")}):
        with pytest.raises(ConfigError, match="give at least"):
            PublishRule(**wrong)  # type: ignore[arg-type]


def test_what_waits(database: Database, clock: Clock, tmp_path: Path) -> None:
    assert waiting(database, MANAGER) == Waiting(submissions=0, oldest=clock.now)
    first = clock.now
    annotate(database, 1)
    clock.now += 30
    annotate(database, 1)
    assert waiting(database, MANAGER) == Waiting(submissions=2, oldest=first)
    plan_parts(database, MANAGER)
    assert waiting(database, MANAGER).submissions == 0
    with pytest.raises(NotAllowed):
        waiting(database, "ann")


def test_one_at_a_time(database: Database, clock: Clock) -> None:
    assert take_turn(database, MANAGER, "a", 60)
    assert not take_turn(database, MANAGER, "b", 60)
    clock.now += 59
    assert take_turn(database, MANAGER, "a", 60)  # it goes on
    clock.now += 59
    assert not take_turn(database, MANAGER, "b", 60)
    clock.now += 1  # a was killed
    assert take_turn(database, MANAGER, "b", 60)
    clock.now -= 86_400  # a clock that jumped back by a day keeps nobody waiting for a day
    assert take_turn(database, MANAGER, "a", 60)


def test_every_so_many_annotations_or_minutes(
    database: Database, clock: Clock, tmp_path: Path
) -> None:
    ensure_person(database, SYSTEM, "manager")
    out, seen = tmp_path / "out", []

    def step() -> None:
        seen.append(len(ids(out)) if out.exists() else 0)
        if len(seen) == 1:
            annotate(database, 2)  # not enough yet
        elif len(seen) == 2:
            annotate(database, 1, "ben")  # now it is
        elif len(seen) == 3:
            annotate(database, 1, "ben")
        elif len(seen) == 4:
            clock.now += 600  # ten minutes later

    go_round(database, out, 5, step)
    assert seen == [0, 0, 3, 3, 4]


def test_a_second_publisher_stands_by_and_takes_over(
    database: Database, clock: Clock, tmp_path: Path
) -> None:
    ensure_person(database, SYSTEM, "manager")
    assert take_turn(database, SYSTEM, "the first", TURN_SECONDS)
    annotate(database, 1)
    plan_parts(database, SYSTEM)  # and here the first was killed: planned, not written
    go_round(database, tmp_path / "out", 3)
    assert not (tmp_path / "out").exists()
    clock.now += TURN_SECONDS
    go_round(database, tmp_path / "out", 1)
    assert len(ids(tmp_path / "out")) == 1


def test_a_failure_is_said_and_tried_again(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_person(database, SYSTEM, "manager")
    annotate(database, 1)
    out = tmp_path / "out"
    out.write_text("a file in the place of the directory")
    go_round(database, out, 2, lambda: out.unlink() if out.is_file() else None)
    captured = capsys.readouterr()
    assert captured.err.startswith("not published: ") and captured.err.count("\n") == 1
    assert captured.out == f"published 1 new rows to {out}\n"
    assert len(ids(out)) == 1


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_the_process_publishes_and_ends_with_the_app(database: Database, tmp_path: Path) -> None:
    ensure_person(database, SYSTEM, "manager")
    annotate(database, 2)
    settings = AppSettings(
        ledger=database.place, publish_to=str(tmp_path / "out"), publish_when=RULE
    )
    # The app: starts the publisher as `rlhf annotate` does, says its id, and waits to be killed.
    code = "import os, subprocess, sys, time\n"
    code += "words = ['-m', 'annotation_app.publisher', str(os.getpid())]\n"
    code += "p = subprocess.Popen([sys.executable, *words])\n"
    code += "print(p.pid, flush=True)\ntime.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=dict(os.environ) | settings.to_environment(),
        stdout=subprocess.PIPE,
    ) as app:
        try:
            assert app.stdout is not None
            publisher = int(app.stdout.readline())
            wait_until((tmp_path / "out" / "manifest.json").exists, seconds=300)
        finally:
            app.send_signal(signal.SIGKILL)
    wait_until(lambda: not _lives(publisher), seconds=20)
    assert len(ids(tmp_path / "out")) == 2


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
