"""The app of a team as a process: the route of the links, and a browser that comes by one."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from annotation_app.attempts import MAX_FAILURES
from annotation_app.door import COOKIE
from annotation_app.invitations import link
from annotation_app.ledger.access import SYSTEM
from annotation_app.ledger.database import Database
from annotation_app.ledger.invitations import invite, revoke
from annotation_app.ledger.oversight import judged
from annotation_app.ledger.queue import create_batch, progress
from tests.annotation_app.conftest import free_port, item
from tests.annotation_app.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("team")
    with Server(directory, free_port(), "--sign_in", "invitations") as server:
        yield server


@pytest.fixture
def ledger(server: Server) -> Iterator[Database]:
    database = Database(server.ledger)
    yield database
    database.close()


def enter(server: Server, token: str, **headers: str) -> tuple[int, str, str]:
    """Status, text and cookie of an attempt."""
    request = urllib.request.Request(f"{server.url}/enter", token.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers["Set-Cookie"] or ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers["Set-Cookie"] or ""


def test_the_route_of_the_links(server: Server, ledger: Database) -> None:
    with urllib.request.urlopen(f"{server.url}/enter", timeout=10) as answer:
        page = answer.read().decode()
        assert "location.hash" in page  # the key is behind the #, which no browser sends
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    token = invite(ledger, SYSTEM, "ann", "annotator")
    status, _, cookie = enter(server, token)
    assert status == 204 and cookie.startswith(f"{COOKIE}={token};")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert enter(server, token, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert enter(server, "x" * 2_000)[0] == 413
    revoke(ledger, SYSTEM, token.split(".")[0])
    status, said, cookie = enter(server, token)
    assert (status, cookie) == (403, "") and "was revoked" in said


@pytest.mark.browser
def test_a_browser_comes_in_by_its_link_and_is_shut_out(server: Server, ledger: Database) -> None:
    from tests.annotation_app.test_browser import launched, open_app

    create_batch(ledger, SYSTEM, "b1", [item(n) for n in range(3)], domain="helpfulness")
    token = invite(ledger, SYSTEM, "ben", "annotator")
    with launched() as browser:
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_text("Open the invitation link").wait_for()
        assert page.get_by_text("question 0?").count() == 0
        page.goto(link(server.url, token))
        page.get_by_text("question 0?").wait_for()
        assert token not in page.url and page.evaluate("document.cookie").find(token) == -1
        page.reload()
        page.get_by_text("question 0?").wait_for()
        assert page.get_by_role("link", name="Manage").count() == 0
        page.goto(f"{server.url}/manage")  # typed by hand
        page.get_by_text("question 0?").wait_for()
        open_app(page, server)
        revoke(ledger, SYSTEM, token.split(".")[0])
        page.keyboard.press("2")  # the next click, and nothing more
        page.get_by_text("was revoked").wait_for()
        assert page.get_by_text("question 0?").count() == 0
        page.get_by_role("link", name="Sign out of this browser").click()
        page.get_by_text("Open the invitation link").wait_for()


@pytest.mark.browser
def test_two_people_judge_the_same_item(server: Server, ledger: Database) -> None:
    from tests.annotation_app.test_browser import choose, launched, settled

    create_batch(ledger, SYSTEM, "shared", [item(50)], domain="helpfulness", overlap=2)
    with launched() as browser:
        pages = []
        for person in ("dora", "emil"):
            page = browser.browser.new_context().new_page()  # with cookies of its own
            page.goto(link(server.url, invite(ledger, SYSTEM, person, "annotator")))
            page.get_by_text("shared", exact=True).click()
            page.get_by_text("question 50?").wait_for()
            settled(page)
            pages.append(page)
        for page in pages:
            choose(page, "2")  # each prefers what stands on their left
        for page in pages:
            page.keyboard.press("s")
        for page in pages:
            page.get_by_text("You have done everything in this batch").wait_for()
    rows = judged(ledger, SYSTEM, "shared")
    assert len({row.annotator for row in rows}) == len(rows) == 2
    assert all(row.chose_a for row in rows)
    (batch,) = [b for b in progress(ledger, SYSTEM) if b.batch_id == "shared"]
    assert (batch.submitted, batch.goal) == (2, 2)


def test_guessing_at_the_route_has_to_wait(server: Server, ledger: Database) -> None:
    token = invite(ledger, SYSTEM, "cem", "annotator")
    statuses = [enter(server, f"guess-{number}")[0] for number in range(MAX_FAILURES)]
    assert set(statuses) <= {403, 429} and statuses[0] == 403
    status, said, cookie = enter(server, token)
    assert (status, cookie) == (429, "") and "try again in" in said
