"""The most memory held, children included."""

import subprocess
import sys

import pytest

from rlhf import peak_memory as module
from rlhf.peak_memory import PeakMemory, peak_memory

MIB = 2**20
HOLD = "x = bytearray(60 * 2**20); print('ready', flush=True); input()"


def test_memory_of_children_counts() -> None:
    peak = PeakMemory()
    peak.look()
    before = peak.bytes
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        peak.look()
        child.communicate(b"\n")
    assert before + 50 * MIB < peak.bytes < before + 200 * MIB


def test_the_peak_outlives_what_caused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0.01)
    held = [500, 900, 300]
    monkeypatch.setattr(module, "_held_by", lambda _: held.pop(0) if held else 100)
    monkeypatch.setattr(module.psutil.Process, "children", lambda self, recursive: [])
    with peak_memory() as peak:
        while held:
            peak.look()
    assert peak.bytes == 900
