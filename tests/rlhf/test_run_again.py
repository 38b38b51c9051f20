"""A run that goes on in another process: its config, its time and its energy."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import ConfigError
from rlhf.run import Run, read_json, write_json

CONFIG: dict[str, Any] = {"placement": {"workers": 1}, "seed": None}


def changed(**changes: Any) -> dict[str, Any]:
    return CONFIG | changes


@pytest.fixture
def begun(tmp_path: Path) -> Run:
    """A run with a result."""
    run = Run(tmp_path / "run", "sft", CONFIG)
    run.metrics(0).log(0, {"loss": 1.0})
    return run


def test_a_config_that_goes_on_says_what_was_before(begun: Run) -> None:
    path = begun.directory / "config.yaml"
    for workers in (4, 8):
        config = changed(placement={"workers": workers})
        Run(begun.directory, "sft", config)
        assert yaml.safe_load(path.read_text()) == config
    first, *comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert first == "# rlhf sft"
    settings = [re.sub(r"^# until \d{4}-\d\d-\d\d \d\d:\d\d\+00:00: ", "", c) for c in comments]
    assert settings == ["placement.workers: 1", "placement.workers: 4"]
    with pytest.raises(ConfigError, match="its seed is None"):  # refused as ever
        Run(begun.directory, "sft", changed(seed=1))


SESSION = """
import os, signal, sys
from pathlib import Path
from rlhf.run import Run

run = Run(Path(sys.argv[1]), "sft", {})
run.metrics(0)
run._started -= 1000  # that long ago
if sys.argv[2] == "killed":
    run.checkpoint(10, lambda directory: None)
    os.kill(os.getpid(), signal.SIGKILL)
raise KeyboardInterrupt
"""


def test_seconds_of_earlier_sessions_count(tmp_path: Path) -> None:
    for end in ("interrupted", "killed"):
        subprocess.run(
            [sys.executable, "-c", SESSION, str(tmp_path), end], capture_output=True, timeout=300
        )
    run = Run(tmp_path, "sft", {})
    assert 2000 <= run.seconds < 2060
    run.finish()
    assert 2000 <= read_json(tmp_path / "finished.json")["seconds"] < 2060
    assert not (tmp_path / ".seconds.json").exists()


@pytest.mark.parametrize(
    ("device", "hours"),
    # an hour on 4 GPUs, continued on 8; where it was another device, the hour counts as if on 8
    [("GPU", 4.0), ("CPU core", 8.0)],
)
def test_energy_of_sessions_with_other_devices(begun: Run, device: str, hours: float) -> None:
    earlier = {"seconds": 3600.0, "device": device, "device_hours": 4.0}
    write_json(begun.directory / ".seconds.json", earlier)
    eight = changed(placement={"workers": 8, "gpus_per_worker": 1})
    energy = Run(begun.directory, "sft", eight).energy
    assert (energy.device, energy.device_hours) == ("GPU", pytest.approx(hours, abs=0.1))
