"""A command as a Ray job, `ray job submit --working-dir . -- rlhf sft …`, on a cluster of one."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import MicroRun

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed]
CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The address where jobs go, of a cluster that ends with the test and touches no other Ray."""
    directory = tempfile.mkdtemp(prefix="ray-")  # sockets need a short path
    environment = os.environ | {
        "RAY_TMPDIR": directory,
        "RAY_AUTH_MODE": "disabled",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    port = _free_port()
    head = [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    head += [f"--port={_free_port()}", f"--dashboard-port={port}", "--num-cpus=2"]
    head += ["--dashboard-host=127.0.0.1", f"--ray-client-server-port={_free_port()}"]
    # the agent takes jobs; another Ray on the machine may hold its default port
    head += [f"--dashboard-agent-listen-port={_free_port()}", "--disable-usage-stats"]
    with (Path(directory) / "head.log").open("w") as log:
        process = subprocess.Popen(head, env=environment, stdout=log, stderr=log)
        try:
            _wait_for(port, process, Path(log.name))
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()
            shutil.rmtree(directory, ignore_errors=True)


def test_fine_tuning_as_a_job(micro_run: MicroRun, dashboard: str, tmp_path: Path) -> None:
    model, data = micro_run.out / "pretrain" / "model", micro_run.out / "world" / "demonstrations"
    words = ["rlhf", "sft", "--config", "configs/tiny/sft.yaml", "--model", model, "--data", data]
    words += ["--out", tmp_path / "sft", "--placement.workers", "2"]
    job = [BIN / "ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--", *words]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        job, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert "succeeded" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "sft" / "model" / "model.safetensors").is_file()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())
