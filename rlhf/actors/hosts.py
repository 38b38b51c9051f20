"""Processes that host workers, one after the other.

A process that imports torch takes seconds to start; a worker in it takes milliseconds. So the hosts
of a group that reserved no cores or GPUs are kept when the group closes, and the next group of the
same size takes them over, process group included.
"""

import gc
import os
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from data.errors import ConfigError
from rlhf.actors.group import Seat
from rlhf.actors.placement import Placement
from rlhf.actors.process import end_with_parent, give_back_memory, rest
from rlhf.actors.session import OWN
from rlhf.actors.tensors import send_as_arrays
from rlhf.engine.distributed import free_address

MOST_IDLE = 2
"""Groups of hosts of one kind that are kept; a process without a worker still takes 300 MB."""
SECONDS_TO_VACATE = 10.0
SECONDS_TO_ANSWER = 3.0
GRAIN = 1e-4
"""Ray's smallest share of a resource."""
WATCH = "watch"
"""Ray's name for the thread of a host that answers while its worker is busy."""


@dataclass(frozen=True)
class Whereabouts:
    """What a host is in the middle of."""

    line: str
    """The innermost line of code, as function (file:line); empty where the host does not answer."""
    waits_for_peers: bool
    """Whether some thread is in a collective operation: then another rank keeps it waiting."""


class Host:
    """The inside of a Ray actor: holds one worker at a time."""

    def __init__(self) -> None:
        end_with_parent()
        send_as_arrays()

    def address(self) -> str:
        """host:port on this node where a process group can meet."""
        return free_address()

    def occupy(self, worker: Callable[..., Any], seat: Seat, address: str, *args: Any) -> None:
        """Builds the worker; its process group meets at the address."""
        if seat.device == "cpu":  # else DeepSpeed takes a GPU that it sees, and NCCL is chosen
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._thread = threading.get_ident()
        self._worker = worker(replace(seat, rank=replace(seat.rank, address=address)), *args)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the worker."""
        try:
            return getattr(self._worker, method)(*args, **kwargs)
        finally:
            rest()

    def vacate(self) -> None:
        """Lets the worker go, and its memory."""
        self._worker = None
        gc.collect()
        give_back_memory()

    @ray.method(concurrency_group=WATCH)
    def whereabouts(self) -> Whereabouts:
        """What the worker is in the middle of; answers while the worker is busy."""
        stacks = {
            thread: traceback.extract_stack(frame)
            for thread, frame in sys._current_frames().items()
        }
        inner = stacks[self._thread][-1]
        return Whereabouts(
            f"{inner.name} ({Path(inner.filename).name}:{inner.lineno})",
            any("torch/distributed/" in f.filename for stack in stacks.values() for f in stack),
        )


@dataclass(frozen=True, eq=False)
class Hosts:
    """As many hosts as a group has workers, by rank."""

    actors: list[Any]
    address: Any
    """Where their process group meets, on the node of rank 0: a Ray reference to `Host.address`,
    so that a node that is late is noticed where all wait. Empty for a single one."""

    def vacate(self) -> bool:
        """Lets their workers go; False where one of them is dead or does not answer."""
        try:
            ray.get([actor.vacate.remote() for actor in self.actors], timeout=SECONDS_TO_VACATE)
        except RayError:
            return False
        return True

    def whereabouts(self, ranks: Sequence[int]) -> dict[int, Whereabouts]:
        """What these ranks are in the middle of."""
        calls = {rank: self.actors[rank].whereabouts.remote() for rank in ranks}
        ray.wait(list(calls.values()), num_returns=len(calls), timeout=SECONDS_TO_ANSWER)
        found = {}
        for rank, call in calls.items():
            try:
                found[rank] = ray.get(call, timeout=0)
            except RayError:
                found[rank] = Whereabouts("", waits_for_peers=False)
        return found

    @property
    def ranks(self) -> dict[str, int]:
        """Ray's id of each host, as its errors name it, and the rank."""
        return {actor._actor_id.hex(): rank for rank, actor in enumerate(self.actors)}

    def kill(self) -> None:
        """Ends them, whatever they are doing; a stopped process within seconds."""
        reservation = _reserving.pop(self, None)
        try:
            for actor in self.actors:
                ray.kill(actor)
        finally:
            if reservation is not None:
                remove_placement_group(reservation.group)


