"""What roles reserve of a Ray of our own: more than it has is an error at once."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.util.placement_group import placement_group_table

from data.errors import ConfigError
from rlhf.actors import hosts
from rlhf.actors.group import LocalGroup
from rlhf.actors.hosts import give_back, take_hosts
from rlhf.actors.placement import Placement
from rlhf.actors.ray_group import RayGroup
from rlhf.actors.session import OWN
from tests.rlhf.actors.players import Counter


@pytest.fixture
def ray_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Stands in for a Ray: `ray_of(GPU=1)`."""
    context = SimpleNamespace(get_node_id=lambda: "node", get_job_id=lambda: "job")
    actor = SimpleNamespace(address=SimpleNamespace(remote=lambda: "here"))
    made = SimpleNamespace(remote=lambda: actor)
    host = SimpleNamespace(options=lambda **_: made)

    def stand_in(*, own: bool = True, **resources: float) -> None:
        has = resources | ({OWN: 1.0} if own else {})
        monkeypatch.setattr(ray, "cluster_resources", lambda: has)

    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: host)
    monkeypatch.setattr(ray, "kill", lambda _: None)
    monkeypatch.setattr(hosts, "placement_group", lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr(hosts, "remove_placement_group", lambda _: None)
    monkeypatch.setattr(hosts, "_reserving", {})
    yield stand_in


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"workers": 3, "gpus_per_worker": 1},
            r"^gpus_per_worker is 1 and workers 3, which reserves 3 GPUs, but this machine's Ray "
            "has 2; lower it, or set it to 0 to compute on cores$",
        ),
        (
            {"workers": 3, "cpus_per_worker": 1.5},
            r"^cpus_per_worker is 1\.5 and workers 3, which reserves 4\.5 CPUs, but .* has 4; .* 0 "
            "to share them$",
        ),
    ],
)
def test_more_than_the_machine_has(
    ray_of: Callable[..., None], values: dict[str, Any], reason: str
) -> None:
    ray_of(GPU=2, CPU=4)
    with pytest.raises(ConfigError, match=reason):
        take_hosts(Placement(**values))


def test_a_machine_without_gpus(ray_of: Callable[..., None]) -> None:
    ray_of(CPU=4)
    with pytest.raises(ConfigError, match=r"reserves 1 GPUs, .* has 0; lower it, or set it to 0"):
        take_hosts(Placement(gpus_per_worker=1))


def test_roles_that_work_side_by_side_add_up(ray_of: Callable[..., None]) -> None:
    ray_of(GPU=1)
    tenths = Placement(workers=7, gpus_per_worker=0.1)
    held = take_hosts(tenths)
    take_hosts(Placement(gpus_per_worker=0.3))  # 0.7 + 0.3 is 1, whatever the rounding
    with pytest.raises(ConfigError, match=r"reserves 0\.2 GPUs, .* has 1, 1 of them for"):
        take_hosts(Placement(gpus_per_worker=0.2))
    give_back(held, tenths)
    take_hosts(Placement(gpus_per_worker=0.2))


def test_workers_that_reserve_nothing_may_be_more_than_there_are_cores(
    ray_of: Callable[..., None],
) -> None:
    ray_of(CPU=1)
    assert len(take_hosts(Placement(workers=8)).actors) == 8
    assert not hosts._reserving


def test_a_cluster_may_still_grow(ray_of: Callable[..., None]) -> None:
    ray_of(own=False, CPU=4)
    assert len(take_hosts(Placement(workers=2, gpus_per_worker=1)).actors) == 2


def test_no_gpu_for_the_worker_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reason = "^gpus_per_worker is above 0, but torch finds no GPU on this machine; set it to 0"
    with pytest.raises(ConfigError, match=reason):
        LocalGroup(Counter, Placement(ray=False, gpus_per_worker=1), 5)


def test_no_ray_starts_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(**_: object) -> None:
        raise AssertionError("without limits, and never ended")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", started)
    reason = r"^placement.ray is true for the counter workers, but no Ray runs; start them within"
    with pytest.raises(ConfigError, match=reason):
        RayGroup(Counter, Placement(), 5, name="counter")


def words_of(process: psutil.Process) -> str:
    """Its command line; empty for one that ends meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie too
        return ""


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_real_ray_of_our_own() -> None:
    assert ray.cluster_resources()[OWN] == 1
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    words = {p.pid: words_of(p) for p in psutil.Process().children(recursive=True)}
    # not the hosts that other tests have left, where torch's own store listens
    rays = [pid for pid, line in words.items() if "ray" in line and "ray::Host" not in line]
    listening = {
        (connection.laddr.ip.removeprefix("::ffff:"), words[connection.pid])
        for connection in psutil.net_connections("tcp")
        if connection.pid in rays and connection.status == psutil.CONN_LISTEN
    }
    assert listening, "no process of Ray was looked at"
    reachable = [(ip, line) for ip, line in listening if not ip_address(ip).is_loopback]
    assert reachable == [], "nobody in the network reaches it"
    with pytest.raises(ConfigError, match=r"^cpus_per_worker is 1 and workers 1000, which"):
        RayGroup(Counter, Placement(workers=1000, cpus_per_worker=1), 5, name="counter")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_workers_that_reserve_are_placed_together() -> None:
    """As one group, and what they held is free again afterwards."""

    def groups() -> list[dict[str, Any]]:
        found = placement_group_table().values()
        return [group for group in found if group["state"] != "REMOVED"]

    placement = Placement(workers=2, cpus_per_worker=0.5, timeout=300)
    with RayGroup(Counter, placement, 5, name="counter") as group:
        assert group.broadcast(Counter.add, 1) == [6, 6]
        assert [(g["strategy"], g["state"]) for g in groups()] == [("PACK", "CREATED")]
        assert list(groups()[0]["bundles"].values()) == [{"CPU": 0.5}, {"CPU": 0.5}]
    assert groups() == []
    with RayGroup(Counter, replace(placement, cpus_per_worker=1.0), 5, name="counter") as group:
        assert group.broadcast(Counter.add, 1) == [6, 6]
