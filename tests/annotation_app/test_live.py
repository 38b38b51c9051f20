"""Dialogues that annotators write, and the models' endpoint with everything that can go wrong."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annotation_app.ledger import live, oversight, queue, work
from annotation_app.ledger.access import NotAllowed
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import Response
from annotation_app.publish import publish
from annotation_app.responders.endpoint import (
    KEY_VARIABLE,
    MAX_BYTES,
    Endpoint,
    ResponderError,
    sample,
)
from data.dataset import read_rows
from data.errors import ConfigError, DataError
from data.schemas import Comparison, Message
from tests.annotation_app.conftest import MANAGER, Clock, free_port, judgement
from tests.annotation_app.models import DONE, Answer, ModelServer, completion, event, running_models

PAIR = (
    Response(text="one", model="big", temperature=0.7),
    Response(text="two", model="big", temperature=1.0),
)


@pytest.fixture
def live_batch(database: Database) -> Database:
    queue.create_batch(database, MANAGER, "live", [], domain="helpfulness", live_turns=2)
    return database


@pytest.fixture
def models() -> Iterator[ModelServer]:
    with running_models() as models:
        yield models


def ask(endpoint: Endpoint) -> tuple[Response, ...]:
    *_, whole = sample(endpoint, (0, 1), [Message("user", "Hi")], seed=7)
    return whole


def test_both_variants_are_asked(models: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "key-1")
    assert ask(models.endpoint) == (
        Response(text="m-one says hello", model="m-one", temperature=0.5),
        Response(text="m-two says hello", model="m-two", temperature=1.0),
    )
    bodies = sorted((body for body, _ in models.asked), key=lambda body: body["model"])
    assert [body["seed"] for body in bodies] == [7, 8]
    assert [body["temperature"] for body in bodies] == [0.5, 1.0]
    assert bodies[0]["messages"] == [{"role": "user", "content": "Hi"}]
    assert {key for _, key in models.asked} == {"Bearer key-1"}


def test_answers_grow_piece_by_piece(models: ModelServer) -> None:
    may_go_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b": a comment\n" + event(None, role="assistant") + event("So ")
        may_go_on.wait(10)
        yield event("it \ud83d") + event("\ude00 is\0", finish_reason="stop")
        yield b'data: {"choices": [], "usage": {}}\n' + DONE

    models.answer = lambda _: (200, pieces())
    growing = sample(models.endpoint, [1], [Message("user", "Hi")], seed=7)
    seen = [next(growing)[0].text]
    while seen[-1] != "So ":
        seen.append(next(growing)[0].text)
    may_go_on.set()
    *_, (whole,) = growing
    assert whole == Response(text="So it 😀 is�", model="m-two", temperature=1.0)
    assert [body["stream"] for body, _ in models.asked] == [True]


def test_what_there_is_comes_again_while_a_model_thinks(models: ModelServer) -> None:
    def pieces() -> Iterator[bytes]:
        yield event("So")
        thinks.wait(10)
        yield DONE

    thinks = threading.Event()
    models.answer = lambda _: (200, pieces())
    growing = sample(models.endpoint, [0], [Message("user", "Hi")], seed=7)
    while next(growing)[0].text != "So":
        pass
    again = [next(growing)[0].text for _ in range(2)]  # nothing new came meanwhile
    thinks.set()
    assert again == ["So", "So"] and [said.text for (said,) in growing][-1] == "So"


def test_half_a_character_is_shown_as_none(models: ModelServer) -> None:
    models.answer = lambda _: (200, completion("a \ud83d b"))
    assert [response.text for response in ask(models.endpoint)] == ["a � b"] * 2


def test_nobody_waits_for_an_answer_that_nobody_waits_for(models: ModelServer) -> None:
    def pieces() -> Iterator[bytes]:
        while not hung_up.is_set():
            yield event("on and ")
            time.sleep(0.01)

    hung_up = threading.Event()
    models.answer = lambda _: (200, pieces())
    growing = sample(models.endpoint, (0, 1), [Message("user", "Hi")], seed=7)
    next(growing)
    begin = time.monotonic()
    growing.close()
    hung_up.set()
    assert time.monotonic() - begin < 1  # of the two seconds that the endpoint has


def slow(_: dict[str, Any]) -> tuple[int, bytes]:
    time.sleep(1.0)
    return 200, completion("late")


def dripping(_: dict[str, Any]) -> tuple[int, Iterator[bytes]]:
    return 200, (time.sleep(0.1) or b"x" for _ in range(10))  # each piece in time, never an end


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda _: (500, b"no"), "answered 500"),
        (lambda _: (200, b"<html>"), "something unreadable"),
        (lambda _: (200, b"{}"), "something unreadable"),
        (lambda _: (200, b"[" * 100_000), "something unreadable"),
        (lambda _: (200, completion("  \n")), "was empty"),
        (lambda _: (200, completion(None)), "was empty"),
        (lambda _: (200, completion("x" * MAX_BYTES)), "too long"),
        (lambda _: (200, b"data: {}\n\n" + DONE), "something unreadable"),
        (lambda _: (200, b"data: \xff\xfe\n\n"), "something unreadable"),
        (lambda _: (200, b'data: {"error": {"message": "out of memory"}}\n\n'), "unreadable"),
        (lambda _: (200, b'data: {"choices": ["x"]}\n\n'), "something unreadable"),
        (lambda _: (200, event(["x"])), "something unreadable"),
        (lambda _: (200, event("so far, ")), "broke off"),
        (lambda _: (200, event(None) + DONE), "was empty"),
        (lambda _: (200, DONE), "was empty"),
        (lambda _: (200, (event("x" * 1000) for _ in range(MAX_BYTES // 1000))), "too long"),
        (slow, "did not answer within 0 s"),
        (dripping, "did not answer within 0 s"),
    ],
)
def test_whatever_goes_wrong_is_said(models: ModelServer, answer: Answer, message: str) -> None:
    models.answer = answer
    quick = {"timeout": 0.3} if answer in (slow, dripping) else {}
    endpoint = Endpoint(**vars(models.endpoint) | quick)
    with pytest.raises(ResponderError, match=message):
        ask(endpoint)


def test_the_whole_of_an_answer_has_its_time(models: ModelServer) -> None:
    def pieces() -> Iterator[bytes]:
        yield b": I think\n"
        over.wait(10)

    def answer(_: dict[str, Any]) -> tuple[int, Iterator[bytes]]:
        time.sleep(0.8)  # of one second
        return 200, pieces()

    over = threading.Event()
    models.answer = answer
    begin = time.monotonic()
    with pytest.raises(ResponderError, match="did not answer within 1 s"):
        ask(Endpoint(**vars(models.endpoint) | {"timeout": 1.0}))
    assert time.monotonic() - begin < 1.7  # 1.8 if the first byte began it anew
    over.set()


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    endpoint = Endpoint(url=url, models=("a", "b"), temperatures=(0.0, 1.0))
    with pytest.raises(ResponderError, match="cannot be reached"):
        ask(endpoint)
    with pytest.raises(ConfigError, match="write http"):
        Endpoint(url="file:///etc", models=("a", "b"), temperatures=(0.0, 1.0))


@pytest.mark.parametrize(
    "garbage", [b"\x00\xff\x00 not HTTP at all\r\n\r\n", b"HTTP/1.1 200 OK\r\n" * 200, b""]
)
def test_a_server_that_speaks_no_http(garbage: bytes) -> None:
    def serve() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(garbage)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with pytest.raises(ResponderError, match=r"something unreadable|cannot be reached"):
            ask(Endpoint(url=url, models=("a", "b"), temperatures=(0.0, 1.0), timeout=5.0))
        thread.join(10)


def test_a_dialogue_from_the_first_message_to_two_rows(
    live_batch: Database, tmp_path: Path
) -> None:
    view = live.open_dialogue(live_batch, "ann", "live", "What is up?")
    assert not view.sampled and view.prompt == (Message("user", "What is up?"),)
    assert work.next_assignment(live_batch, "ann", "live") == view  # a reload, a crash
    with pytest.raises(DataError, match="no responses yet"):
        work.submit(live_batch, "ann", view.assignment_id, 0, judgement())
    view = live.store_responses(live_batch, "ann", view.assignment_id, PAIR)
    assert {view.response_a, view.response_b} == {"one", "two"}
    again = (Response(text="three"), Response(text="four"))  # sampled a second time, in vain
    assert live.store_responses(live_batch, "ann", view.assignment_id, again) == view
    assert live.continuation(live_batch, "ann", view.assignment_id, "live") == ()
    work.submit(live_batch, "ann", view.assignment_id, 0, judgement(side="B"))
    so_far = (Message("user", "What is up?"), Message("assistant", view.response_b))
    assert live.continuation(live_batch, "ann", view.assignment_id, "live") == so_far
    assert live.continuation(live_batch, "ann", view.assignment_id, "b1") == ()
    second = live.continue_dialogue(live_batch, "ann", view.assignment_id, "And now?")
    assert second.prompt == (*so_far, Message("user", "And now?"))
    live.store_responses(live_batch, "ann", second.assignment_id, PAIR)
    work.submit(live_batch, "ann", second.assignment_id, 0, judgement())
    assert (
        live.continuation(live_batch, "ann", second.assignment_id, "live") == ()
    )  # two turns it is
    with pytest.raises(DataError, match="cannot go on"):
        live.continue_dialogue(live_batch, "ann", second.assignment_id, "And now?")
    publish(live_batch, MANAGER, tmp_path / "out")
    assert [row.turns for row in read_rows(tmp_path / "out", Comparison)] == [1, 2]
    batch = next(b for b in queue.progress(live_batch, "ann") if b.batch_id == "live")
    assert (batch.items, batch.submitted) == (2, 2)


def test_two_tabs_begin_two_dialogues_and_lose_none(live_batch: Database, clock: Clock) -> None:
    first = live.open_dialogue(live_batch, "ann", "live", "one")
    clock.now += 1
    second = live.open_dialogue(live_batch, "ann", "live", "two")
    for view in (first, second):
        assert work.next_assignment(live_batch, "ann", "live") == view
        live.store_responses(live_batch, "ann", view.assignment_id, PAIR)
        work.submit(live_batch, "ann", view.assignment_id, 0, judgement())


def test_dialogues_are_their_authors_own(live_batch: Database) -> None:
    view = live.open_dialogue(live_batch, "ann", "live", "Mine")
    assert work.next_assignment(live_batch, "ben", "live") is None
    for call in (
        lambda: live.store_responses(live_batch, "ben", view.assignment_id, PAIR),
        lambda: live.continue_dialogue(live_batch, "ben", view.assignment_id, "x"),
        lambda: live.continuation(live_batch, "ben", view.assignment_id, "live"),
        lambda: live.open_dialogue(live_batch, "nobody", "live", "x"),
    ):
        with pytest.raises(NotAllowed):
            call()
    for text in ("", "  ", "x" * (live.MAX_PROMPT + 1), "\0"):
        with pytest.raises(DataError, match="write a message"):
            live.open_dialogue(live_batch, "ann", "live", text)
    with pytest.raises(DataError, match="takes no dialogues"):
        live.open_dialogue(live_batch, "ann", "b1", "not a live batch")
    queue.set_open(live_batch, MANAGER, "live", False)
    with pytest.raises(DataError, match="takes no dialogues"):
        live.open_dialogue(live_batch, "ann", "live", "closed")


def test_a_response_that_names_its_model_is_flagged(live_batch: Database) -> None:
    view = live.open_dialogue(live_batch, "ann", "live", "Who are you?")
    pair = (Response(text="I am BIG, made by us", model="big"), Response(text="x", model="big"))
    live.store_responses(live_batch, "ann", view.assignment_id, pair)
    for outcome in ("saved", "already saved"):
        receipt = work.submit(live_batch, "ann", view.assignment_id, 0, judgement())
        assert receipt.outcome == outcome
    (waiting,) = oversight.flagged(live_batch, MANAGER)
    assert waiting.flag == work.NAMES_ITS_MODEL
