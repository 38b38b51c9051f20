"""Two variants behind an OpenAI-compatible chat endpoint (vLLM, `rlhf serve` and others)."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from annotation_app.ledger.rows import Response
from data.errors import ConfigError, UserError
from data.schemas import Message

KEY_VARIABLE = "RLHF_ENDPOINT_KEY"
"""Environment variable with the endpoint's key, if it wants one; never stored."""
MAX_BYTES = 2_000_000
"""Of one answer: whatever is longer is not read."""
PAUSE_SECONDS = 0.2
"""After which what there is of an answer is told again."""
_CHUNK = 65_536


class ResponderError(UserError):
    """The endpoint gave no usable answer; asking again may help."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to ask, and which two variants answer."""

    url: str
    """Up to and including /v1."""
    models: tuple[str, str]
    """The same name twice compares two samples of one model."""
    temperatures: tuple[float, float]
    max_tokens: int = 1024
    timeout: float = 60.0
    """Seconds to wait for the whole of an answer."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"endpoint is {self.url!r}; write http://host:port/v1")
        if min(self.temperatures) < 0 or not all(self.models):
            raise ConfigError(
                f"models are {self.models} at temperatures {self.temperatures}; give two names and "
                "two numbers from 0"
            )


def sample(
    endpoint: Endpoint, variants: Sequence[int], prompt: Sequence[Message], seed: int
) -> Generator[tuple[Response, ...], None, None]:
    """What the variants have answered so far, asked at the same time; what comes last is whole.

    While they think it comes again and again, so that whoever draws it can draw what they left out.
    Whoever closes the iterator before its end is not waited for.

    Args:
        variants: 0 or 1 each: of the endpoint's two.
        seed: each variant adds its number, so that two of one model differ.

    Raises:
        ResponderError: one of them did not answer, or not with a text.
    """
    pieces: SimpleQueue[tuple[int, str | ResponderError | None]] = SimpleQueue()
    left = Event()

    def listen(place: int, variant: int) -> None:
        try:
            for piece in _stream(endpoint, variant, prompt, seed + variant):
                if left.is_set():
                    return
                pieces.put((place, piece))
        except ResponderError as error:
            pieces.put((place, error))
        finally:
            pieces.put((place, None))

    for numbered in enumerate(variants):
        Thread(target=listen, args=numbered, daemon=True).start()
    deadline = time.monotonic() + endpoint.timeout
    texts, going_on = [""] * len(variants), len(variants)
    try:
        while going_on:
            with suppress(Empty):
                place, piece = pieces.get(timeout=PAUSE_SECONDS)
                if isinstance(piece, ResponderError):
                    raise piece
                texts[place] += piece or ""
                going_on -= piece is None
            if going_on and pieces.empty():
                _check_time(endpoint, deadline)  # a listener may wait as long again for one byte
                yield _responses(endpoint, variants, texts)
    finally:
        left.set()
    if not all(text.strip() for text in texts):
        raise ResponderError("the model's answer was empty; try again")
    yield _responses(endpoint, variants, texts)


def _responses(
    endpoint: Endpoint, variants: Sequence[int], texts: Sequence[str]
) -> tuple[Response, ...]:
    return tuple(
        Response(
            text=_storable(text),
            model=endpoint.models[variant],
            temperature=endpoint.temperatures[variant],
        )
        for variant, text in zip(variants, texts, strict=True)
    )


def _stream(
    endpoint: Endpoint, variant: int, prompt: Sequence[Message], seed: int
) -> Iterator[str]:
    """One variant's answer in pieces: server-sent events, or one piece from who sends none."""
    body = {
        "model": endpoint.models[variant],
        "messages": [{"role": m.role, "content": m.content} for m in prompt],
        "temperature": endpoint.temperatures[variant],
        "max_tokens": endpoint.max_tokens,
        "seed": seed,
        "stream": True,
    }
    other: list[bytes] = []
    events, ended = 0, False
    for line in _lines(endpoint, body):
        if not line.startswith(b"data:"):
            other.append(line)
            continue
        said = line.removeprefix(b"data:").strip()
        if said == b"[DONE]":
            ended = True
            break
        events += 1
        choice = _choice(said)
        ended = ended or bool(choice.get("finish_reason"))
        yield _content(choice.get("delta"))
    if not events and not ended:
        yield _content(_choice(b"\n".join(other)).get("message"))
    elif not ended:
        raise ResponderError("the model's answer broke off; try again")


def _lines(endpoint: Endpoint, body: dict[str, Any]) -> Iterator[bytes]:
    """The answer by lines as they come, within the endpoint's time, up to `MAX_BYTES`."""
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY_VARIABLE):
        headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
    url = f"{endpoint.url.rstrip('/')}/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    deadline = time.monotonic() + endpoint.timeout
    begun, size = b"", 0
    with _failures(endpoint), urllib.request.urlopen(request, timeout=endpoint.timeout) as answer:
        while chunk := answer.read1(_CHUNK):
            size += len(chunk)
            if size > MAX_BYTES:
                raise ResponderError("the model's answer is too long to be shown; try again")
            _check_time(endpoint, deadline)
            *lines, begun = (begun + chunk).split(b"\n")
            yield from lines
        yield begun


@contextmanager
def _failures(endpoint: Endpoint) -> Iterator[None]:
    """Whatever goes wrong on the way, in words for whoever waits."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            raise ResponderError(f"the model's server answered {error.code}; try again") from error
    except (HTTPException, OSError) as error:
        if isinstance(getattr(error, "reason", error), TimeoutError):
            raise _late(endpoint) from error
        if isinstance(error, HTTPException):
            raise _unreadable() from error
        raise ResponderError("the model's server cannot be reached; try again later") from error


def _choice(content: bytes) -> dict[str, Any]:
    try:
        choices = json.loads(content)["choices"]
        choice: dict[str, Any] = choices[0] if choices else {}  # an event of statistics has none
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _unreadable() from error
    if not isinstance(choice, dict):
        raise _unreadable()
    return choice


def _content(message: Any) -> str:
    text = message.get("content") if isinstance(message, dict) else None
    if text is not None and not isinstance(text, str):
        raise _unreadable()
    return text or ""


def _check_time(endpoint: Endpoint, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise _late(endpoint)


def _late(endpoint: Endpoint) -> ResponderError:
    return ResponderError(f"the model did not answer within {endpoint.timeout:.0f} s; try again")


def _unreadable() -> ResponderError:
    return ResponderError("the model's server sent something unreadable; try again")


def _storable(text: str) -> str:
    """Without null characters, which PostgreSQL refuses, and halves of characters.

    Two halves that came in two pieces become one character.
    """
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")
