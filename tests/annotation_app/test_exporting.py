"""A batch as a file: what is in force, for managers only."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from annotation_app.exporting import export_batch
from annotation_app.ledger import checks, oversight, queue, work
from annotation_app.ledger.access import NotAllowed, ensure_person
from annotation_app.ledger.checks import Rules
from annotation_app.ledger.database import Database
from annotation_app.publish import publish
from data.dataset import latest_revisions, read_table
from data.schemas import Comparison, from_table
from tests.annotation_app.conftest import MANAGER, item, judgement
from tests.annotation_app.test_checks import certain, check, take


def exported(
    database: Database, batch: str = "b1", *, only_published: bool = False
) -> list[Comparison]:
    content = export_batch(database, MANAGER, batch, form="Parquet", only_published=only_published)
    return from_table(pq.read_table(io.BytesIO(content)), Comparison)


def test_what_is_in_force_and_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certain(monkeypatch)
    queue.create_batch(database, MANAGER, "b1", [check(100)], domain="helpfulness")
    queue.create_batch(database, MANAGER, "b2", [item(9)], domain="helpfulness")
    checks.set_rules(database, MANAGER, "b1", Rules(check_share=0.5))
    for number in range(4):  # a check, an edited one, a flagged one, an ordinary one
        view = take(database)
        flag = "odd" if number == 2 else ""
        work.submit(database, "ann", view.assignment_id, 0, judgement(flag=flag))
        if number == 1:
            work.submit(database, "ann", view.assignment_id, 1, judgement(side="B"))
    rows = exported(database)
    assert [(r.prompt[0].content, r.revision) for r in rows] == [
        ("question 0?", 1),
        ("question 2?", 0),
    ]
    assert {row.annotator_id for row in rows}.isdisjoint({"ann", "ben", "cem"})
    assert exported(database, "b2") == exported(database, "b9") == []
    # The same rows as training reads.
    publish(database, MANAGER, tmp_path / "out")
    table = latest_revisions(read_table(tmp_path / "out", Comparison))
    published = from_table(table, Comparison)
    assert sorted(published, key=str) == sorted(rows, key=str)


def test_what_is_published_and_what_is_not_yet(database: Database, tmp_path: Path) -> None:
    first = take(database)
    work.submit(database, "ann", first.assignment_id, 0, judgement())
    assert exported(database, only_published=True) == []
    publish(database, MANAGER, tmp_path / "out")
    work.submit(database, "ann", first.assignment_id, 1, judgement(side="B"))
    work.submit(database, "ann", take(database).assignment_id, 0, judgement())
    assert [row.revision for row in exported(database, only_published=True)] == [0]
    assert [row.revision for row in exported(database)] == [1, 0]


def test_json_lines_hold_the_same(database: Database) -> None:
    work.submit(database, "ann", take(database).assignment_id, 0, judgement())
    content = export_batch(database, MANAGER, "b1", form="JSON lines", only_published=False)
    (line,) = content.decode().splitlines()
    record, (row,) = json.loads(line), exported(database)
    assert record["prompt"] == [{"role": "user", "content": "question 0?"}]
    assert record["created_at"] == "2023-11-14T22:13:20+00:00"  # 1,700,000,000 s: the test's clock
    assert {key: record[key] for key in ("comparison_id", "strength", "annotator_id")} == {
        "comparison_id": row.comparison_id,
        "strength": "better",
        "annotator_id": row.annotator_id,
    }
    assert set(record) == set(Comparison.__dataclass_fields__)


@pytest.mark.parametrize("role", ["annotator", "reviewer"])
def test_exports_need_a_manager(database: Database, role: str) -> None:
    ensure_person(database, "rita", role)  # type: ignore[arg-type]
    with pytest.raises(NotAllowed, match="needs the role manager"):
        export_batch(database, "rita", "b1", form="Parquet", only_published=True)
    assert oversight.list_events(database, MANAGER, limit=1)[0].action != "export"


def test_exports_are_in_the_audit_trail(database: Database) -> None:
    exported(database, only_published=True)
    latest = oversight.list_events(database, MANAGER, limit=1)[0]
    assert (latest.person_id, latest.action, latest.subject) == (MANAGER, "export", "b1")
    assert json.loads(latest.detail) == {"only_published": True}
