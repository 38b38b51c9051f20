"""Makes the pictures of the guides: python -m tests.annotation_app.pictures"""

import io
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from annotation_app.judgement import Judgement
from annotation_app.ledger import access, queue, work
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import NewItem
from annotation_app.responders.demo import draw_items
from annotation_app.settings import LOCAL_PERSON
from data.schemas import STRENGTHS
from tests.annotation_app.conftest import free_port
from tests.annotation_app.server import ROOT, Server

OUT = ROOT / "docs" / "images"
PEOPLE = {"ann": 0.05, "ben": 0.15, "cem": 0.3}
"""How often each one chooses by chance."""
READY = '[data-test-script-state="notRunning"]'


def make_pictures() -> None:
    OUT.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(Path(directory), free_port()) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        _fill(server)
        wide = browser.new_page(viewport={"width": 1200, "height": 800})
        _open(wide, server.url)
        wide.keyboard.press("2")
        wide.get_by_text("Ready to submit").wait_for()
        _save(wide, "compare")
        wide.get_by_text("demo-safety").click()
        wide.get_by_text("Both are unsafe").wait_for()
        wide.keyboard.press("2")
        wide.get_by_text("say which of the two").wait_for()
        wide.keyboard.press("i")
        wide.get_by_text("you prefer A but say").wait_for()
        _save(wide, "safety")
        wide.set_viewport_size({"width": 1200, "height": 1080})
        wide.goto(f"{server.url}/manage")
        wide.get_by_text("Quality").click()
        wide.get_by_text("Pairs of annotators").wait_for()
        _save(wide, "quality")
        phone = browser.new_page(viewport={"width": 390, "height": 1060}, color_scheme="dark")
        _open(phone, server.url)
        _save(phone, "phone")
        browser.close()


def _fill(server: Server) -> None:
    """Three simulated people judge the same items; the shorter response mostly wins."""
    rng = random.Random(0)
    now = [time.time()]  # goes on with the work: who judges takes time
    database = Database(server.ledger, lambda: now[0])
    for person in PEOPLE:
        access.ensure_person(database, person, "annotator")
    for batch, (items, weights) in _batches().items():
        queue.create_batch(database, LOCAL_PERSON, batch, items, domain="helpfulness", overlap=3)
        for person, noise in PEOPLE.items():
            while (view := work.next_assignment(database, person, batch)) is not None:
                better = "A" if len(view.response_a) < len(view.response_b) else "B"
                side = better if rng.random() > noise else rng.choice("AB")
                strength, seconds = rng.choices(STRENGTHS, weights)[0], rng.uniform(8, 40)
                now[0] += seconds
                said = Judgement(side=side, strength=strength, seconds=seconds)  # type: ignore[arg-type]
                work.submit(database, person, view.assignment_id, 0, said)
    database.close()


def _batches() -> dict[str, tuple[list[NewItem], tuple[int, ...]]]:
    """Items, every other one with the brief writer first, and how often each strength is said."""
    drawn = draw_items("helpfulness", 60)
    items = [
        replace(one, responses=one.responses[::-1]) if n % 2 and one.responses else one
        for n, one in enumerate(drawn)
    ]
    return {"week-1": (items[:30], (4, 4, 2, 1)), "week-2": (items[30:], (2, 3, 4, 3))}


def _open(page: Any, url: str) -> None:
    page.set_default_timeout(120_000)  # on a crowded machine
    page.goto(url)
    page.get_by_role("button", name="Submit").wait_for()
    page.locator(READY).wait_for()


def _save(page: Any, name: str) -> None:
    page.locator(READY).wait_for()
    page.wait_for_timeout(800)  # until what glides has come to rest
    picture = Image.open(io.BytesIO(page.screenshot()))
    # 64 colours: a quarter of the size, and the same to the eye.
    picture.convert("RGB").quantize(64).save(OUT / f"{name}.png", optimize=True)


if __name__ == "__main__":
    make_pictures()
