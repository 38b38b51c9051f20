"""How every command that trains or samples begins: a run directory and a Ray to work in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rlhf.actors.placement import Placement
from rlhf.actors.session import ray_session
from rlhf.cli.parsing import dump
from rlhf.run import Run, console


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
    with ray_session():
        yield


def report_line(command: str, run: Run, **figures: Any) -> None:
    """One line on the terminal about a finished run."""
    shown = ", ".join(
        f"{name.replace('_', ' ')} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )
    line = f"{command}: {run.directory} in {run.seconds:.0f} s; {shown}"
    console.print(line, highlight=False, soft_wrap=True)
