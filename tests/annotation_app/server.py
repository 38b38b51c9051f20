"""The app as a process of its own, for tests that drive it from outside."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Server:
    """`rlhf annotate` on a ledger of its own; killed at the end of a `with` block."""

    def __init__(self, directory: Path, port: int, *words: str) -> None:
        self.directory = directory
        self.ledger = str(directory / "ledger.sqlite")
        self.dataset = directory / "comparisons"
        self.url = f"http://127.0.0.1:{port}"
        self._words = ["--ledger", self.ledger, "--publish_to", str(self.dataset)]
        self._words += ["--port", str(port), *words]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns once pages are served."""
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlhf.cli.main", "annotate", *self._words],
                cwd=self.directory,  # where a provider is set up, if there is one
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 300  # on a crowded machine
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        """Of the process that serves the pages."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        """What the server printed."""
        return (self.directory / "server.log").read_text()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
