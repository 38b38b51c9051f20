"""What only a browser shows: double clicks, held keys, reloads, two tabs, a killed server."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from annotation_app.ledger import history, oversight, queue
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import NewItem, Response
from annotation_app.settings import LOCAL_PERSON
from data.dataset import read_rows
from data.schemas import Comparison, Message
from rlhf.cli.main import main
from tests.annotation_app.conftest import free_port, wait_until
from tests.annotation_app.server import Server

pytestmark = pytest.mark.browser
CHROMIUM = Path("/usr/bin/chromium")
DONE = '[data-test-script-state="notRunning"]'


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect

    return expect(locator)


@contextmanager
def launched() -> Iterator[Any]:
    """A browser with nothing in it, or a skipped test."""
    pytest.importorskip("playwright", reason="no playwright; pip install 'rlhf[dev]'")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(20_000)
        yield context
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("app"), free_port()) as server:
        yield server


@pytest.fixture
def ledger(server: Server) -> Iterator[Database]:
    database = Database(server.ledger)
    yield database
    database.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    page = browser.new_page()
    open_app(page, server)
    yield page
    page.close()


def open_app(page: Any, server: Server) -> None:
    page.goto(server.url)
    settled(page)


def test_nothing_is_fetched_from_elsewhere(browser: Any, server: Server) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_app(page, server)
    page.close()
    assert len(asked) > 10
    ours = re.compile(r"(https?|wss?)://(127\.0\.0\.1|localhost):|data:|blob:")
    assert [url for url in asked if not ours.match(url)] == []


def settled(page: Any) -> None:
    submit_button(page).first.wait_for()  # the last part of the page
    page.locator(DONE).wait_for()
    expect(submit_button(page)).to_have_count(1)  # that of the item before is gone


def choose(page: Any, key: str = "2") -> None:
    """By keyboard; returns when the server has answered."""
    page.keyboard.press(key)
    page.locator("button:not([disabled])", has_text="Submit").wait_for()
    page.locator(DONE).wait_for()


def submit_button(page: Any) -> Any:
    return page.get_by_role("button", name="Submit")


def shown(page: Any) -> list[str]:
    """The dialogue and both responses, as they are drawn."""
    return list(page.locator('[data-testid="stText"]').all_inner_texts())


def rows(ledger: Database) -> int:
    counts = oversight.strength_counts(ledger, LOCAL_PERSON)
    return sum(sum(of.values()) for of in counts.values())


def test_from_the_first_click_to_a_parquet_row(
    page: Any, server: Server, ledger: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(ledger)
    choose(page, "7")
    page.keyboard.press("s")
    page.get_by_test_id("stToast").get_by_text("Saved").wait_for()
    assert rows(ledger) == before + 1  # it says "Saved" only after the commit
    assert history.recent(ledger, LOCAL_PERSON, 1)[0].judgement.side == "B"
    page.goto(f"{server.url}/manage")
    page.get_by_text("Publish", exact=True).click()
    page.get_by_test_id("stBaseButton-primary").click()
    page.get_by_text(re.compile(r"Published [1-9]\d* new rows")).wait_for()
    published = read_rows(server.dataset, Comparison)
    assert len(published) == rows(ledger)
    assert main(["data", "stats", str(server.dataset)]) == 0
    assert "simulation" in capsys.readouterr().out


@pytest.mark.parametrize("gap", [20, 120, 400])
def test_a_double_click_saves_one_answer(page: Any, ledger: Database, gap: int) -> None:
    before = rows(ledger)
    choose(page)
    box = submit_button(page).bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 10)
    for _ in range(2):
        page.mouse.down()
        page.mouse.up()
        page.wait_for_timeout(gap)
    page.get_by_test_id("stToast").first.wait_for()
    settled(page)
    page.wait_for_timeout(300)  # nothing may come after
    assert rows(ledger) == before + 1
    assert submit_button(page).is_disabled()  # the next item, not yet judged


def test_a_held_key_saves_one_answer(page: Any, ledger: Database) -> None:
    before = rows(ledger)
    choose(page)
    for _ in range(20):  # a second press without a release is what holding a key sends
        page.keyboard.down("s")
        page.wait_for_timeout(30)
    page.keyboard.up("s")
    wait_until(lambda: rows(ledger) > before)  # the toast may be gone again by now
    settled(page)
    page.wait_for_timeout(300)
    assert rows(ledger) == before + 1


def test_typing_a_comment_presses_no_shortcut(page: Any, ledger: Database) -> None:
    before = rows(ledger)
    choose(page)
    page.get_by_text("Comment or flag").click()
    page.get_by_label("Comment (optional)").click()
    page.keyboard.type("s is 8 times better, zzz")
    submit_button(page).click()
    page.get_by_test_id("stToast").first.wait_for()
    assert rows(ledger) == before + 1
    done = history.recent(ledger, LOCAL_PERSON, 1)[0].judgement
    assert done.comment == "s is 8 times better, zzz"
    assert (done.side, done.strength) == ("A", "better")


def test_a_reload_shows_the_same_item_in_the_same_order(page: Any, ledger: Database) -> None:
    before, here = rows(ledger), shown(page)
    choose(page)
    page.reload()
    settled(page)
    assert shown(page) == here
    choose(page, "1")
    page.keyboard.press("s")
    page.get_by_test_id("stToast").first.wait_for()
    assert rows(ledger) == before + 1
    assert history.recent(ledger, LOCAL_PERSON, 1)[0].judgement.strength == "significantly_better"


def test_two_tabs_show_one_item_and_save_one_answer(
    browser: Any, page: Any, server: Server, ledger: Database
) -> None:
    before = rows(ledger)
    other = browser.new_page()
    open_app(other, server)
    assert shown(other) == shown(page)
    choose(page)
    choose(other, "8")
    page.keyboard.press("s")
    page.get_by_test_id("stToast").first.wait_for()
    other.keyboard.press("s")
    other.wait_for_timeout(1000)
    settled(other)
    assert rows(ledger) == before + 1
    assert history.recent(ledger, LOCAL_PERSON, 1)[0].judgement.side == "A"
    assert shown(other) != []
    other.close()


def test_texts_of_others_are_shown_and_do_nothing(page: Any, ledger: Database) -> None:
    bad = (
        "<img src='http://evil.example/i.png'> <script>window.stolen = 1</script> "
        "[click](http://evil.example) ![i](http://evil.example/j.png) http://evil.example/k "
        ":red[x] <b>bold</b>"
    )
    hostile = NewItem(
        name="hostile",
        prompt=(Message("user", bad),),
        responses=(Response(text=bad + " one"), Response(text=bad + " two")),
        source="test",
    )
    queue.create_batch(ledger, LOCAL_PERSON, "hostile", [hostile], domain="helpfulness")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    settled(page)
    page.get_by_text("hostile", exact=True).click()
    page.get_by_text(bad + " one").wait_for()
    page.get_by_text("Raw text").click()
    page.locator("code", has_text=bad + " two").wait_for()
    assert page.evaluate("window.stolen") is None
    assert page.locator("a[href*=evil], img[src*=evil]").count() == 0
    assert not [url for url in asked if "evil" in url]
    queue.set_open(ledger, LOCAL_PERSON, "hostile", False)


def test_mathematics_brings_no_links_or_images(page: Any, ledger: Database) -> None:
    bad = (
        r"$$\href{http://evil.example}{x}$$ $$\url{http://evil.example/u}$$ "
        r"$$\includegraphics{http://evil.example/g.png}$$ "
        r"$$\htmlStyle{background:url(http://evil.example/s.png)}{y}$$ "
        "$$\n\n![i](http://evil.example/i.png)\n\n<img src='http://evil.example/j.png'>\n$$ so"
    )
    hostile = NewItem(
        name="hostile",
        prompt=(Message("user", "maths?"),),
        responses=(Response(text=f"{bad} one"), Response(text=f"{bad} two")),
        source="test",
    )
    queue.create_batch(ledger, LOCAL_PERSON, "maths", [hostile], domain="helpfulness")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    settled(page)
    page.get_by_text("maths", exact=True).click()
    page.get_by_text("so one").wait_for()
    settled(page)
    expect(page.locator(".katex")).to_have_count(10)  # 5 formulas of each, drawn by a late script
    assert page.locator("a[href*=evil], img[src*=evil], [style*=evil]").count() == 0
    assert not [url for url in asked if "evil" in url]
    queue.set_open(ledger, LOCAL_PERSON, "maths", False)


def test_a_phone_needs_no_sideways_scrolling(browser: Any, server: Server) -> None:
    page = browser.new_page()
    page.set_viewport_size({"width": 360, "height": 740})
    open_app(page, server)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_every_choice_has_a_name_and_its_key(page: Any) -> None:
    names = page.get_by_role("button").all_inner_texts()
    joined = " ".join(" ".join(names).split())
    for words in ("A significantly 1", "A negligibly 4", "B negligibly 5", "B significantly 8"):
        assert words in joined
    for name in ("Submit", "Skip", "Edit previous"):
        assert page.get_by_role("button", name=name).count() == 1


def test_kill_9_of_the_server_in_the_middle(browser: Any, tmp_path: Path) -> None:
    with Server(tmp_path, free_port()) as server:
        page = browser.new_page()
        open_app(page, server)
        choose(page)
        page.keyboard.press("s")
        page.get_by_test_id("stToast").first.wait_for()
        settled(page)
        here = shown(page)
        choose(page, "3")
        server.kill()
        page.locator('[data-test-connection-state="CONNECTED"]').wait_for(state="detached")
        database = Database(server.ledger)
        assert rows(database) == 1  # what was acknowledged is there
        server.start()
        # The page finds its way back by itself; what was chosen, but not submitted, may be gone.
        page.locator('[data-test-connection-state="CONNECTED"]').wait_for()
        settled(page)
        assert shown(page) == here
        page.wait_for_timeout(500)  # Streamlit drops what is pressed in the moment it reconnects
        page.keyboard.press("8")
        page.get_by_text("Ready to submit: B significantly better").wait_for()
        settled(page)
        page.keyboard.press("s")
        wait_until(lambda: rows(database) == 2)
        settled(page)
        assert rows(database) == 2
        latest = history.recent(database, LOCAL_PERSON, 1)[0].judgement
        assert (latest.side, latest.strength) == ("B", "significantly_better")
        database.close()
        page.close()
