"""kill -9 at any moment during saving: the last complete checkpoint is there, bit for bit."""

import multiprocessing
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rlhf.engine.saving import fresh_engine, state_of, take_step, train_until_killed

SECONDS_TO_START = 300
"""Of a process that imports torch, on a busy machine."""


def rounds(directory: Path, number: int) -> tuple[int, int]:
    """Starts, kills and starts again; steps saved at the end, and how often a save was torn."""
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch may hang
    engine, steps, saved, torn = fresh_engine(), 0, 0, 0

    def unfinished() -> Iterator[Path]:
        return (directory / "run" / "checkpoints").glob(".step-*")

    draw = random.Random(0)
    for _ in range(number):
        ours, theirs = context.Pipe(duplex=False)
        arguments = (directory / "run", directory / "scratch", theirs)
        process = context.Process(target=train_until_killed, args=arguments, daemon=True)
        process.start()
        theirs.close()
        assert ours.poll(SECONDS_TO_START)
        resumed, state = ours.recv()
        assert resumed >= saved  # every checkpoint that was finished, and perhaps one more
        while steps < resumed:
            take_step(engine, steps)
            steps += 1
        assert state == state_of(engine, directory / "expected")
        assert ours.poll(SECONDS_TO_START)
        saved = ours.recv()
        while not any(unfinished()):
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, 0.004))
        process.kill()
        process.join()
        while True:
            try:
                saved = ours.recv()
            except EOFError:
                break
        torn += any(unfinished())
    return saved, torn


def test_a_few_times(tmp_path: Path) -> None:
    saved, _ = rounds(tmp_path, 3)
    assert saved >= 3


@pytest.mark.slow  # fifty processes
def test_many_times(tmp_path: Path) -> None:
    saved, torn = rounds(tmp_path, 50)
    assert saved >= 50
    assert torn > 10  # most kills come while a checkpoint is being written
