"""Files complete or absent, locks, and what a full disk is called."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.durable import full_disk_is_told, keep_lock, only_writer, write_durably


@pytest.mark.parametrize("operation", ["fsync", "rename"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, full)
        with pytest.raises(OSError, match="No space left"):
            write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_full_disk_by_another_name(tmp_path: Path) -> None:
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    reason = f"No space left on device: '{tmp_path}'"
    with pytest.raises(OSError, match=reason) as caught, full_disk_is_told(tmp_path):
        raise RuntimeError(said)  # as safetensors says it
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(ZeroDivisionError), full_disk_is_told(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), full_disk_is_told(tmp_path / "nowhere"):
        (tmp_path / "nowhere").read_text()


LOCK = """
import sys
from pathlib import Path
from data.durable import keep_lock

print(keep_lock(Path(sys.argv[1])))
"""


def test_a_lock_is_kept_until_the_process_ends(tmp_path: Path) -> None:
    def elsewhere() -> str:
        words = [sys.executable, "-c", LOCK, str(tmp_path)]
        return subprocess.run(words, capture_output=True, text=True, timeout=300).stdout.strip()

    assert elsewhere() == "True"  # and that process has ended
    with only_writer(tmp_path):
        assert elsewhere() == "False"
    assert keep_lock(tmp_path) and keep_lock(tmp_path)
    assert elsewhere() == "False"
