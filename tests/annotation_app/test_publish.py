"""Publishing exactly once, whatever happens in between."""

import itertools
import os
import random
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, update

from annotation_app.ledger import access, history, oversight, publications, queue, schema, work
from annotation_app.ledger.access import NotAllowed
from annotation_app.ledger.database import Database
from annotation_app.publish import publish
from data.dataset import compact, latest_revisions, read_rows, read_table
from data.errors import DataError
from data.manifest import MANIFEST
from data.schemas import Comparison, Message
from data.validation import find_faults
from tests.annotation_app.conftest import MANAGER, Clock, item, judgement, wait_until
from tests.annotation_app.crashing import (
    processes,
    publish_until_killed,
    submit_often,
    write_until_killed,
)


def annotate(database: Database, count: int, person: str = "ann", batch: str = "b1") -> list[str]:
    done = []
    for _ in range(count):
        view = work.next_assignment(database, person, batch)
        assert view is not None
        work.submit(database, person, view.assignment_id, 0, judgement(seconds=12.34))
        done.append(view.assignment_id)
    return done


def ids(directory: Path) -> list[str]:
    return [row.comparison_id for row in read_rows(directory, Comparison)]


def test_a_published_row_by_hand(database: Database, tmp_path: Path, clock: Clock) -> None:
    view = work.next_assignment(database, "ann", "b1")
    assert view is not None
    side = "A" if view.response_a == "second 0" else "B"
    work.submit(database, "ann", view.assignment_id, 0, judgement(side=side, seconds=12.34))
    publish(database, MANAGER, tmp_path / "out")
    (row,) = read_rows(tmp_path / "out", Comparison)
    pseudonym = oversight.judged(database, MANAGER, "b1")[0].annotator
    assert row == Comparison(
        comparison_id=view.assignment_id,
        revision=0,
        prompt=(Message("user", "question 0?"),),
        chosen=(Message("assistant", "second 0"),),
        rejected=(Message("assistant", "first 0"),),
        strength="better",
        safety_label=None,
        domain="helpfulness",
        annotator_id=pseudonym,
        batch="b1",
        source="test",
        chosen_model="model-two",
        rejected_model="model-one",
        chosen_temperature=1.0,
        rejected_temperature=0.7,
        seconds=12.3,
        created_at=datetime.fromtimestamp(clock.now, UTC),
        turns=1,
        prompt_tokens=3,  # question 0 ?
        chosen_tokens=2,
        rejected_tokens=2,
        tokenizer_hash="words",
    )
    assert pseudonym != "ann"


def test_published_files_know_people_by_pseudonym_only(database: Database, tmp_path: Path) -> None:
    person = "dora.real-name@lab.example"
    access.add_person(database, MANAGER, person, "annotator")
    done = annotate(database, 2, person)
    said = judgement(side="B", comment=f"I am {person}")  # remarks stay in the ledger
    work.submit(database, person, done[0], 1, said)
    out = tmp_path / "out"
    publish(database, MANAGER, out)
    table = read_table(out, Comparison)
    (pseudonym,) = set(table["annotator_id"].to_pylist())
    assert pseudonym.startswith("annotator-") and table.num_rows == 3
    assert "real-name" not in str(table.to_pylist())
    for file in out.rglob("*"):
        assert file.is_dir() or b"real-name" not in file.read_bytes()


