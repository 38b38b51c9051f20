"""`rlhf annotate` and `rlhf data publish` as they are typed."""

import importlib.util
import os
import socket
import sys
from pathlib import Path

import pytest

from annotation_app.ledger import queue, work
from annotation_app.ledger.access import ensure_person
from annotation_app.ledger.database import Database
from annotation_app.settings import LOCAL_PERSON, AppSettings
from data.dataset import read_rows
from data.schemas import Comparison
from rlhf.cli.main import main
from tests.annotation_app.conftest import free_port, judgement


class Replaced(Exception):
    """Stands for the process becoming the web server."""


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines and settings that would have been run."""
    seen: list[list[str]] = []

    def execve(program: str, words: list[str], environment: dict[str, str]) -> None:
        assert program == sys.executable
        monkeypatch.setattr(os, "environ", environment)
        seen.append(words)
        raise Replaced

    monkeypatch.setattr(os, "execve", execve)
    return seen


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_annotate_needs_nothing_and_starts_with_demo_data(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_server: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    for _ in range(2):  # a second start adds nothing
        with pytest.raises(Replaced):
            run("annotate", "--port", port)
    printed = capsys.readouterr().out
    assert f"http://127.0.0.1:{port}" in printed and "this machine only" in printed
    assert "--server.address=127.0.0.1" in no_server[0]
    settings = AppSettings.from_environment()
    assert settings.dataset == Path("datasets/annotations/comparisons")
    database = Database(settings.ledger)
    found = {b.batch_id: b.items for b in queue.progress(database, LOCAL_PERSON)}
    assert found == {"demo-helpfulness": 100, "demo-safety": 100}
    assert work.next_assignment(database, LOCAL_PERSON, "demo-safety") is not None
    database.close()


def test_annotate_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases: list[tuple[list[object], str]] = [
            (["--port", port], f"port {port} is in use; try --port "),
            (["--port", 99999], "port is 99999; it must be from 1 to 65535"),
            (["--ledger", tmp_path], "is a directory"),
            (["--ledger", "postgresql+nothing://h/d"], "is of no known kind"),
            (["--ledger", "/proc/nowhere/ledger"], "check the path"),
        ]
        for words, message in cases:
            if "--port" not in words:
                words = [*words, "--port", free_port()]
            assert run("annotate", *words) == 2
            printed = capsys.readouterr().err
            assert message in printed and len(printed.splitlines()) == 1
    real = importlib.util.find_spec

    def without_streamlit(name: str) -> object:
        return None if name == "streamlit" else real(name)

    monkeypatch.setattr("rlhf.cli.annotate.find_spec", without_streamlit)
    assert run("annotate", "--ledger", ledger) == 2
    assert "pip install 'rlhf[app]'" in capsys.readouterr().err
    assert not ledger.exists()


def test_a_password_is_never_printed(capsys: pytest.CaptureFixture[str]) -> None:
    place = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/none"
    assert run("annotate", "--ledger", place, "--port", free_port()) == 2
    printed = capsys.readouterr().err
    assert "me:***@127.0.0.1" in printed and "secret" not in printed


def test_publish_and_stats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, out = tmp_path / "ledger.sqlite", tmp_path / "out"
    with pytest.raises(Replaced):
        run("annotate", "--ledger", ledger, "--port", free_port())
    database = Database(str(ledger))
    ensure_person(database, "ann", "annotator")
    for _ in range(5):
        view = work.next_assignment(database, "ann", "demo-helpfulness")
        assert view is not None
        work.submit(database, "ann", view.assignment_id, 0, judgement())
    database.close()
    capsys.readouterr()
    assert run("data", "publish", "--ledger", ledger, "--out", out) == 0
    assert capsys.readouterr().out == f"published 5 new rows to {out}\n"
    assert run("data", "publish", "--ledger", ledger, "--out", out) == 0
    assert capsys.readouterr().out == f"published 0 new rows to {out}\n"
    assert len(read_rows(out, Comparison)) == 5
    assert run("data", "stats", out) == 0
    assert run("data", "validate", out) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("no faults: 5 comparisons")


def test_publish_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no ledger " * 100)
    for place, message in (
        (tmp_path / "none.sqlite", "there is no ledger at"),
        (tmp_path / "text", "not a database"),
    ):
        assert run("data", "publish", "--ledger", place, "--out", tmp_path / "out") == 2
        printed = capsys.readouterr().err
        assert message in printed and len(printed.splitlines()) == 1
    assert not (tmp_path / "out").exists()
