"""A run directory: resolved config, metrics, checkpoints, results. Every command writes one.

runs/NAME/config.yaml        what runs; `--config` reads it back. What settings were in sessions
                             before stands in comments at its top
          metrics.jsonl      one line per step
          checkpoints/step-000100/    complete or absent
          model/             a Hugging Face directory
          finished.json      exists once the run is complete; results, time, energy
          .lock              of the process that works here
          .seconds.json      what sessions that did not finish took
          .tracker_id        by which W&B or MLflow, where wanted, know the run again
"""

import atexit
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.durable import (
    LOCK,
    full_disk_is_told,
    keep_lock,
    put_in_place,
    removed_on_failure,
    sync_tree,
    temporary_of,
    write_durably,
)
from data.errors import ConfigError, DataError
from rlhf.actors.placement import usable_cores
from rlhf.energy import Energy, gpus_held, run_energy
from rlhf.metrics import MetricsLog

CONFIG_FILE = "config.yaml"
FINISHED_FILE = "finished.json"
SECONDS_FILE = ".seconds.json"
NO_RESULTS = (CONFIG_FILE, SECONDS_FILE, LOCK)
"""Files of a run that has only been begun."""
TITLE = "# rlhf "
"""Begins the first line of a run's config; the command follows."""
EARLIER = "# until "
"""Begins a line about a setting of earlier sessions."""
STEP = "step-"
"""Begins the name of a checkpoint; its number follows."""
STATE_FILE = "run.json"
"""Written last into a checkpoint."""
KEEP_CHECKPOINTS = 2
"""Of the newest, unless a config says otherwise."""
MAY_CHANGE = {
    "out", "placement", "critic_placement", "reward_placement", "max_restarts",
    "keep_checkpoints", "gpu_memory", "engine.kind", "zero_stage", "offload_optimizer",
    "recompute_activations", "processes",
}  # fmt: skip
"""Settings (or groups of them, wherever they stand) with which a run may be continued that began
with others: they change no result but for the last digits of sums."""

LOG_WIDTH = 160
"""Columns where nobody looks at a terminal: in a log file no cell of a table need be folded."""

LINE_SECONDS = 60
"""Between two lines of progress where nobody looks at a terminal."""


def open_console(*, stderr: bool = False) -> Console:
    """Where tables and lines are printed, as wide as COLUMNS, the terminal or `LOG_WIDTH` says."""
    found = Console(stderr=stderr)
    wide = not found.is_terminal and "COLUMNS" not in os.environ
    return Console(stderr=stderr, width=LOG_WIDTH) if wide else found


console = open_console(stderr=True)


def reopen_console() -> None:
    """Looks again what standard error is, after it was pointed elsewhere."""
    vars(console).update(vars(open_console(stderr=True)))