def test_twice_is_once_and_new_rows_follow(database: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = annotate(database, 2)
    assert publish(database, MANAGER, out).rows == 2
    before = (out / MANIFEST).read_bytes()
    assert publish(database, MANAGER, out).rows == 0
    assert (out / MANIFEST).read_bytes() == before
    second = annotate(database, 2)
    assert publish(database, MANAGER, out).rows == 2
    assert sorted(ids(out)) == sorted(first + second)
    assert list(find_faults(out)) == []


def test_compacting_and_another_copy_change_nothing(database: Database, tmp_path: Path) -> None:
    for _ in range(3):
        annotate(database, 1)
        publish(database, MANAGER, tmp_path / "out")
    compact(tmp_path / "out")
    assert publish(database, MANAGER, tmp_path / "out").rows == 0
    assert publish(database, MANAGER, tmp_path / "copy").rows == 3  # made anew from the ledger
    assert sorted(ids(tmp_path / "copy")) == sorted(ids(tmp_path / "out"))


def test_revisions_are_published_as_such(database: Database, tmp_path: Path) -> None:
    (done,) = annotate(database, 1)
    publish(database, MANAGER, tmp_path)
    assert history.open_for_edit(database, "ann", done).revision == 1
    work.submit(database, "ann", done, 1, judgement(strength="slightly_better"))
    publish(database, MANAGER, tmp_path)
    table = read_table(tmp_path, Comparison)
    assert table["revision"].to_pylist() == [0, 1]
    assert latest_revisions(table)["strength"].to_pylist() == ["slightly_better"]


def test_flagged_rows_wait_for_their_release(database: Database, tmp_path: Path) -> None:
    view = work.next_assignment(database, "ann", "b1")
    assert view is not None
    work.submit(database, "ann", view.assignment_id, 0, judgement(flag="private data"))
    assert publish(database, MANAGER, tmp_path / "out").rows == 0
    oversight.release(database, MANAGER, view.assignment_id)
    assert publish(database, MANAGER, tmp_path / "out").rows == 1
    (row,) = read_rows(tmp_path / "out", Comparison)
    assert (row.comparison_id, row.revision) == (view.assignment_id, 1)


def test_a_restored_copy_publishes_into_a_new_directory_only(
    database: Database, tmp_path: Path
) -> None:
    def forget(connection: Connection) -> None:  # what was planned after the copy was made
        connection.execute(delete(schema.publications).where(schema.publications.c.first > 1))
        connection.execute(delete(schema.submissions).where(schema.submissions.c.sequence > 1))

    out = tmp_path / "out"
    done = annotate(database, 2)
    database.write(forget)
    publish(database, MANAGER, out)
    work.submit(database, "ann", done[0], 1, judgement())
    publish(database, MANAGER, out)
    database.write(forget)
    work.submit(database, "ann", done[0], 1, judgement(side="B"))  # would get the same key
    before = (out / MANIFEST).read_bytes()
    for _ in range(2):
        with pytest.raises(DataError, match="never planned: it is an older copy"):
            publish(database, MANAGER, out)
    assert (out / MANIFEST).read_bytes() == before
    assert publish(database, MANAGER, tmp_path / "new").rows == 2


def test_an_older_copy_is_known_when_it_has_published_elsewhere(
    database: Database, tmp_path: Path, clock: Clock
) -> None:
    def go_another_way(connection: Connection) -> None:  # the second row anew, a second later
        connection.execute(delete(schema.publications).where(schema.publications.c.first > 1))
        later = {"created_at": clock.now + 1}
        second = schema.submissions.c.sequence == 2
        connection.execute(update(schema.submissions).where(second).values(later))

    old, new = tmp_path / "old", tmp_path / "new"
    (done,) = annotate(database, 1)
    publish(database, MANAGER, old)
    work.submit(database, "ann", done, 1, judgement())
    publish(database, MANAGER, old)
    database.write(go_another_way)
    assert publish(database, MANAGER, new).rows == 2  # with that the key of the lost part is known
    before = (old / MANIFEST).read_bytes()
    for _ in range(2):
        with pytest.raises(DataError, match="already holds other rows under the key"):
            publish(database, MANAGER, old)
    assert (old / MANIFEST).read_bytes() == before
    assert publish(database, MANAGER, new).rows == 0


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_backup_and_restore_as_the_guide_says(database: Database, tmp_path: Path) -> None:
    out, place = tmp_path / "out", Path(database.place)
    kept = annotate(database, 2)
    publish(database, MANAGER, out)
    copy = tmp_path / "copy.sqlite"
    with closing(sqlite3.connect(place)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)  # what `.backup` of the command line does
    annotate(database, 1)
    publish(database, MANAGER, out)
    database.close()
    os.replace(copy, place)
    restored = Database(database.place)
    annotate(restored, 1)
    with pytest.raises(DataError, match="publish into a new directory"):
        publish(restored, MANAGER, out)
    assert publish(restored, MANAGER, tmp_path / "new").rows == 3
    assert set(kept) < set(ids(tmp_path / "new"))
    restored.close()


def test_only_managers_publish(database: Database, tmp_path: Path) -> None:
    annotate(database, 1)
    with pytest.raises(NotAllowed):
        publish(database, "ann", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_with_something_else(database: Database, tmp_path: Path) -> None:
    annotate(database, 1)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(DataError, match="no manifest of ours"):
        publish(database, MANAGER, tmp_path)


def test_turns_of_a_dialogue_share_a_split(database: Database, tmp_path: Path) -> None:
    longer = [
        type(item(n))(
            name=f"longer-{n}",
            prompt=(*item(n).prompt, Message("assistant", "so"), Message("user", "more?")),
            responses=item(n).responses,
            source="test",
        )
        for n in range(60)
    ]
    both = [item(n) for n in range(60)] + longer
    queue.create_batch(database, MANAGER, "many", both, domain="helpfulness")
    annotate(database, 120, batch="many")
    publish(database, MANAGER, tmp_path)
    where: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for row in read_rows(tmp_path, Comparison, split):  # type: ignore[arg-type]
            where.setdefault(row.prompt[0].content, set()).add(split)
    assert len(where) == 60 and all(len(splits) == 1 for splits in where.values())
    assert set.union(*where.values()) == {"train", "validation", "test"}


class Crash(BaseException):
    """Stands for kill -9: no handler of ours catches it."""


def test_a_crash_at_every_step(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Steps: the planning commit, reading a part, and each fsync and rename of data.dataset.
    steps, limit = itertools.count(), sys.maxsize

    def guarded(original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if next(steps) >= limit:
                raise Crash
            return original(*args, **kwargs)

        return call

    for target, name in ((os, "fsync"), (os, "rename")):
        monkeypatch.setattr(target, name, guarded(getattr(target, name)))
    for name in ("plan_parts", "read_part"):
        monkeypatch.setattr(f"annotation_app.publish.{name}", guarded(getattr(publications, name)))
    crashes, done = 0, annotate(database, 1)
    publish(database, MANAGER, tmp_path)
    for edit in itertools.count(1):  # each round has one new row to publish
        work.submit(database, "ann", done[0], edit, judgement(comment=str(edit)))
        steps, limit = itertools.count(), crashes
        try:
            publish(database, MANAGER, tmp_path)
        except Crash:
            crashes += 1
            limit = sys.maxsize
            before = len(read_rows(tmp_path, Comparison))
            assert before in (edit, edit + 1)
            publish(database, MANAGER, tmp_path)
            revisions = [row.revision for row in read_rows(tmp_path, Comparison)]
            assert revisions == list(range(edit + 1))
        else:
            break
    # 2 + the newest part's comparison + (fsync, rename, fsync of the folder) of file and manifest
    assert crashes == 9


def kill_in_the_middle(
    running: Sequence[BaseProcess], under_way: Callable[[], bool], rng: random.Random
) -> None:
    """Starts all, and kills them at random moments once their work is under way."""
    try:
        for process in running:
            process.start()
        wait_until(under_way, seconds=300)
        time.sleep(rng.uniform(0, 0.1))
    finally:
        for process in rng.sample(running, len(running)):
            process.kill()
        for process in running:
            process.join(20)
    assert [process.exitcode for process in running] == [-9] * 4  # none had failed by itself


def crash_rounds(database: Database, directory: Path, rounds: int) -> tuple[int, int]:
    """Two writers and two publishers killed at random moments; returns (acknowledged, stored)."""
    rng = random.Random(0)
    out = directory / "out"
    items = [item(n) for n in range(500)]
    logs = {person: directory / person for person in ("ann", "ben")}
    for log in logs.values():
        log.touch()
    for number in range(rounds):
        for who in logs:  # each has enough to do, however busy the other one is
            queue.create_batch(database, MANAGER, f"{who}-{number}", items, domain="helpfulness")
        before = {log: log.stat().st_size for log in logs.values()}
        running = [
            processes.Process(
                target=write_until_killed, args=(database.place, who, f"{who}-{number}", log)
            )
            for who, log in logs.items()
        ]
        running += [
            processes.Process(target=publish_until_killed, args=(database.place, MANAGER, out))
            for _ in range(2)
        ]
        kill_in_the_middle(
            running,
            lambda before=before: all(log.stat().st_size > n for log, n in before.items()),
            rng,
        )
    publish(database, MANAGER, out)
    acknowledged = "".join(log.read_text() for log in logs.values()).split()
    stored = [d.assignment_id for who in logs for d in history.recent(database, who, 10**6)]
    assert set(acknowledged) <= set(stored)
    assert Counter(ids(out)) == Counter(stored)  # each exactly once
    assert list(find_faults(out)) == []
    return len(acknowledged), len(stored)


def test_kill_9_of_writers_and_publishers(database: Database, tmp_path: Path) -> None:
    acknowledged, stored = crash_rounds(database, tmp_path, rounds=2)
    assert 0 < acknowledged <= stored


@pytest.mark.slow  # 200 rounds of four processes each
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_kill_9_two_hundred_times(database: Database, tmp_path: Path) -> None:
    acknowledged, stored = crash_rounds(database, tmp_path, rounds=200)
    print(f"200 rounds: {acknowledged:,} acknowledged, {stored:,} stored and published once")
    assert 1000 < acknowledged <= stored


def test_the_same_click_from_four_processes_is_stored_once(database: Database) -> None:
    view = work.next_assignment(database, "ann", "b1")
    assert view is not None
    arguments = (database.place, "ann", view.assignment_id)
    clicking = [processes.Process(target=submit_often, args=arguments) for _ in range(4)]
    for process in clicking:
        process.start()
    for process in clicking:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in clicking] == [0] * 4
    assert len(history.recent(database, "ann")) == 1
    assert len(oversight.judged(database, MANAGER, "b1")) == 1
