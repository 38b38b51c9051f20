"""Who is let in, who is kept waiting, and that every door asks."""

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import streamlit as st
from sqlalchemy import true

import annotation_app.ledger
from annotation_app import door
from annotation_app.attempts import MAX_FAILURES, WINDOW_SECONDS, Attempts, TooManyAttempts
from annotation_app.content import literal
from annotation_app.door import COOKIE, NotSignedIn, person_at
from annotation_app.invitations import BadInvitation
from annotation_app.ledger import access
from annotation_app.ledger.access import LOCAL_PERSON, NotAllowed
from annotation_app.ledger.database import Database
from annotation_app.ledger.invitations import invite, revoke
from annotation_app.settings import AppSettings, SignIn
from tests.annotation_app.conftest import MANAGER, Clock


def settings(sign_in: SignIn) -> AppSettings:
    return AppSettings(ledger="unused", publish_to="unused", sign_in=sign_in)


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """What Streamlit knows of the browser: cookies, address, who the provider says it is."""
    seen = SimpleNamespace(cookies={}, ip_address="192.0.2.7", user={}, state={})
    monkeypatch.setattr(st, "context", seen)
    monkeypatch.setattr(st, "user", seen.user)
    monkeypatch.setattr(st, "session_state", seen.state)
    door.attempts.cache_clear()
    yield seen
    door.attempts.cache_clear()


