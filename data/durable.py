"""Files that are complete or absent, whenever the process or the machine stops."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import DataError

LOCK = ".lock"
LOCK_TIMEOUT = 60.0
"""Seconds to wait for another writer."""


def temporary_of(path: Path) -> Path:
    """The hidden file in which `path` is prepared.

    Its name is fixed, so a crash leaves at most one, and the next write of `path` replaces it.
    """
    return path.with_name(f".{path.name}.tmp")


def write_temporary(path: Path, content: Any) -> Path:
    """Writes bytes (or a buffer) to the temporary of `path`, down to the disk; returns it."""
    temporary = temporary_of(path)
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary


def put_in_place(temporary: Path, path: Path) -> None:
    """Renames a finished file over `path`, so that it survives a power cut as well."""
    os.rename(temporary, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: Any) -> None:
    """Replaces a file as a whole: readers see the old content or the new one."""
    put_in_place(write_temporary(path, content), path)


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory; the system frees it when the process ends, however it ends.

    Raises:
        DataError: another process has held it for LOCK_TIMEOUT seconds.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    with (directory / LOCK).open("w") as lock:
        while not _locked(lock.fileno()):
            if time.monotonic() > deadline:
                raise DataError(
                    f"another process has been writing to {str(directory)!r} for "
                    f"{LOCK_TIMEOUT:.0f} s; wait for it or end it, then try again"
                )
            time.sleep(0.05)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def replace_directory(temporary: Path, directory: Path) -> None:
    """Moves a finished directory into place; what stood there before goes away last."""
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        os.rename(directory, old)
    os.rename(temporary, directory)
    shutil.rmtree(old, ignore_errors=True)
