"""RLHF_NO_SKIP=1: what cannot run is a failure, but for tests of an accelerator."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_runs(): pass

def test_skips(): pytest.skip("because")

def test_has_no_data(shared_data): pass

@pytest.mark.gpu
def test_of_a_gpu(): pytest.skip("no gpu")

@pytest.mark.xfail
def test_known_fault(): assert False
"""


@pytest.mark.parametrize(
    ("no_skip", "no_data", "summary"),
    [
        ("0", "0", "1 passed, 4 skipped, 1 xfailed"),
        # failed: test_skips; errors: the missing data, and the module that is skipped as a whole
        ("1", "0", "1 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors"),
        # the missing data is said to be missing: its test is skipped again
        ("1", "1", "1 failed, 1 passed, 2 skipped, 1 xfailed, 1 error"),
    ],
)
def test_no_skip(tmp_path: Path, no_skip: str, no_data: str, summary: str) -> None:
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "test_sample.py").write_text(TESTS)
    (tmp_path / "test_whole.py").write_text(
        "import pytest\npytest.importorskip('no_such_module')\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
        ],
        cwd=tmp_path,
        env=os.environ
        | {
            "RLHF_NO_SKIP": no_skip,
            "RLHF_NO_DATA": no_data,
            "RLHF_SHARED_DATA": str(tmp_path / "nowhere"),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert summary in result.stdout.splitlines()[-1], result.stdout
    if (no_skip, no_data) == ("1", "0"):
        assert "set RLHF_SHARED_DATA" in result.stdout