@pytest.fixture(params=["sqlite"])
def place(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite")


def test_failures_of_a_minute_are_counted_by_address(clock: Clock) -> None:
    attempts = Attempts(clock)
    for _ in range(MAX_FAILURES):
        attempts.check("a")
        attempts.failed("a")
        clock.now += 1
    with pytest.raises(TooManyAttempts, match="try again in 50 s"):  # 60 s after the first of ten
        attempts.check("a")
    attempts.check("b")
    clock.now += WINDOW_SECONDS - MAX_FAILURES
    attempts.check("a")


def test_locally_nothing_that_a_browser_says_matters(
    database: Database, browser: SimpleNamespace
) -> None:
    browser.cookies[COOKIE] = "whatever"
    browser.user.update(is_logged_in=True, email="eve@evil.example", email_verified=True)
    assert person_at(settings("local"), database) == LOCAL_PERSON


def test_a_link_lets_in_until_it_is_revoked(database: Database, browser: SimpleNamespace) -> None:
    with pytest.raises(NotSignedIn, match="invitation link"):
        person_at(settings("invitations"), database)
    token = invite(database, MANAGER, "ann", "annotator")
    browser.cookies[COOKIE] = token
    for _ in range(3):
        assert person_at(settings("invitations"), database) == "ann"
    revoke(database, MANAGER, token.split(".")[0])
    with pytest.raises(BadInvitation, match="revoked"):
        person_at(settings("invitations"), database)


def test_who_is_in_is_out_when_the_link_expires(
    database: Database, browser: SimpleNamespace, clock: Clock
) -> None:
    browser.cookies[COOKIE] = invite(database, MANAGER, "ann", "annotator", days=30)
    assert person_at(settings("invitations"), database) == "ann"
    clock.now += 30 * 86_400 - 1
    assert person_at(settings("invitations"), database) == "ann"
    clock.now += 1
    with pytest.raises(BadInvitation, match="has expired; ask a manager for a new one"):
        person_at(settings("invitations"), database)


def test_guessing_has_to_wait_and_who_is_in_stays_in(
    database: Database, browser: SimpleNamespace
) -> None:
    token = invite(database, MANAGER, "ann", "annotator")
    browser.cookies[COOKIE] = token
    assert person_at(settings("invitations"), database) == "ann"
    inside = dict(browser.state)
    browser.state.clear()  # another browser of the same house
    for number in range(MAX_FAILURES):
        browser.cookies[COOKIE] = f"guess-{number}"
        with pytest.raises(BadInvitation):
            person_at(settings("invitations"), database)
    browser.cookies[COOKIE] = token
    with pytest.raises(TooManyAttempts):  # even the right one: else guessing would not be slower
        person_at(settings("invitations"), database)
    browser.state.update(inside)
    assert person_at(settings("invitations"), database) == "ann"
    browser.state.clear()
    browser.ip_address = "192.0.2.8"
    assert person_at(settings("invitations"), database) == "ann"


def test_openid_takes_only_verified_addresses(database: Database, browser: SimpleNamespace) -> None:
    access.add_person(database, MANAGER, "dora@lab.example", "reviewer")
    with pytest.raises(NotSignedIn, match="your organisation"):
        person_at(settings("openid"), database)
    browser.user.update(is_logged_in=True)
    for claims in (
        {},
        {"email": "dora@lab.example"},
        {"email": "dora@lab.example", "email_verified": False},
        {"email": "dora@lab.example", "email_verified": "true"},
        {"email": None, "email_verified": True},
        # The machine's own managers have no address, so nobody can be them.
        {"email": "local", "email_verified": True},
        {"email": "system", "email_verified": True},
        {"email": "dora@lab.example\0", "email_verified": True},
    ):
        browser.user.clear()
        browser.user.update(is_logged_in=True, **claims)
        with pytest.raises(NotAllowed):
            person_at(settings("openid"), database)
    browser.user.update(email="Dora@Lab.example", email_verified=True)
    name = person_at(settings("openid"), database)
    assert access.find_person(database, name).role == "reviewer"
    browser.user.update(email="eve@lab.example")
    with pytest.raises(NotAllowed, match="not known to this ledger"):  # signed in, not let in
        access.find_person(database, person_at(settings("openid"), database))
    browser.cookies[COOKIE] = invite(database, MANAGER, "ann", "annotator")
    assert person_at(settings("openid"), database) == "eve@lab.example"  # no second way in


@pytest.mark.parametrize(
    "text",
    [
        "![i](http://evil.example/i.png)",
        "a ` b `` c",
        "``",
        "`",
        "line\n\n# title\r\n<script>",
        "\x1b[31m",
    ],
)
def test_errors_are_shown_as_one_span_of_code(text: str) -> None:
    shown = literal(text)
    fence = shown[: len(shown) - len(shown.lstrip("`"))]
    inside = shown[len(fence) : -len(fence)]
    assert shown.endswith(fence) and fence and "\n" not in shown and "\x1b" not in shown
    assert fence not in inside and not inside.startswith("`") and not inside.endswith("`")


# A value for every kind of argument, so that a call gets as far as asking who calls.
SAMPLES: dict[str, Any] = {
    "text": "hello",
    "reason": "unclear",
    "domain": "helpfulness",
    "role": "annotator",
    "batch_id": "b1",
    "category": "illicit",
    "style": "logic",
    "is_done": true(),
}
# Calls that nobody makes in the name of a person: the composition root, and what a link opens.
WITHOUT_A_PERSON = {"ensure_person", "invited_person"}


def ledger_calls() -> list[Callable[..., Any]]:
    """Every public function of the ledger that is given a database."""
    found: list[Callable[..., Any]] = []
    for info in pkgutil.iter_modules(annotation_app.ledger.__path__):
        module = import_module(f"annotation_app.ledger.{info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            here = function.__module__ == module.__name__ and not name.startswith("_")
            if here and "database" in inspect.signature(function).parameters:
                found.append(function)
    return found


@pytest.mark.parametrize("call", ledger_calls(), ids=lambda call: call.__qualname__)
def test_every_call_of_the_ledger_asks_for_the_role(
    call: Callable[..., Any], database: Database
) -> None:
    if call.__name__ in WITHOUT_A_PERSON:
        return
    names = [n for n in inspect.signature(call).parameters if n != "database"]
    who = names[0]
    assert who in ("person_id", "reviewer_id", "manager_id"), f"{call} does not say for whom"
    refused = {"person_id": [], "reviewer_id": ["ann"], "manager_id": ["ann", "rita"]}[who]
    access.add_person(database, MANAGER, "rita", "reviewer")
    access.add_person(database, MANAGER, "pia", "manager")
    access.set_paused(database, MANAGER, "pia", True)
    rest = {
        name: SAMPLES.get(name, sample_of(parameter))
        for name, parameter in list(inspect.signature(call).parameters.items())[2:]
        if parameter.default is inspect.Parameter.empty
    }
    for person in ["nobody", "", "pia", *refused]:
        with pytest.raises(NotAllowed):
            call(database, person, **rest)


def sample_of(parameter: inspect.Parameter) -> Any:
    from annotation_app.judgement import Judgement
    from annotation_app.ledger.checks import Rules
    from annotation_app.ledger.publications import PlannedPart, WorkPart
    from annotation_app.ledger.rows import Response
    from annotation_app.ledger.schema import attacks

    kinds: list[tuple[str, Any]] = [
        ("Judgement", Judgement(side="A", strength="better")),
        ("PlannedPart", PlannedPart(key="k", first=1, last=2)),
        ("WorkPart", WorkPart(key="k", part=1)),
        ("Table", attacks),
        ("rows.Response'", Response(text="a")),  # one alone
        ("Response", [Response(text="a"), Response(text="b")]),
        ("NewItem", []),
        ("Rules", Rules()),
        ("Requirement", None),
        ("bool", True),
        ("int", 1),
        ("float", 1.0),
        ("str", "x"),
    ]
    return next((value for kind, value in kinds if kind in str(parameter.annotation)), None)
