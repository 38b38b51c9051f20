"""`rlhf annotate` and `rlhf data publish` as they are typed."""

import importlib.util
import os
import socket
import sys
from pathlib import Path

import pytest

from annotation_app.invitations import BadInvitation
from annotation_app.ledger import queue, red_team, work
from annotation_app.ledger.access import SYSTEM, ensure_person, find_person, list_people
from annotation_app.ledger.database import Database
from annotation_app.ledger.invitations import invited_person
from annotation_app.ledger.rows import Response
from annotation_app.publish import PublishRule
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


@pytest.fixture(autouse=True)
def publishers(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines of the processes that would have been started beside the server."""
    seen: list[list[str]] = []
    monkeypatch.setattr("rlhf.cli.annotate.subprocess.Popen", lambda words, **_: seen.append(words))
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
            (["--host", "0.0.0.0"], "without sign-in the app serves this machine only"),
            (["--host", "::"], "without sign-in the app serves this machine only"),
            (["--address", "https://a.example"], "without sign-in the app serves this machine"),
            (["--sign_in", "invitations", "--host", "0.0.0.0"], "in the clear; put a proxy"),
            (["--sign_in", "openid", "--address", "http://a.example"], "in the clear; put a proxy"),
            (["--sign_in", "invitations", "--address", "a.example"], "give a scheme and a host"),
            (["--sign_in", "password"], "invitations"),
            (["--publish_every", -1], "publish_every is -1"),
            (["--publish_minutes", 0], "publish_minutes 0"),
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


def test_other_work_is_published_by_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, out = str(tmp_path / "ledger.sqlite"), tmp_path / "red"
    database = Database(ledger)
    ensure_person(database, "ann", "annotator")
    red_team.begin_attack(database, "ann", "one", "illicit", "logic", "how?", 1.0)
    red_team.store_answer(database, "ann", "one", 1, Response(text="no"))
    red_team.rate_attack(database, "ann", "one", 1, 5, 1.0)
    database.close()
    for rows in (1, 0):
        words = ("--ledger", ledger, "--rows", "judgements", "--out", out)
        assert run("data", "publish", *words) == 0
        assert capsys.readouterr().out == f"published {rows} new rows to {out}\n"
    assert run("data", "stats", out) == 0
    assert "red-team" in capsys.readouterr().out


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


def test_the_publisher_is_started_unless_it_is_switched_off(
    tmp_path: Path, publishers: list[list[str]]
) -> None:
    words = ["annotate", "--ledger", tmp_path / "l.sqlite", "--port", free_port()]
    with pytest.raises(Replaced):
        run(*words, "--publish_every", 0)
    assert publishers == [] and AppSettings.from_environment().publish_when is None
    with pytest.raises(Replaced):
        run(*words, "--publish_every", 7, "--publish_minutes", 2)
    assert publishers == [[sys.executable, "-m", "annotation_app.publisher", str(os.getpid())]]
    assert AppSettings.from_environment().publish_when == PublishRule(annotations=7, minutes=2)


def test_a_team_app_has_no_local_manager_and_no_demo(
    tmp_path: Path, no_server: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    words = ["annotate", "--ledger", ledger, "--port", free_port(), "--sign_in", "invitations"]
    with pytest.raises(Replaced):
        run(*words, "--host", "0.0.0.0", "--address", "https://lab.example")
    assert "--server.address=0.0.0.0" in no_server[0]
    assert "--browser.serverAddress=lab.example" in no_server[0]
    assert no_server[0][4].endswith("team.py")
    assert "https://lab.example  (sign-in by invitations" in capsys.readouterr().out
    database = Database(str(ledger))
    assert [p.person_id for p in list_people(database, SYSTEM)] == [SYSTEM]
    assert queue.progress(database, SYSTEM) == []
    database.close()


def test_invite_list_and_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["annotate", "invite", "--ledger", tmp_path / "ledger.sqlite"]
    made = ["--person", "maria", "--role", "manager", "--address", "https://lab.example/"]
    assert run(*words, *made) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "for maria, 30 days; give it to nobody else:"
    address, token = printed[1].split("#")
    assert address == "https://lab.example/enter"
    database = Database(str(tmp_path / "ledger.sqlite"))
    assert invited_person(database, token).role == "manager"
    assert run(*words) == 0
    listed = capsys.readouterr().out
    invitation_id = token.split(".")[0]
    assert listed.startswith(f"{invitation_id}  open  until ") and token not in listed
    assert run(*words, "--revoke", invitation_id) == 0
    with pytest.raises(BadInvitation, match="revoked"):
        invited_person(database, token)
    database.close()
    capsys.readouterr()
    for wrong, message in (
        (["--revoke", "0123"], "there is no invitation '0123'"),
        (["--person", "local"], "nobody signs in as 'local'"),
        (["--person", "ann", "--days", 0], "give more than 0"),
        (["--person", "ann", "--revoke", invitation_id], "make a link or revoke one"),
    ):
        assert run(*words, *wrong) == 2
        printed_error = capsys.readouterr().err
        assert message in printed_error and len(printed_error.splitlines()) == 1


def test_openid_needs_a_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf.cli.annotate.find_spec", lambda _: True)
    words = ["annotate", "--sign_in", "openid", "--manager", "Maria@Lab.example"]
    words += ["--port", str(free_port())]
    assert run(*words) == 2
    assert "provider is set up in .streamlit/secrets.toml" in capsys.readouterr().err
    secrets = tmp_path / ".streamlit" / "secrets.toml"
    secrets.parent.mkdir()
    secrets.write_text('[auth]\ncookie_secret = "x"\nclient_id = "y"\n')
    assert run(*words) == 2
    assert "lacks redirect_uri, client_secret, server_metadata_url" in capsys.readouterr().err
    with secrets.open("a") as file:
        file.write('redirect_uri = "u"\nclient_secret = "s"\nserver_metadata_url = "m"\n')
    with pytest.raises(Replaced):
        run(*words)
    database = Database(AppSettings.from_environment().ledger)
    assert find_person(database, "maria@lab.example").role == "manager"
    database.close()
