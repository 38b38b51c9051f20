"""What happens where the fused operations cannot be had, and that they are compiled once."""

import logging
import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf.model import compiler, kernels

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(
    not kernels.usable(torch.ones(1)), reason="no C compiler: torch's own operations are used"
)


def run_with(environment: dict[str, str]) -> str:
    """What a new process says about the library, with its messages."""
    code = (
        "import logging, torch; logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "from rlhf.model import kernels; print(kernels.usable(torch.ones(1)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return result.stderr + result.stdout


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_without_a_compiler(tmp_path: Path) -> None:
    said = run_with({"CC": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path)})
    assert said.splitlines() == [
        "no C compiler 'no-such-compiler': torch's own operations are used",
        "False",
    ]


@pytest.mark.parametrize("cc", [" ", "'cc", 'gcc "-O2'])
def test_a_cc_that_is_no_command(
    cc: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", cc)
    assert compiler.load(kernels.FILES, kernels.DEFINITIONS) is None
    reason = f"CC is {cc!r}, which is no command: torch's own operations are used"
    assert [(r.levelname, r.message) for r in caplog.records] == [("WARNING", reason)]


def test_a_compiler_that_nobody_named_fails_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As macOS's cc does, which is clang and has no -fopenmp."""
    failing = fake_compiler(tmp_path, "echo no >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for cc, level in (("", "INFO"), (failing, "WARNING")):
        monkeypatch.setenv("CC", cc)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert compiler.load(kernels.FILES, kernels.DEFINITIONS) is None
        (record,) = caplog.records
        assert record.levelname == level
        assert "cannot be compiled or loaded" in record.message


def test_a_compiler_with_options(tmp_path: Path) -> None:
    assert run_with({"CC": "cc -g0", "XDG_CACHE_HOME": str(tmp_path)}) == "True\n"


@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the option is one for Intel's and AMD's processors"
)
def test_for_a_processor_without_tiles(tmp_path: Path) -> None:
    said = run_with({"CC": "cc -mno-amx-bf16", "XDG_CACHE_HOME": str(tmp_path)})
    assert said == "True\n"


def test_with_a_compiler_that_fails(tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, 'test "$1" = --version || { echo no >&2; exit 1; }')
    said = run_with({"CC": compiler, "XDG_CACHE_HOME": str(tmp_path)})
    assert "cannot be compiled or loaded" in said
    assert said.endswith("(no)\nFalse\n")  # what the compiler said
    assert list((tmp_path / "rlhf").iterdir()) == []


def test_it_is_compiled_once(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    assert run_with(environment) == "True\n"
    (library,) = (tmp_path / "rlhf").iterdir()
    made = library.stat().st_mtime_ns
    assert run_with(environment) == "True\n"
    assert [path.stat().st_mtime_ns for path in (tmp_path / "rlhf").iterdir()] == [made]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run_with({"XDG_CACHE_HOME": str(tmp_path / "file")}) == "True\n"