_kept: dict[tuple[str, str, int, float], list[Hosts]] = defaultdict(list)
"""Idle hosts by Ray session, number, and the timeout of their process group."""


class _Reservation(NamedTuple):
    """What hosts hold of a Ray session."""

    session: tuple[str, str]
    placement: Placement
    group: PlacementGroup


_reserving: dict[Hosts, _Reservation] = {}
"""Hosts with reserved resources."""


def take_hosts(placement: Placement) -> Hosts:
    """Kept hosts, or new ones.

    Raises:
        ConfigError: a Ray of our own does not have what they reserve.
    """
    idle = _kept[_key(placement)] if _keeps(placement) else []
    while idle:
        hosts = idle.pop()
        if hosts.vacate():  # nobody watched them while they were idle
            return hosts
        hosts.kill()
    _check_reservation(placement)
    host = ray.remote(concurrency_groups={WATCH: 1})(Host)  # type: ignore[call-overload]
    group = None if _keeps(placement) else _placement_group(placement)
    actors: list[Any] = [
        host.options(
            num_cpus=placement.cpus_per_worker,
            num_gpus=placement.gpus_per_worker,
            scheduling_strategy=(
                None if group is None else PlacementGroupSchedulingStrategy(group, rank)
            ),
        ).remote()
        for rank in range(placement.workers)
    ]
    hosts = Hosts(actors, actors[0].address.remote() if placement.workers > 1 else "")
    if group is not None:
        _reserving[hosts] = _Reservation(_session(), placement, group)
    return hosts


def _placement_group(placement: Placement) -> PlacementGroup:
    """A place for each worker of a role, all or none, on as few nodes as will do.

    All or none, because two roles that each had half of their GPUs would wait for each other.
    """
    shares = {"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker}
    bundle = {resource: share for resource, share in shares.items() if share}
    return placement_group([bundle] * placement.workers, strategy="PACK")


def give_back(hosts: Hosts, placement: Placement) -> None:
    """Keeps idle hosts for the next group, or ends them.

    Ended are those that hold reserved resources, and those beyond `MOST_IDLE` groups.
    """
    idle = _kept[_key(placement)]
    if _keeps(placement) and len(idle) < MOST_IDLE and hosts.vacate():
        idle.append(hosts)
    else:
        hosts.kill()


def _keeps(placement: Placement) -> bool:
    """Hosts with reserved resources are not kept: another group may be waiting for those."""
    return not placement.gpus_per_worker and not placement.cpus_per_worker


def _check_reservation(placement: Placement) -> None:
    """Else Ray waits for what is not there, and the workers seem not to answer.

    Only in a Ray of our own: a cluster may still grow.
    """
    if _keeps(placement) or OWN not in (has := ray.cluster_resources()):
        return
    session = _session()
    others = [other.placement for other in _reserving.values() if other.session == session]
    for field, resource, instead in (
        ("gpus_per_worker", "GPU", "compute on cores"),
        ("cpus_per_worker", "CPU", "share them"),
    ):
        share, there = getattr(placement, field), has.get(resource, 0.0)
        asked = placement.workers * share
        held = sum(other.workers * getattr(other, field) for other in others)
        if asked and asked + held > there + GRAIN:
            beside = f", {held:g} of them for other roles" if held else ""
            raise ConfigError(
                f"{field} is {share:g} and workers {placement.workers}, which reserves {asked:g} "
                f"{resource}s, but this machine's Ray has {there:g}{beside}; lower it, or set it "
                f"to 0 to {instead}"
            )


def _key(placement: Placement) -> tuple[str, str, int, float]:
    return *_session(), placement.workers, placement.timeout


def _session() -> tuple[str, str]:
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()
