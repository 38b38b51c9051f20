"""Metrics reach TensorBoard; Weights & Biases and MLflow are stand-ins with the same calls."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from data.errors import ConfigError
from rlhf.metrics import MetricsLog, read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_tensorboard_has_what_the_file_has(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path, 0)
    log.log(1, {"loss": 0.5, "accuracy": float("nan")})
    log.log(2, {"loss": 0.25})
    MetricsLog(tmp_path, 2).log(2, {"loss": 0.125})  # resumed before step 2

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.125)]
    assert [line["loss"] for line in read_metrics(tmp_path)] == [0.5, 0.125]


def test_wandb_when_its_project_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    run = SimpleNamespace(log=lambda values, step: logged.append((step, values)))
    stand_in(monkeypatch, "wandb", init=lambda **_: run)
    monkeypatch.setenv("WANDB_PROJECT", "p")
    MetricsLog(tmp_path, 0).log(3, {"loss": 0.5, "kl": float("inf")})
    assert logged == [(3, {"loss": 0.5})]


def test_mlflow_when_its_server_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    client = SimpleNamespace(
        create_run=lambda experiment_id, run_name: SimpleNamespace(
            info=SimpleNamespace(run_id="r1")
        ),
        log_metric=lambda run, name, value, step: logged.append((run, name, value, step)),
    )
    stand_in(monkeypatch, "mlflow", MlflowClient=lambda: client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    MetricsLog(tmp_path, 0).log(3, {"loss": 0.5})
    assert logged == [("r1", "loss", 0.5, 3)]


def test_one_that_is_wanted_but_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "p")
    monkeypatch.setattr("rlhf.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"wandb is not installed; pip install 'rlhf\[wandb\]'"):
        MetricsLog(tmp_path, 0)


@pytest.mark.parametrize("when", ["init", "log"])
def test_one_that_fails_is_dropped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    when: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    run = SimpleNamespace(log=fail)
    stand_in(monkeypatch, "wandb", init=fail if when == "init" else lambda **_: run)
    monkeypatch.setenv("WANDB_PROJECT", "p")
    log = MetricsLog(tmp_path, 0)
    for step in range(3):
        log.log(step, {"loss": 0.5})
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2]
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        "Weights & Biases receives no metrics any more: ConnectionError: no route to host; "
        "metrics.jsonl has them all"
    )


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    """A module of this name with these attributes."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
