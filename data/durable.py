"""Files that are complete or absent, whenever the process or the machine stops."""

import errno
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
LITTLE_SPACE = 1 << 20
"""Bytes; where a write has failed and no more than this is free, the disk is full."""

_held: dict[tuple[int, int], int] = {}
"""Device and inode of the lock files that this process keeps until it ends → descriptor."""


def temporary_of(path: Path) -> Path:
    """The hidden file in which `path` is prepared.

    Its name is fixed, so a crash leaves at most one, and the next write of `path` replaces it.
    """
    return path.with_name(f".{path.name}.tmp")


def write_temporary(path: Path, content: Any) -> Path:
    """Writes bytes (or a buffer) to the temporary of `path`, down to the disk; returns it."""
    temporary = temporary_of(path)
    with removed_on_failure(temporary), temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary


def put_in_place(temporary: Path, path: Path) -> None:
    """Renames a finished file over `path`, so that it survives a power cut as well."""
    os.rename(temporary, path)
    _sync(path.parent)


def sync_tree(directory: Path) -> None:
    """Brings a directory with all files in it down to the disk, before it is renamed."""
    for path in (*directory.rglob("*"), directory):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: Any) -> None:
    """Replaces a file as a whole: readers see the old content or the new one."""
    temporary = write_temporary(path, content)
    with removed_on_failure(temporary):
        put_in_place(temporary, path)


@contextmanager
def removed_on_failure(temporary: Path) -> Iterator[None]:
    """A file or directory in preparation: where the block fails, nothing of it stays."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def full_disk_is_told(directory: Path) -> Iterator[None]:
    """For libraries that write files themselves, and report a full disk as anything.

    Raises:
        OSError: ENOSPC, where that is what the block failed of.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        told = os.strerror(errno.ENOSPC)
        if told in str(error) or shutil.disk_usage(directory).free <= LITTLE_SPACE:
            raise OSError(errno.ENOSPC, told, str(directory)) from error
        raise


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory; the system frees it when the process ends, however it ends.

    Raises:
        DataError: another process has held it for LOCK_TIMEOUT seconds.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    with (directory / LOCK).open("w") as lock:
        while not _lock(lock.fileno()):
            if time.monotonic() > deadline:
                raise DataError(
                    f"another process has been writing to {str(directory)!r} for "
                    f"{LOCK_TIMEOUT:.0f} s; wait for it or end it, then try again"
                )
            time.sleep(0.05)
        yield


def keep_lock(directory: Path) -> bool:
    """Locks a directory until this process ends; False where another process has locked it.

    Locking again what this process has locked already does nothing.
    """
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    status = os.fstat(descriptor)
    file = (status.st_dev, status.st_ino)
    if file not in _held and _lock(descriptor):
        _held[file] = descriptor
    else:
        os.close(descriptor)
    return file in _held


def _lock(descriptor: int) -> bool:
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
