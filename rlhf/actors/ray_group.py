"""A worker group made of Ray actors."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic

import ray
from ray.exceptions import RayActorError, RayTaskError

from data.errors import UserError
from rlhf.actors.group import Closing, P, R, S, Seat, W, WorkerError
from rlhf.actors.hosts import give_back, take_hosts
from rlhf.actors.placement import Placement
from rlhf.engine.distributed import Rank


class RayGroup(Closing, Generic[W]):
    """Workers in hosts of their own, one per rank, joined in a process group."""

    def __init__(
        self, worker: Callable[..., W], placement: Placement, *args: Any, name: str
    ) -> None:
        self.size = placement.workers
        self._name, self._placement = name, placement
        self._hosts = take_hosts(placement)
        self._closed = self._busy = False
        shared = [ray.put(arg) for arg in args]  # once, however many workers read it
        calls = [
            host.occupy.remote(worker, self._seat(index), self._hosts.address, *shared)
            for index, host in enumerate(self._actors)
        ]
        self._collect(calls, "start")

    def broadcast(
        self, method: Callable[Concatenate[W, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """See `WorkerGroup`."""
        name = method.__name__
        calls = [host.call.remote(name, *args, **kwargs) for host in self._actors]
        return self._collect(calls, name)

    def scatter(self, method: Callable[[W, S], R], shards: Sequence[S]) -> list[R]:
        """See `WorkerGroup`."""
        name = method.__name__
        calls = [
            host.call.remote(name, shard) for host, shard in zip(self._actors, shards, strict=True)
        ]
        return self._collect(calls, name)

    def close(self) -> None:
        """Lets the workers go; hosts in the middle of a call are killed."""
        if self._closed:
            return
        self._closed = True
        if self._busy:
            self._hosts.kill()
        else:
            give_back(self._hosts, self._placement)

    @property
    def _actors(self) -> list[Any]:
        """The hosts, as long as they hold the workers of this group and not those of another."""
        if self._closed:
            raise WorkerError(f"the {self._name} workers are closed; start new ones")
        return self._hosts.actors

    def _seat(self, index: int) -> Seat:
        placement = self._placement
        return Seat(
            rank=Rank(index=index, world_size=self.size),  # the host adds where they meet
            threads=placement.threads,
            device="cuda" if placement.gpus_per_worker else "cpu",
            timeout=placement.timeout,
        )

    def _collect(self, calls: list[Any], phase: str) -> list[Any]:
        """Results by rank. The first failure ends the group: its peers would wait for it."""
        self._busy = True
        timeout = self._placement.timeout
        deadline = time.monotonic() + timeout
        waiting = list(calls)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                ranks = [calls.index(call) for call in waiting]
                self.close()
                raise WorkerError(
                    f"{self._name} rank {ranks[0]} did not finish {phase!r} within "
                    f"{timeout:g} s; raise its timeout, or look for what it waits for"
                )
            for call in ready:
                self._raise_failure(call, calls.index(call), phase)
        self._busy = False
        return ray.get(calls)

    def _raise_failure(self, call: Any, rank: int, phase: str) -> None:
        try:
            ray.get(call)
        except RayTaskError as error:
            self.close()
            cause = error.cause
            if isinstance(cause, UserError | OSError):
                raise cause from None
            raise WorkerError(
                f"{self._name} rank {rank} failed in {phase!r}: {type(cause).__name__}: {cause}"
            ) from error
        except RayActorError as error:
            self.close()
            raise WorkerError(
                f"{self._name} rank {rank} died in {phase!r}; it was killed or ran out of memory"
            ) from error