class Run:
    """One command's run directory. Opening it again continues it, or finds it finished.

    Only one process works in it, until that process ends.
    """

    def __init__(self, directory: Path, command: str, config: Mapping[str, Any]) -> None:
        """Creates the directory, or takes up one that the same command and config began.

        One that holds nothing but a config, because its start failed, is begun anew.

        Raises:
            ConfigError: the directory holds something else, or another process works in it.
            DataError: its config is damaged.
        """
        self.directory = directory
        self._gpus = gpus_held(command, config)
        self._started = time.monotonic()
        self._before: Mapping[str, Any] = {"seconds": 0.0}
        if self.finished:  # perhaps where nothing can be written
            _check_same_run(directory, command, config)
            return
        _check_no_stranger(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if not keep_lock(directory):
            raise ConfigError(
                f"another process is working in {str(directory)!r}; wait for it, or choose "
                "another --out"
            )
        if _has_results(directory):
            _check_same_run(directory, command, config)
            _go_on_with(directory, command, config)
            self._before = _cost_before(directory)
        else:
            _begin(directory, command, config)
        atexit.register(self._keep_seconds)

    @property
    def model(self) -> Path:
        """Where the trained model goes."""
        return self.directory / "model"

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return (self.directory / FINISHED_FILE).exists()

    def finish(self, **summary: Any) -> None:
        """Marks the run complete; `summary` lands in finished.json beside its time and energy."""
        cost = {"seconds": self.seconds, "energy": self.energy.as_dict()}
        write_json(self.directory / FINISHED_FILE, {**cost, **summary})
        (self.directory / SECONDS_FILE).unlink(missing_ok=True)
        shutil.rmtree(self._checkpoints, ignore_errors=True)

    @property
    def seconds(self) -> float:
        """Time spent on this run, earlier sessions included.

        Of a session that was killed, what came after its last checkpoint is not known.
        """
        return self._before["seconds"] + time.monotonic() - self._started

    @property
    def energy(self) -> Energy:
        """An estimate for all sessions, each with its own number of devices.

        Time on another kind of device counts as if it had been on this one.
        """
        whole, before = self._energy_of(self.seconds), self._before
        if before.get("device") != whole.device:
            return whole
        now = self._energy_of(self.seconds - before["seconds"])
        return replace(now, device_hours=now.device_hours + before["device_hours"])

    def _energy_of(self, seconds: float) -> Energy:
        return run_energy(seconds, gpus=self._gpus, cores=usable_cores())

    @property
    def _checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def resume(self) -> tuple[int, Path | None]:
        """The step to continue with and the newest complete checkpoint, or (0, None)."""
        complete = [stored for stored in self._stored() if (stored / STATE_FILE).exists()]
        return (_step_of(complete[-1]), complete[-1]) if complete else (0, None)

    def metrics(self, first_step: int) -> MetricsLog:
        """The metrics file, without the steps from `first_step` on."""
        return MetricsLog(self.directory, first_step)

    def checkpoint(
        self, step: int, write: Callable[[Path], Any], keep: int = KEEP_CHECKPOINTS
    ) -> None:
        """Saves a checkpoint: `write` fills a directory, which then appears whole.

        Args:
            step: the step to continue with.
            write: puts everything needed into the directory it receives.
            keep: checkpoints that stay, the newest; older ones are deleted.
        """
        temporary = self._checkpoints / f".{STEP}{step:06d}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        with removed_on_failure(temporary), full_disk_is_told(self.directory):
            temporary.mkdir(parents=True)
            write(temporary)
            write_json(temporary / STATE_FILE, {"step": step})
            sync_tree(temporary)
        final = self._checkpoints / f"{STEP}{step:06d}"
        shutil.rmtree(final, ignore_errors=True)
        put_in_place(temporary, final)
        for old in self._stored()[:-keep]:
            shutil.rmtree(old)
        self._keep_seconds()

    def _stored(self) -> list[Path]:
        """Checkpoints, the oldest first."""
        found = self._checkpoints.glob(f"{STEP}*")
        return sorted(
            (path for path in found if path.name.removeprefix(STEP).isdigit()), key=_step_of
        )

    def _keep_seconds(self) -> None:
        """For the next session; where it fails, only a figure is wrong."""
        with suppress(OSError):
            if not self.finished:
                energy = self.energy
                devices = {"device": energy.device, "device_hours": energy.device_hours}
                write_json(self.directory / SECONDS_FILE, {"seconds": self.seconds, **devices})


def write_json(path: Path, content: Any) -> None:
    """A JSON file, complete or absent."""
    write_durably(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """A progress bar; the block receives a function (steps, note) that moves it on.

    In a log file, where no bar could move, it is a line every `LINE_SECONDS` at most.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    began = told = time.monotonic()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(steps: int, note: str) -> None:
            nonlocal told
            bar.update(task, advance=steps, note=note)
            now = time.monotonic()
            if not console.is_terminal and now - told >= LINE_SECONDS:
                told, completed = now, round(bar.tasks[0].completed)
                words = [f"{description} {completed}/{total}", note]
                if done < completed < total:
                    left = (now - began) / (completed - done) * (total - completed)
                    words.append(f"about {math.ceil(left / 60)} min left")
                console.print(", ".join(filter(None, words)), highlight=False, markup=False)

        yield advance


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(STEP))


def _begin(directory: Path, command: str, config: Mapping[str, Any]) -> None:
    (directory / SECONDS_FILE).unlink(missing_ok=True)  # of another start, perhaps another run
    _write_config(directory, command, config, [])


def _go_on_with(directory: Path, command: str, config: Mapping[str, Any]) -> None:
    """Writes the config of this session; what it changes stays as comments."""
    there, here = _read_config(directory), {"command": command} | _flat(config)
    if there == here:
        return
    until = datetime.now(UTC).isoformat(sep=" ", timespec="minutes")
    changed = [
        f"{EARLIER}{until}: {key}: {json.dumps(value, default=str)}"
        for key, value in there.items()
        if here.get(key) != value
    ]
    lines = (directory / CONFIG_FILE).read_text(encoding="utf-8").splitlines()
    known = [line for line in lines if line.startswith(EARLIER)]
    _write_config(directory, command, config, known + changed)


def _write_config(
    directory: Path, command: str, config: Mapping[str, Any], comments: Sequence[str]
) -> None:
    head = "\n".join([TITLE + command, *comments])
    text = yaml.safe_dump(dict(config), sort_keys=False)
    write_durably(directory / CONFIG_FILE, f"{head}\n{text}".encode())


def _has_results(directory: Path) -> bool:
    """Whether there is more than the config of a start that failed."""
    names = {*NO_RESULTS, *(temporary_of(Path(name)).name for name in NO_RESULTS)}
    return any(path.is_file() and path.name not in names for path in directory.rglob("*"))


def _check_no_stranger(directory: Path) -> None:
    """Refuses files that no run left."""
    config = directory / CONFIG_FILE
    ours = config.is_file() and config.read_bytes().startswith(TITLE.encode())
    if not ours and (config.exists() or _has_results(directory)):
        raise ConfigError(f"{str(directory)!r} is not empty and holds no run; choose another --out")


def _check_same_run(directory: Path, command: str, config: Mapping[str, Any]) -> None:
    there, here = _read_config(directory), {"command": command} | _flat(config)
    for key in sorted({*there, *here}):
        may_change = MAY_CHANGE.intersection((key, *key.split(".")))
        if not may_change and there.get(key) != here.get(key):
            raise ConfigError(
                f"{str(directory)!r} holds another run: its {key} is {there.get(key)!r}, "
                f"yours is {here.get(key)!r}; choose another --out, or delete it to start anew"
            )


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
        config = _flat(yaml.safe_load(text) or {})
    except (yaml.YAMLError, ValueError, AttributeError) as error:
        raise DataError(
            f"{str(path)!r} is damaged ({' '.join(str(error).split())[:100]}); restore it from a "
            "copy, or delete the directory to start anew"
        ) from error
    return {"command": text.partition("\n")[0].removeprefix(TITLE)} | config


def _cost_before(directory: Path) -> Mapping[str, Any]:
    """Seconds of earlier sessions, with their devices where those are known."""
    path = directory / SECONDS_FILE
    return read_json(path) if path.exists() else {"seconds": 0.0}  # type: ignore[no-any-return]


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
