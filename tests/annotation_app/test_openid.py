"""Signing in at a provider, through a browser and `st.login`."""

from pathlib import Path

import pytest

from annotation_app.ledger.access import SYSTEM, add_person, set_paused
from annotation_app.ledger.database import Database
from annotation_app.ledger.queue import create_batch
from tests.annotation_app.conftest import free_port, item
from tests.annotation_app.provider import running_provider
from tests.annotation_app.server import Server
from tests.annotation_app.test_browser import launched, open_app

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # a server, a provider, three sign-ins


def test_who_signs_in_is_let_in_only_if_the_ledger_knows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("authlib", reason="no authlib; pip install 'streamlit[auth]'")
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")  # the provider of the test has no TLS
    words = ("--sign_in", "openid", "--manager", "maria@lab.example")
    server = Server(tmp_path, free_port(), *words)
    with running_provider() as provider, launched() as browser:
        (tmp_path / ".streamlit").mkdir()
        (tmp_path / ".streamlit" / "secrets.toml").write_text(provider.secrets(server.url))
        with server:
            database = Database(server.ledger)
            create_batch(database, SYSTEM, "b1", [item(0)], domain="helpfulness")
            page = browser.new_page()
            provider.claims = {"email": "Ann@lab.example", "email_verified": True}
            page.goto(server.url)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_text("is not known to this ledger").wait_for()
            assert page.get_by_text("question 0?").count() == 0
            add_person(database, SYSTEM, "ann@lab.example", "annotator")
            open_app(page, server)
            assert page.get_by_text("question 0?").count() == 1
            assert page.get_by_role("link", name="Manage").count() == 0
            set_paused(database, SYSTEM, "ann@lab.example", True)
            page.keyboard.press("2")
            page.get_by_text("is paused").wait_for()
            page.get_by_role("button", name="Sign out").click()
            page.get_by_role("button", name="Sign in").wait_for()

            provider.claims = {"email": "maria@lab.example", "email_verified": False}
            page.get_by_role("button", name="Sign in").click()
            page.get_by_text("has not verified your e-mail address").wait_for()
            page.get_by_role("button", name="Sign out").click()
            provider.claims["email_verified"] = True
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("link", name="Manage").wait_for()
            database.close()
