"""A run directory: resolved config, metrics, checkpoints, results. Every command writes one.

runs/NAME/config.yaml        what ran; `--config` reads it back
          metrics.jsonl      one line per step
          checkpoints/step-000100/    complete or absent
          model/             a Hugging Face directory
          finished.json      exists once the run is complete
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.durable import write_durably
from data.errors import ConfigError
from rlhf.metrics import MetricsLog

T = TypeVar("T")
CONFIG_FILE = "config.yaml"
FINISHED_FILE = "finished.json"
KEEP_CHECKPOINTS = 2
MAY_CHANGE = ("out", "placement")
"""Settings with which a run may be continued that began with others: they change no result."""

console = Console(stderr=True)


class Run:
    """One command's run directory. Opening it again continues it, or finds it finished."""

    def __init__(self, directory: Path, command: str, config: Mapping[str, Any]) -> None:
        """Creates the directory, or takes up one that the same command and config began.

        Raises:
            ConfigError: the directory holds something else.
        """
        self.directory = directory
        self._started = time.monotonic()
        self._seconds_before = 0.0
        title = f"# rlhf {command}"
        if directory.exists() and any(directory.iterdir()):
            _check_same_run(directory, title, config)
        else:
            directory.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(dict(config), sort_keys=False)
            write_durably(directory / CONFIG_FILE, f"{title}\n{text}".encode())

    @property
    def model(self) -> Path:
        """Where the trained model goes."""
        return self.directory / "model"

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return (self.directory / FINISHED_FILE).exists()

    def finish(self, **summary: Any) -> None:
        """Marks the run complete; `summary` lands in finished.json beside the seconds it took."""
        write_json(self.directory / FINISHED_FILE, {"seconds": self.seconds, **summary})
        shutil.rmtree(self._checkpoints, ignore_errors=True)

    @property
    def seconds(self) -> float:
        """Time spent on this run, earlier sessions included."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def _checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def resume(self) -> tuple[int, Path | None]:
        """The step to continue with and the newest complete checkpoint, or (0, None)."""
        complete = sorted(self._checkpoints.glob("step-*/run.json"))
        if not complete:
            return 0, None
        state = json.loads(complete[-1].read_text())
        self._seconds_before = state["seconds"]
        return state["step"], complete[-1].parent

    def metrics(self, first_step: int) -> MetricsLog:
        """The metrics file, without the steps from `first_step` on."""
        return MetricsLog(self.directory, first_step)

    def checkpoint(self, step: int, write: Callable[[Path], Any]) -> None:
        """Saves a checkpoint: `write` fills a directory, which then appears whole.

        Args:
            step: the step to continue with.
            write: puts everything needed into the directory it receives.
        """
        temporary = self._checkpoints / f".step-{step:06d}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write(temporary)
        state = {"step": step, "seconds": self.seconds}
        write_durably(temporary / "run.json", json.dumps(state).encode())
        final = self._checkpoints / f"step-{step:06d}"
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temporary, final)
        for old in sorted(self._checkpoints.glob("step-*"))[:-KEEP_CHECKPOINTS]:
            shutil.rmtree(old)


def write_json(path: Path, content: Any) -> None:
    """A JSON file, complete or absent."""
    write_durably(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """A progress bar; the block receives a function (steps, note) that moves it on."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")
        yield lambda steps, note="": bar.update(task, advance=steps, note=note)


def tracked(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The items, with a progress bar."""
    with progress(description, total) as advance:
        for item in items:
            yield item
            advance(1, "")


def _check_same_run(directory: Path, title: str, config: Mapping[str, Any]) -> None:
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{str(directory)!r} is not empty and holds no run; choose another --out")
    text = path.read_text()
    there = {"command": text.partition("\n")[0]} | _flat(yaml.safe_load(text) or {})
    here = {"command": title} | _flat(config)
    for key in sorted({*there, *here}):
        if there.get(key) == here.get(key):
            continue
        if key.partition(".")[0] not in MAY_CHANGE:
            raise ConfigError(
                f"{str(directory)!r} holds another run: its {key} is {there.get(key)!r}, "
                f"yours is {here.get(key)!r}; choose another --out, or delete it to start anew"
            )
        if key == "placement.workers" and any(directory.glob("checkpoints/step-*/run.json")):
            raise ConfigError(
                f"the checkpoints in {str(directory)!r} are of {there.get(key)} workers, yours are "
                f"{here.get(key)}; continue with as many, or delete its checkpoints/ to start anew"
            )


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
