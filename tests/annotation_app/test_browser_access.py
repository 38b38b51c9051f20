"""Who can use the pages: contrast, names, widths, keys and directions of writing, in a browser."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from annotation_app.invitations import link
from annotation_app.ledger import access, checks, oversight, queue, red_team, work
from annotation_app.ledger.checks import Rules
from annotation_app.ledger.database import Database
from annotation_app.ledger.demonstrations import write_demonstration
from annotation_app.ledger.evaluations import add_evaluation
from annotation_app.ledger.invitations import invite
from annotation_app.ledger.rows import NewItem, Response
from annotation_app.settings import LOCAL_PERSON
from data.schemas import Message
from tests.annotation_app.conftest import free_port, item, judgement
from tests.annotation_app.server import Server
from tests.annotation_app.test_browser import (
    DONE,
    browser,
    choose,
    ledger,
    open_app,
    settled,
)

__all__ = ["browser", "ledger"]
pytestmark = pytest.mark.browser

SECTIONS = (
    *("Progress", "Quality", "Checks", "Evaluation", "Red team", "Flags"),
    *("Disagreements", "People", "Publish", "Audit"),
)
PAGES = ("", "recent", "evaluate", "demonstrations", "red-team")
NAMED = re.compile(r"^\s*- (button|textbox|combobox|radio|checkbox|switch|spinbutton|link)\b(.*)$")

# WCAG 2: relative luminance, and the ratio of text to the colours below it; controls that are
# disabled are exempt, large text (24 px, or 18.66 px and bold) needs 3 and not 4.5.
CONTRAST = """() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, below) => {
    const a = top[3] / 255;
    return [0, 1, 2].map((i) => a * top[i] + (1 - a) * below[i]).concat(255);
  };
  const opacity = (e) => e ? +getComputedStyle(e).opacity * opacity(e.parentElement) : 1;
  const ground = (e) => e
    ? over(rgba(getComputedStyle(e).backgroundColor), ground(e.parentElement))
    : [255, 255, 255, 255];
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const x = c[i] / 255;
    return sum + weight * (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  }, 0);
  const low = [];
  let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());) {
    const e = node.parentElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
    if (!node.data.trim() || box.width < 2) continue;
    if (!e.checkVisibility({visibilityProperty: true})) continue;
    if (e.closest("[disabled], [aria-disabled=true], [aria-hidden=true], script, style")) continue;
    const below = ground(e), colour = rgba(style.color);
    colour[3] *= opacity(e);
    const [a, b] = [light(over(colour, below)), light(below)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5))
      low.push(`${node.data.trim().slice(0, 40)}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
  }
  return [seen, low];
}"""


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With something to see on every page."""
    with Server(tmp_path_factory.mktemp("app"), free_port()) as server:
        database = Database(server.ledger)
        fill(database)
        database.close()
        yield server


def fill(database: Database) -> None:
    """Two people disagree, somebody flags, and there is work of every other kind."""
    items = [item(n) for n in range(20, 23)]
    queue.create_batch(database, LOCAL_PERSON, "two", items, domain="safety", overlap=2)
    for person, word in (("ann", "first"), ("ben", "second")):
        access.ensure_person(database, person, "annotator")
        for flag in ("odd", "", ""):
            view = work.next_assignment(database, person, "two")
            assert view is not None
            side = "A" if view.response_a.startswith(word) else "B"
            said = judgement(side=side, flag=flag, comment="clear", safety="both_safe")
            work.submit(database, person, view.assignment_id, 0, said)
    add_evaluation(database, LOCAL_PERSON, "final", "pair", [item(7)])
    write_demonstration(database, "ann", "d", "helpfulness", "What is 2 + 2?", "4")
    red_team.begin_attack(database, "ann", "a", "illicit", "logic", "how?", 5.0)
    red_team.store_answer(database, "ann", "a", 1, Response(text="no", model="big"))
    red_team.rate_attack(database, "ann", "a", 1, 5, 5.0)
    view = work.next_assignment(database, LOCAL_PERSON, "two")
    assert view is None  # so the demo batch stays the first


def visit(page: Any, server: Server) -> Iterator[str]:
    """Every page and section, drawn."""
    for name in PAGES:
        page.goto(f"{server.url}/{name}")
        page.locator("h1").wait_for()
        page.locator(DONE).wait_for()
        yield name
    page.goto(f"{server.url}/manage")
    for name in SECTIONS:
        page.get_by_test_id("stButtonGroup").first.get_by_text(name, exact=True).click()
        page.wait_for_timeout(300)
        page.locator(DONE).wait_for()
        yield name


def nameless(page: Any) -> list[str]:
    """Controls that a screen reader cannot name."""
    found = [NAMED.match(line) for line in page.locator("body").aria_snapshot().splitlines()]
    return [m[0].strip() for m in found if m and not m[2].lstrip().startswith('"')]


def problems_of(page: Any, least: int = 6) -> list[object]:
    """What is too faint, has no name, or is too wide; `least`: texts that there are to look at."""
    seen, low = page.evaluate(CONTRAST)
    assert seen >= least
    width = page.viewport_size["width"]
    wide = page.evaluate("document.documentElement.scrollWidth") > width
    return [*low, *nameless(page), *(["wider than the window"] if wide else [])]


def new_page(browser: Any, scheme: str, width: int) -> Any:
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    return page


@pytest.mark.slow  # thirty pages
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_every_page_can_be_read_named_and_needs_no_sideways_scrolling(
    browser: Any,
    server: Server,
    scheme: str,
    width: int,
) -> None:
    page = new_page(browser, scheme, width)
    problems = {name: problems_of(page) for name in visit(page, server)}
    page.close()
    assert {name: found for name, found in problems.items() if found} == {}


@pytest.mark.slow  # a server of its own
@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_the_pages_of_a_team_too(browser: Any, tmp_path: Path, scheme: str, width: int) -> None:
    with Server(tmp_path, free_port(), "--sign_in", "invitations") as server:
        database = Database(server.ledger)
        access.ensure_person(database, LOCAL_PERSON, "manager")
        fill(database)
        old = Database(server.ledger, lambda: time.time() - 40 * 86_400)
        expired = invite(old, LOCAL_PERSON, "rita", "reviewer", days=30)
        token = invite(database, LOCAL_PERSON, "rita", "reviewer")
        page = new_page(browser, scheme, width)
        page.goto(server.url)
        page.get_by_text("Open the invitation link").wait_for()
        assert problems_of(page, least=2) == []
        page.goto(link(server.url, expired))
        page.get_by_text("has expired; ask a manager for a new one").wait_for()
        assert problems_of(page, least=1) == []
        page.goto("about:blank")  # else only what is behind the # would change
        page.goto(link(server.url, token))
        page.get_by_role("heading", name="Compare two responses").wait_for()
        page.goto(f"{server.url}/account")
        page.get_by_text("rita · reviewer").wait_for()
        assert problems_of(page) == []
        page.goto(f"{server.url}/review")
        page.get_by_text("Flag: odd").first.wait_for()
        assert problems_of(page) == []
        page.get_by_test_id("stButtonGroup").first.get_by_text("Disagreements", exact=True).click()
        page.get_by_text("What annotators said").wait_for()
        assert problems_of(page) == []
        page.close()
        for one in (old, database):
            one.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    page = browser.new_page()
    page.set_default_timeout(60_000)
    open_app(page, server)
    yield page
    page.close()


def test_the_contrast_of_the_main_page(page: Any) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        choose(page)
        seen, low = page.evaluate(CONTRAST)
        assert seen > 20 and low == []
    # And the measure does measure: grey on grey is found.
    page.evaluate("document.querySelector('h1').style = 'color: #888; background: #aaa'")
    assert "Compare two responses: 1.5" in str(page.evaluate(CONTRAST)[1])


def test_too_fast_is_said_above_the_next_item(page: Any, ledger: Database) -> None:
    checks.set_rules(ledger, LOCAL_PERSON, "demo-helpfulness", Rules(min_seconds=600.0))
    choose(page)
    page.keyboard.press("s")
    warning = page.get_by_text("sooner than anybody can read")
    warning.wait_for()
    settled(page)
    assert warning.is_visible() and page.get_by_role("alert").count() >= 1
    checks.set_rules(ledger, LOCAL_PERSON, "demo-helpfulness", Rules(min_seconds=0.0))
    choose(page)
    page.keyboard.press("s")
    warning.wait_for(state="detached")  # until the next answer


def test_skipping_by_keyboard_alone(page: Any, ledger: Database) -> None:
    before = skipped(ledger)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(
            "document.activeElement.matches('button:has(p)') && "
            "document.activeElement.innerText.includes('Skip')"
        ):
            break
    page.keyboard.press("Enter")
    button = page.get_by_role("button", name="Skip this item")
    button.wait_for()
    for _ in range(10):
        page.keyboard.press("Tab")
        if button.evaluate("e => e === document.activeElement"):
            break
    page.keyboard.press("Enter")
    page.get_by_text("Skipped").first.wait_for()
    assert skipped(ledger) == before + 1


def skipped(ledger: Database) -> int:
    return sum(batch.skipped for batch in queue.progress(ledger, LOCAL_PERSON))


def test_texts_from_right_to_left_begin_at_the_right(page: Any, ledger: Database) -> None:
    arabic = NewItem(
        name="arabic",
        prompt=(Message("user", "ما هو الكركي؟"),),
        responses=(Response(text="طائر كبير."), Response(text="A big bird.")),
        source="test",
    )
    queue.create_batch(ledger, LOCAL_PERSON, "arabic", [arabic], domain="helpfulness")
    page.reload()
    settled(page)
    page.get_by_text("arabic", exact=True).click()
    page.get_by_text("A big bird.").wait_for()
    # Where the text stands in its pane: the gap to the left and to the right.
    gaps = """e => { const r = document.createRange();
      r.selectNodeContents(document.createTreeWalker(e, NodeFilter.SHOW_TEXT).nextNode());
      const text = r.getBoundingClientRect(), pane = e.getBoundingClientRect();
      return [text.left - pane.left, pane.right - text.right]; }"""
    left, right = page.locator('[data-testid="stText"]', has_text="طائر").evaluate(gaps)
    assert left > 100 > 5 > right
    left, right = page.locator('[data-testid="stText"]', has_text="A big bird.").evaluate(gaps)
    assert right > 100 > 5 > left
    page.get_by_text("Comment or flag").click()
    field = page.get_by_label("Comment (optional)")
    assert field.evaluate("e => getComputedStyle(e).unicodeBidi") == "plaintext"
    queue.set_open(ledger, LOCAL_PERSON, "arabic", False)


def test_a_manager_downloads_an_export(page: Any, server: Server, ledger: Database) -> None:
    page.goto(f"{server.url}/manage")
    page.get_by_text("Publish", exact=True).first.click()
    page.get_by_label("Batch").click()
    page.get_by_role("option", name="two", exact=True).click()
    page.locator(DONE).wait_for()
    with page.expect_download() as download:
        page.get_by_test_id("stDownloadButton").get_by_role("button").click()
    assert download.value.suggested_filename == "two.parquet"
    rows = pq.read_table(download.value.path()).num_rows
    judged = oversight.judged(ledger, LOCAL_PERSON, "two")
    assert rows == len(judged) - 2 > 0  # without the flagged ones
    assert oversight.list_events(ledger, LOCAL_PERSON, limit=1)[0].action == "export"
