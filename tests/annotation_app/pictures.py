"""Makes the pictures of the guides: python -m tests.annotation_app.pictures"""

import io
import random
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from annotation_app.judgement import Judgement
from annotation_app.ledger import access, queue, work
from annotation_app.ledger.database import Database
from annotation_app.responders.demo import draw_items
from annotation_app.settings import LOCAL_PERSON
from data.schemas import STRENGTHS
from tests.annotation_app.conftest import free_port
from tests.annotation_app.server import ROOT, Server

OUT = ROOT / "docs" / "images"
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
        wide.goto(f"{server.url}/manage")
        wide.get_by_text("Quality").click()
        wide.get_by_text("Gwet's AC1").first.wait_for()
        _save(wide, "quality")
        phone = browser.new_page(viewport={"width": 390, "height": 1060}, color_scheme="dark")
        _open(phone, server.url)
        _save(phone, "phone")
        browser.close()


def _fill(server: Server) -> None:
    """Three simulated people judge the same thirty items; the shorter response mostly wins."""
    rng = random.Random(0)
    database = Database(server.ledger)
    items = draw_items("helpfulness", 30)
    queue.create_batch(database, LOCAL_PERSON, "team", items, domain="helpfulness", overlap=3)
    for person, noise in (("ann", 0.05), ("ben", 0.15), ("cem", 0.3)):
        access.ensure_person(database, person, "annotator")
        while (view := work.next_assignment(database, person, "team")) is not None:
            better = "A" if len(view.response_a) < len(view.response_b) else "B"
            side = better if rng.random() > noise else rng.choice("AB")
            strength = rng.choices(STRENGTHS, (2, 4, 3, 1))[0]
            said = Judgement(side=side, strength=strength, seconds=rng.uniform(8, 40))  # type: ignore[arg-type]
            work.submit(database, person, view.assignment_id, 0, said)
    database.close()


def _open(page: Any, url: str) -> None:
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
