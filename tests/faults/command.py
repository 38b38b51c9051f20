"""A command on two real workers in processes of its own, all of which a marker finds again."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

MARKER = "RLHF_TEST_MARKER"
SECONDS_TO_END = 60.0
"""What the end of a run may take once a worker is lost."""


class Command:
    """`rlhf` with these words, as a shell would run it."""

    def __init__(self, words: list[str], ray_directory: Path) -> None:
        self._marker = uuid.uuid4().hex
        environment = os.environ | {
            MARKER: self._marker,
            "RAY_TMPDIR": str(ray_directory),
            "RAY_AUTH_MODE": "disabled",
            "RAY_ADDRESS": "",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rlhf.cli.main", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for process in self.processes():
            process.kill()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def processes(self) -> list[psutil.Process]:
        """Everything that this command has started and that lives, wherever it hangs now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid == self._process.pid or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get(MARKER) == self._marker:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        """Its Ray actors."""
        return [p for p in self.processes() if name_of(p).startswith("ray::Host")]

    def wait_until(self, condition: Callable[[], bool], seconds: float = 300.0) -> None:
        """Looks a thousand times a second."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self._process.poll() is not None:
                raise AssertionError(self._process.communicate()[1])
            assert time.monotonic() < deadline, "what the test waits for did not come"
            time.sleep(0.001)

    def kill(self) -> None:
        """`kill -9` of the command itself."""
        self._process.kill()
        self._process.communicate()

    def end(self, seconds: float = 300.0) -> tuple[int, list[str]]:
        """Exit code and the lines on the terminal after that of Ray's start, once it has ended."""
        _, errors = self._process.communicate(timeout=seconds)
        start, *lines = [line for line in errors.splitlines() if line]
        assert start.startswith("starting Ray"), errors
        return self._process.returncode, lines

    def wait_until_gone(self, which: Callable[[], list[psutil.Process]], seconds: float) -> None:
        """None of these may be left after so many seconds."""
        deadline = time.monotonic() + seconds
        while left := which():
            assert time.monotonic() < deadline, [name_of(process) for process in left]
            time.sleep(0.1)


def name_of(process: psutil.Process) -> str:
    """The title that a process shows; empty where it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
