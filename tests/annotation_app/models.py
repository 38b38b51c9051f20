"""An OpenAI-compatible server that says what a test wants it to say."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from annotation_app.responders.endpoint import Endpoint

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


def completion(text: object) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


class ModelServer:
    """`answer` maps a request to a status and a body; `asked` collects requests and keys."""

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
                self.wfile.write(content)

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
