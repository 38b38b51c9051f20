"""Processes that host workers, one after the other.

A process that imports torch takes seconds to start; a worker in it takes milliseconds. So the hosts
of a group that reserved no cores or GPUs are kept when the group closes, and the next group of the
same size takes them over, process group included.
"""

import gc
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError

from rlhf.actors.group import Seat
from rlhf.actors.placement import Placement
from rlhf.engine.distributed import free_address

SECONDS_TO_VACATE = 10.0


class Host:
    """The inside of a Ray actor: holds one worker at a time."""

    def address(self) -> str:
        """host:port on this node where a process group can meet."""
        return free_address()

    def occupy(self, worker: Callable[..., Any], seat: Seat, address: str, *args: Any) -> None:
        """Builds the worker; its process group meets at the address."""
        self._worker = worker(replace(seat, rank=replace(seat.rank, address=address)), *args)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the worker."""
        return getattr(self._worker, method)(*args, **kwargs)

    def vacate(self) -> None:
        """Lets the worker go, and its memory."""
        self._worker = None
        gc.collect()


@dataclass(frozen=True)
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

    def kill(self) -> None:
        """Ends them, whatever they are doing."""
        for actor in self.actors:
            ray.kill(actor)


_kept: dict[tuple[str, str, int], list[Hosts]] = defaultdict(list)
"""Idle hosts by Ray session and number."""


def take_hosts(placement: Placement) -> Hosts:
    """Kept hosts, or new ones."""
    idle = _kept[_key(placement)] if _keeps(placement) else []
    while idle:
        hosts = idle.pop()
        if hosts.vacate():  # nobody watched them while they were idle
            return hosts
        hosts.kill()
    actor = ray.remote(Host).options(
        num_cpus=placement.cpus_per_worker, num_gpus=placement.gpus_per_worker
    )
    actors: list[Any] = [actor.remote() for _ in range(placement.workers)]
    return Hosts(actors, actors[0].address.remote() if placement.workers > 1 else "")


def give_back(hosts: Hosts, placement: Placement) -> None:
    """Keeps idle hosts for the next group, or ends them where they hold reserved resources."""
    if _keeps(placement) and hosts.vacate():
        _kept[_key(placement)].append(hosts)
    else:
        hosts.kill()


def _keeps(placement: Placement) -> bool:
    """Hosts with reserved resources are not kept: another group may be waiting for those."""
    return not placement.gpus_per_worker and not placement.cpus_per_worker


def _key(placement: Placement) -> tuple[str, str, int]:
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id(), placement.workers
