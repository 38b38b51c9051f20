"""`kill -9` of a command that runs by itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

SECONDS = 600.0


def killed_when(due: Callable[[], bool], argv: Sequence[str]) -> None:
    """Kills `rlhf argv` as soon as something is there.

    It runs on one core, hence in one thread as this process does: sums then keep their order.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf.cli.main", *argv],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
    )
    deadline = time.monotonic() + SECONDS
    try:
        while not due():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
