"""One Ray per command: taken over where it runs, ended where it was begun, explained where not."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from rlhf.actors.group import WorkerError
from rlhf.actors.session import ray_session
from rlhf.engine.distributed import free_address


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_running_ray_is_taken_over_and_left_running() -> None:
    before = ray.get_runtime_context().get_job_id()
    with ray_session():
        assert ray.get_runtime_context().get_job_id() == before
    assert ray.is_initialized()


TERMINATED = """
import os, signal, sys, time
from rlhf.actors.session import ray_session

before = signal.getsignal(signal.SIGTERM)
try:
    with ray_session():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGTERM) == before)
"""


@pytest.mark.slow  # a Ray of its own has to start
@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_sigterm_is_an_interruption_without_a_stack() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TERMINATED], capture_output=True, text=True, timeout=300
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "interrupted True\n", "")


class Init:
    """Stands in for `ray.init`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.settings: dict[str, Any] = {}

    def __call__(self, **settings: Any) -> None:
        self.settings = settings
        if self.error is not None:
            raise self.error


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As if no Ray ran in this process; the list tells whether it was shut down."""
    ended: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("ended"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return ended


def test_a_local_ray_stays_on_this_machine_and_ends_with_the_block(
    monkeypatch: pytest.MonkeyPatch, no_ray: list[str]
) -> None:
    init = Init()
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(KeyError), ray_session():
        assert not no_ray
        raise KeyError
    assert no_ray == ["ended"]
    assert init.settings["_node_ip_address"] == "127.0.0.1"
    assert init.settings["include_dashboard"] is False
    assert init.settings["address"] == "local"  # and not what `ray start --head` has left


@pytest.mark.usefixtures("no_ray")
def test_sigterm_interrupts_whatever_ray_would_do_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    monkeypatch.setattr(ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ray_session():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def listening() -> Iterator[str]:
    """The address of something that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_submitted_job_joins_its_cluster(
    monkeypatch: pytest.MonkeyPatch, no_ray: list[str], listening: str
) -> None:
    init = Init()
    monkeypatch.setattr(ray, "init", init)
    for address in (listening, f"ray://{listening}", "auto"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with ray_session():
            pass
        assert init.settings["address"] == address
        assert "num_cpus" not in init.settings  # the cluster knows what it has
    assert len(no_ray) == 3


@pytest.mark.usefixtures("no_ray")
def test_why_ray_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", Init(RuntimeError("no\n   space left")))
    reason = (
        "^Ray cannot start: no space left; check memory, /tmp and the ports, or try again when the "
        "machine is less busy$"
    )
    with pytest.raises(WorkerError, match=reason), ray_session():
        pass


@pytest.mark.usefixtures("no_ray")
def test_why_a_cluster_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", listening)
    monkeypatch.setattr(ray, "init", Init(ConnectionError("another version")))
    reason = f"^the cluster at RAY_ADDRESS={listening} cannot be reached: another version; unset it"
    with pytest.raises(WorkerError, match=reason), ray_session():
        pass


@pytest.mark.usefixtures("no_ray")
def test_nobody_listens_there(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Init()
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_address().rpartition(':')[2]}")
    with pytest.raises(WorkerError, match=r"cannot be reached: .*refused; unset it"), ray_session():
        pass
    assert not init.settings  # Ray itself, which would try for minutes, is not asked
