"""An OpenAI-compatible server that says what a test wants it to say."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from annotation_app.responders.endpoint import Endpoint

Answer = Callable[[dict[str, Any]], tuple[int, bytes | Iterable[bytes]]]


def completion(text: object) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def event(text: object, **more: object) -> bytes:
    """A piece of an answer that is streamed."""
    said = {"choices": [{"delta": {"content": text}} | more]}
    return b"data: " + json.dumps(said).encode() + b"\r\n\r\n"


DONE = b"data: [DONE]\n\n"


class ModelServer:
    """`answer` maps a request to a status and a body, or pieces of one that are sent as they come;
    `asked` collects requests and keys."""

    def __init__(self) -> None:
        self.answer: Answer = lambda body: (200, completion(f"{body['model']} says hello"))
        self.asked: list[tuple[dict[str, Any], str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((body, self.headers.get("Authorization")))
                status, content = outer.answer(body)
                self.send_response(status)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who asked may have left
                    for piece in [content] if isinstance(content, bytes) else content:
                        self.wfile.write(piece)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = Endpoint(
            url=f"http://127.0.0.1:{self.server.server_address[1]}/v1",
            models=("m-one", "m-two"),
            temperatures=(0.5, 1.0),
            timeout=2.0,
        )


@contextmanager
def running_models() -> Iterator[ModelServer]:
    models = ModelServer()
    thread = threading.Thread(target=models.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield models
    finally:
        models.server.shutdown()
        models.server.server_close()
        thread.join()
