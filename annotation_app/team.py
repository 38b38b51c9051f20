"""The entry for teams that come by invitation links: the app, and a door with a lock.

    https://…/enter#TOKEN → the page sends the token in a request's body → a cookie that no script
    can read → the app

What follows the # is never sent by a browser, so no proxy or log between here and there has it.
"""

from functools import cache

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from streamlit.starlette import App

from annotation_app.attempts import TooManyAttempts
from annotation_app.door import COOKIE, admit
from annotation_app.invitations import expiry_of
from annotation_app.ledger.database import Database
from annotation_app.settings import AppSettings
from data.errors import UserError

MAX_TOKEN = 1_000
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; script-src 'nonce-enter'",
}
# The nonce need not be a secret: nothing from outside is put into this page.
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in</title>
<meta name="viewport" content="width=device-width">
<p role="status">Signing in…</p><noscript>This app needs JavaScript.</noscript>
<script nonce="enter">
const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
fetch("/enter", {method: "POST", body: token}).then(async (answer) => {
  if (answer.ok) location.replace("/");
  else document.querySelector("p").textContent = await answer.text();
}).catch(() => { document.querySelector("p").textContent =
  "The server cannot be reached; open the link again later."; });
</script></html>
"""


@cache
def _settings() -> AppSettings:
    return AppSettings.from_environment()


@cache
def _database() -> Database:
    return Database(_settings().ledger)


async def _enter(request: Request) -> Response:
    if request.method != "POST":
        return HTMLResponse(_PAGE, headers=_HEADERS)
    # Another site's page must not sign people in under a name of its choice.
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return PlainTextResponse("open the link itself", status_code=403, headers=_HEADERS)
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > MAX_TOKEN:
        return PlainTextResponse("this is no invitation link", status_code=413, headers=_HEADERS)
    token = (await request.body()).decode("utf-8", "replace")
    address = request.client.host if request.client else ""
    try:
        await run_in_threadpool(admit, _database(), token, address)
    except UserError as error:
        status = 429 if isinstance(error, TooManyAttempts) else 403
        return PlainTextResponse(str(error), status_code=status, headers=_HEADERS)
    response = Response(status_code=204, headers=_HEADERS)
    response.set_cookie(
        COOKIE,
        token,
        expires=expiry_of(token),
        secure=_settings().address.startswith("https:"),
        httponly=True,
        samesite="strict",
    )
    return response


async def _leave(request: Request) -> Response:
    response = RedirectResponse("/", status_code=303, headers=_HEADERS)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


app = App(
    "app.py",
    routes=[Route("/enter", _enter, methods=["GET", "POST"]), Route("/leave", _leave)],
)
