"""How commands that train or sample begin, and go on where workers are lost."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray

from data.errors import ConfigError
from rlhf.actors.group import WorkerLost
from rlhf.actors.placement import Placement
from rlhf.actors.session import ray_session
from rlhf.cli.parsing import dump
from rlhf.run import Run, console

R = TypeVar("R")


class RunConfig(Protocol):
    """What the config of such a command has at least."""

    @property
    def out(self) -> Path:
        """The run directory."""
        ...

    @property
    def placement(self) -> Placement:
        """Its workers."""
        ...


def begin(command: str, config: RunConfig) -> Run | None:
    """The run directory of a command; None, with a word about it, where the run is finished.

    Raises:
        ConfigError: the directory holds another run.
    """
    run = Run(config.out, command, dump(config))
    if run.finished:
        console.print(f"{config.out} is finished; delete it to run again", highlight=False)
        return None
    return run


@contextmanager
def session(placement: Placement) -> Iterator[None]:
    """Ray, unless everything runs in this process."""
    if not placement.ray:
        yield
        return
    if not ray.is_initialized():  # else another command of a chain has said so
        address = os.environ.get("RAY_ADDRESS")
        what = f"joining the Ray cluster at {address} …" if address else "starting Ray …"
        console.print(what, highlight=False)
    with ray_session():
        yield


class Restarts:
    """New workers for those that died or hung, so often at most in the whole command."""

    def __init__(self, most: int) -> None:
        if most < 0:
            raise ConfigError(f"max_restarts is {most}; it must be 0 (none) or more")
        self._most, self._done = most, 0

    def around(self, work: Callable[[], R], run: Run) -> R:
        """What `work` returns, which starts its own workers and continues what the run holds.

        Raises:
            WorkerLost: a worker died or hung, and no restart is left.
        """
        while True:
            try:
                return work()
            except WorkerLost as error:
                if self._done == self._most:
                    raise
                self._done += 1
                step, checkpoint = run.resume()
                where = f"continue from step {step}" if checkpoint else "begin anew"
                line = f"{error}; new workers {where} (restart {self._done} of {self._most})"
                console.print(line, highlight=False, markup=False, soft_wrap=True)


def report_line(command: str, run: Run, **figures: Any) -> None:
    """One line on the terminal about a finished run."""
    shown = ", ".join(
        f"{name.replace('_', ' ')} {f'{value:.3f}' if isinstance(value, float) else value}"
        for name, value in figures.items()
    )
    line = f"{command}: {run.directory} in {run.seconds:.0f} s, {run.energy}; {shown}"
    console.print(line, highlight=False, soft_wrap=True)
