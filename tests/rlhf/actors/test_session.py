"""One Ray per command: taken over where it runs, ended where it was begun, explained where not."""

import socket
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
    assert "address" not in init.settings


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
    reason = "^Ray cannot start: no space left; check memory, /tmp and the ports$"
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
