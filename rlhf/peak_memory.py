"""How much memory a process and all its descendants hold at most."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

SECONDS_BETWEEN_LOOKS = 2.0


class PeakMemory:
    """The highest total so far, in bytes. Memory that processes share is counted once on Linux."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()

    def look(self) -> None:
        """Adds up what the process tree holds now."""
        root = psutil.Process()
        held = sum(_held_by(process) for process in [root, *root.children(recursive=True)])
        self.bytes = max(self.bytes, held)

    def watch(self) -> None:
        """Looks again and again until `stop`."""
        while not self._stop.wait(SECONDS_BETWEEN_LOOKS):
            self.look()

    def stop(self) -> None:
        """Ends `watch`."""
        self._stop.set()


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Watches memory in a thread for the length of a block."""
    peak = PeakMemory()
    thread = threading.Thread(target=peak.watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak.stop()
        thread.join()
        peak.look()


def _held_by(process: psutil.Process) -> int:
    """Proportional set size where the system knows it, else resident size; 0 once it has ended."""
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.rss))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
