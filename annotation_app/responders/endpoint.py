"""Two variants behind an OpenAI-compatible chat endpoint (vLLM, `rlhf serve` and others)."""

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from annotation_app.ledger.rows import Response
from data.errors import ConfigError, UserError
from data.schemas import Message

KEY_VARIABLE = "RLHF_ENDPOINT_KEY"
"""Environment variable with the endpoint's key, if it wants one; never stored."""
MAX_BYTES = 2_000_000
"""Of one answer: whatever is longer is not read."""


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


def sample_pair(
    endpoint: Endpoint, prompt: Sequence[Message], seed: int
) -> tuple[Response, Response]:
    """Both variants' answers, asked for at the same time.

    Raises:
        ResponderError: one of them did not answer, or not with a text.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        first, second = pool.map(
            lambda index: sample(endpoint, index, prompt, seed + index), range(2)
        )
    return first, second


def sample(endpoint: Endpoint, index: int, prompt: Sequence[Message], seed: int) -> Response:
    """One variant's answer.

    Raises:
        ResponderError: it did not answer, or not with a text.
    """
    model, temperature = endpoint.models[index], endpoint.temperatures[index]
    body = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in prompt],
        "temperature": temperature,
        "max_tokens": endpoint.max_tokens,
        "seed": seed,
    }
    text = _text_of(_post(endpoint, body))
    return Response(text=text, model=model, temperature=temperature)


def _post(endpoint: Endpoint, body: dict[str, Any]) -> bytes:
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY_VARIABLE):
        headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
    url = f"{endpoint.url.rstrip('/')}/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=endpoint.timeout) as answer:
            content: bytes = answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise ResponderError(f"the model's server answered {error.code}; try again") from error
    except TimeoutError as error:
        raise ResponderError(
            f"the model did not answer within {endpoint.timeout:.0f} s; try again"
        ) from error
    except (urllib.error.URLError, OSError) as error:
        if isinstance(getattr(error, "reason", None), socket.timeout):
            raise ResponderError(
                f"the model did not answer within {endpoint.timeout:.0f} s; try again"
            ) from error
        raise ResponderError("the model's server cannot be reached; try again later") from error
    if len(content) > MAX_BYTES:
        raise ResponderError("the model's answer is too long to be shown; try again")
    return content


def _text_of(content: bytes) -> str:
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ResponderError("the model's server sent something unreadable; try again") from error
    if not isinstance(text, str) or not text.strip():
        raise ResponderError("the model's answer was empty; try again")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
