"""Metrics reach TensorBoard; Weights & Biases and MLflow are stand-ins with the same calls."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import rlhf.trackers
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
    stand_in(monkeypatch, "mlflow", MlflowClient=lambda: MlflowServer(logged))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    MetricsLog(tmp_path, 0).log(3, {"loss": 0.5})
    assert logged == [("r0", "loss", 0.5, 3)]


def test_a_resumed_run_goes_on_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    server = MlflowServer(logged)
    stand_in(monkeypatch, "mlflow", MlflowClient=lambda: server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    for name, first_step in (("one", 0), ("one", 2), ("another", 0)):
        (tmp_path / name).mkdir(exist_ok=True)
        MetricsLog(tmp_path / name, first_step).log(first_step, {"loss": 0.5})
    assert [(run, step) for run, _, _, step in logged] == [("r0", 0), ("r0", 2), ("r1", 0)]


def test_a_resumed_run_goes_on_in_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[str, str]] = []

    def init(**settings: Any) -> Any:
        begun.append((settings["id"], settings["resume"]))
        return SimpleNamespace(log=lambda values, step: None)

    stand_in(monkeypatch, "wandb", init=init)
    monkeypatch.setenv("WANDB_PROJECT", "p")
    MetricsLog(tmp_path, 0)
    MetricsLog(tmp_path, 1)  # the workers were restarted: W&B knows no second run of an id
    assert len(begun) == 1
    rlhf.trackers._wandb_run.cache_clear()  # as in another process
    MetricsLog(tmp_path, 2)
    assert begun[0] == begun[1] and begun[0][1] == "allow"
    (tmp_path / ".tracker_id").unlink()  # with the directory, which another run then takes
    MetricsLog(tmp_path, 0)
    assert begun[2][0] != begun[0][0]


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


class MlflowServer:
    """Knows its runs by their tags."""

    def __init__(self, logged: list[Any]) -> None:
        self.logged = logged
        self.runs: dict[str, Any] = {}

    def create_run(self, experiment_id: str, tags: dict[str, str], run_name: str) -> Any:
        run = SimpleNamespace(info=SimpleNamespace(run_id=f"r{len(self.runs)}"))
        self.runs[f"tags.rlhf_run = '{tags['rlhf_run']}'"] = run
        return run

    def search_runs(self, experiment_ids: list[str], filter_string: str) -> list[Any]:
        return [run for condition, run in self.runs.items() if condition == filter_string]

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.logged.append((run, name, value, step))


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    """A module of this name with these attributes."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
