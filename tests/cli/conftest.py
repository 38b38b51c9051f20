"""One run of the whole loop, in small, killed in the middle and continued; shared by the tests."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.micro import write_micro_configs

RUN = """
import sys
from pathlib import Path
from rlhf.cli import main, quickstart
quickstart.configs_directory = lambda: Path(sys.argv[1])
sys.exit(main.main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class MicroRun:
    """A finished quickstart directory, and how it came about."""

    out: Path
    configs: Path
    first_exit: int
    finished_at_kill: dict[str, int]
    """Stage → when its finished.json was written, in ns."""


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory: pytest.TempPathFactory) -> MicroRun:
    """Starts the quickstart, kills it once the model is fine-tuned, and runs it to the end."""
    directory = tmp_path_factory.mktemp("quickstart")
    configs, out = directory / "configs", directory / "run"
    write_micro_configs(configs)
    words = ["quickstart", "--out", str(out), "--overoptimise"]
    command = [sys.executable, "-c", RUN, str(configs), *words]
    environment = os.environ | {"RAY_ADDRESS": ""}
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while not (out / "sft" / "finished.json").exists():
        assert first.poll() is None, first.stderr.read().decode()  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finished = {p.parent.name: p.stat().st_mtime_ns for p in out.glob("*/finished.json")}
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    return MicroRun(out, configs, first.returncode, finished)
