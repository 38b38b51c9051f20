"""Live dialogues in a browser: from a prompt over growing responses to a trained reward model."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annotation_app.ledger import queue, work
from annotation_app.ledger.database import Database
from annotation_app.settings import LOCAL_PERSON
from data.dataset import read_rows
from data.schemas import DOMAINS, Comparison
from rlhf.cli.main import main
from tests.annotation_app.conftest import free_port, item, judgement
from tests.annotation_app.models import DONE, event, running_models
from tests.annotation_app.server import Server
from tests.annotation_app.test_browser import browser, choose, open_app, settled
from tests.reward.tiny import write_language_model

__all__ = ["browser"]
pytestmark = pytest.mark.browser
PROMPT = "What is a crane?"
HALF, REST = "At {}: [a bird](http://evil.example)", ", or a machine."
VARIANTS = ["--models", "[m-one, m-two]", "--temperatures", "[0.5, 1.0]"]


def fill(database: Database) -> None:
    """Sixty judged items of each domain, so that there is something to train on."""
    for domain in DOMAINS:
        batch = f"judged-{domain}"
        queue.create_batch(
            database, LOCAL_PERSON, batch, [item(n) for n in range(60)], domain=domain
        )
        said = judgement(safety="both_safe" if domain == "safety" else None)
        while (view := work.next_assignment(database, LOCAL_PERSON, batch)) is not None:
            work.submit(database, LOCAL_PERSON, view.assignment_id, 0, said)
    queue.create_batch(database, LOCAL_PERSON, "live", [], domain="helpfulness", live_turns=2)


def judge_a_live_dialogue(page: Any, may_go_on: threading.Event) -> None:
    """Writes a prompt, watches both responses grow, and prefers one."""
    page.get_by_text("live", exact=True).click()
    page.get_by_label("Begin a dialogue: your first message").fill(PROMPT)
    page.get_by_role("button", name="Send").click()
    where = page.get_by_text(HALF.format(0.5), exact=True).bounding_box()["x"]
    page.get_by_text(HALF.format(1.0), exact=True).wait_for()
    assert page.get_by_role("button", name="Submit").count() == 0  # nothing to judge yet
    may_go_on.set()
    whole = page.get_by_text(HALF.format(0.5) + REST, exact=True)
    settled(page)
    assert whole.bounding_box()["x"] == where  # it grew where it stands
    assert "m-one" not in page.content() and page.locator("a[href*=evil]").count() == 0
    choose(page)
    page.keyboard.press("s")
    page.get_by_label("Your next message").wait_for()  # the chosen response goes on


@pytest.mark.slow  # a server, a browser and two reward models
def test_from_a_prompt_to_a_trained_reward_model(
    browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def pieces(body: dict[str, Any]) -> Iterator[bytes]:
        yield event(HALF.format(body["temperature"]))
        may_go_on.wait(60)
        yield event(REST, finish_reason="stop") + DONE

    may_go_on = threading.Event()
    with running_models() as models:
        models.answer = lambda body: (200, pieces(body))
        endpoint = ["--endpoint", models.endpoint.url, *VARIANTS]
        with Server(tmp_path, free_port(), *endpoint) as server:
            database = Database(server.ledger)
            fill(database)
            database.close()
            page = browser.new_page()
            page.set_default_timeout(60_000)
            open_app(page, server)
            judge_a_live_dialogue(page, may_go_on)
            page.goto(f"{server.url}/manage")
            page.get_by_text("Publish", exact=True).click()
            page.get_by_test_id("stBaseButton-primary").click()
            page.get_by_text("new rows").wait_for()
            page.close()
    (row,) = [r for r in read_rows(server.dataset, Comparison) if r.batch == "live"]
    assert row.prompt[0].content == PROMPT and row.turns == 1
    assert {row.chosen_model, row.rejected_model} == {"m-one", "m-two"}
    assert {row.chosen_temperature, row.rejected_temperature} == {0.5, 1.0}
    assert main(["data", "stats", str(server.dataset)]) == 0
    model, out = write_language_model(tmp_path / "model"), tmp_path / "run"
    words = ["reward", "train", "--model", str(model), "--data", str(server.dataset)]
    words += ["--out", str(out), "--placement.ray", "false", "--train.batch_pairs", "8"]
    assert main(words) == 0, capsys.readouterr().err
    assert (out / "helpfulness" / "model" / "config.json").exists()
