"""A worker group made of Ray actors."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic

import ray
from ray.exceptions import RayActorError, RayTaskError

from data.errors import UserError
from rlhf.actors.group import Closing, P, R, S, Seat, W, WorkerError
from rlhf.actors.placement import Placement
from rlhf.engine.distributed import Rank, free_address


class RayGroup(Closing, Generic[W]):
    """Workers as Ray actors, one per rank, joined in a process group."""

    def __init__(
        self, worker: Callable[..., W], placement: Placement, *args: Any, name: str
    ) -> None:
        self.size = placement.workers
        self._name, self._timeout = name, placement.timeout
        actor = ray.remote(worker).options(
            num_cpus=placement.cpus_per_worker, num_gpus=placement.gpus_per_worker
        )
        address = free_address() if self.size > 1 else ""
        shared = [ray.put(arg) for arg in args]  # once, however many workers read it
        self._actors = []
        for index in range(self.size):
            rank = Rank(index=index, world_size=self.size, address=address)
            device = "cuda" if placement.gpus_per_worker else "cpu"
            seat = Seat(
                rank=rank, threads=placement.threads, device=device, timeout=placement.timeout
            )
            self._actors.append(actor.remote(seat, *shared))
        self._collect([a.__ray_ready__.remote() for a in self._actors], "start")

    def broadcast(
        self, method: Callable[Concatenate[W, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """See `WorkerGroup`."""
        name = method.__name__
        calls = [getattr(a, name).remote(*args, **kwargs) for a in self._actors]
        return self._collect(calls, name)

    def scatter(self, method: Callable[[W, S], R], shards: Sequence[S]) -> list[R]:
        """See `WorkerGroup`."""
        name = method.__name__
        calls = [
            getattr(actor, name).remote(shard)
            for actor, shard in zip(self._actors, shards, strict=True)
        ]
        return self._collect(calls, name)

    def close(self) -> None:
        """Kills the actors and waits for nothing."""
        for actor in self._actors:
            ray.kill(actor)

    def _collect(self, calls: list[Any], phase: str) -> list[Any]:
        """Results by rank. The first failure ends the group: its peers would wait for it."""
        deadline = time.monotonic() + self._timeout
        waiting = list(calls)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                ranks = [calls.index(call) for call in waiting]
                self.close()
                raise WorkerError(
                    f"{self._name} rank {ranks[0]} did not finish {phase!r} within "
                    f"{self._timeout:g} s; raise its timeout, or look for what it waits for"
                )
            for call in ready:
                self._raise_failure(call, calls.index(call), phase)
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
