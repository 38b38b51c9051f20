"""Copies of a run's metrics where people look at curves; metrics.jsonl stays the one that counts.

TensorBoard events are written into the run directory wherever it is installed. Weights & Biases and
MLflow receive metrics when their own variables ask for it: WANDB_PROJECT, MLFLOW_TRACKING_URI. A
run that is continued goes on there as well.
"""

import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from data.durable import write_durably
from data.errors import ConfigError

ID_FILE = ".tracker_id"
"""Of the run directory: by this name the trackers know the run in every session."""

Tracker = Callable[[int, Mapping[str, float]], None]
"""Receives the finite metrics of a step."""


class Trackers:
    """Those that are installed and wanted. One that fails is dropped; the training goes on."""

    def __init__(self, directory: Path, first_step: int) -> None:
        """Begins them; steps from `first_step` on will be logged anew.

        Raises:
            ConfigError: a variable asks for one that is not installed.
        """
        begin: dict[str, Callable[[], Tracker]] = {}
        if find_spec("tensorboard"):
            begin["TensorBoard"] = lambda: _tensorboard(directory, first_step)
        if os.environ.get("WANDB_PROJECT"):
            _require("wandb", "WANDB_PROJECT")
            begin["Weights & Biases"] = lambda: _wandb(directory)
        if os.environ.get("MLFLOW_TRACKING_URI"):
            _require("mlflow", "MLFLOW_TRACKING_URI")
            begin["MLflow"] = lambda: _mlflow(directory)
        self._trackers: dict[str, Tracker] = {}
        for name, begin_one in begin.items():
            try:
                self._trackers[name] = begin_one()
            except Exception as error:
                _tell(name, error)

    def track(self, step: int, values: Mapping[str, float]) -> None:
        """Passes the finite metrics of a step on."""
        for name, tracker in list(self._trackers.items()):
            try:
                tracker(step, values)
            except Exception as error:
                del self._trackers[name]
                _tell(name, error)


def _tell(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:200]
    print(
        f"{name} receives no metrics any more: {type(error).__name__}: {reason}; "
        "metrics.jsonl has them all",
        file=sys.stderr,
    )


def _require(package: str, variable: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(
            f"{variable} is set, but {package} is not installed; "
            f"pip install 'rlhf[{package}]', or unset it"
        )


def _tensorboard(directory: Path, first_step: int) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(directory), purge_step=first_step)

    def track(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return track


def _wandb(directory: Path) -> Tracker:
    run = _wandb_run(_id_of(directory), str(directory))
    return lambda step, values: run.log(dict(values), step=step)


@cache
def _wandb_run(run_id: str, directory: str) -> Any:
    """One per process: after a restart of the workers the run is still open, and only so once."""
    import wandb

    return wandb.init(dir=directory, name=directory, id=run_id, resume="allow", reinit="create_new")


def _mlflow(directory: Path) -> Tracker:
    from mlflow import MlflowClient

    client, tag = MlflowClient(), _id_of(directory)
    known = client.search_runs(["0"], f"tags.rlhf_run = '{tag}'")
    tags = {"rlhf_run": tag}
    run = known[0] if known else client.create_run("0", tags=tags, run_name=str(directory))
    run_id = run.info.run_id

    def track(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            client.log_metric(run_id, name, value, step=step)

    return track


def _id_of(directory: Path) -> str:
    """Drawn once per run directory: another run that takes its place has another."""
    path = directory / ID_FILE
    if not path.exists():
        write_durably(path, uuid4().hex.encode())
    return path.read_text()
