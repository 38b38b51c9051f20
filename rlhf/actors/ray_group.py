"""A worker group made of Ray actors."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Concatenate, Generic

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from data.errors import ConfigError, UserError
from rlhf.actors.group import Closing, P, R, S, Seat, W, WorkerError, WorkerLost
from rlhf.actors.hosts import give_back, take_hosts
from rlhf.actors.placement import Placement
from rlhf.actors.tensors import send_as_arrays
from rlhf.engine.distributed import Rank

SECONDS_TO_HEAR = 5.0
"""Until Ray has told of the death of a process."""


class RayGroup(Closing, Generic[W]):
    """Workers in hosts of their own, one per rank, joined in a process group."""

    def __init__(
        self,
        worker: Callable[..., W],
        placement: Placement,
        *args: Any,
        name: str,
        groups: int = 1,
    ) -> None:
        if not ray.is_initialized():  # it would start by itself, without our limits, and stay
            raise ConfigError(
                f"placement.ray is true for the {name} workers, but no Ray runs; start them within "
                "ray_session() of rlhf/actors/session.py, or set placement.ray to false"
            )
        self.size = placement.workers
        self._name, self._placement, self._groups = name, placement, groups
        send_as_arrays()
        self._hosts = take_hosts(placement)
        self._closed = self._busy = False
        shared = [ray.put(arg) for arg in args]  # once, however many workers read it
        calls = [
            host.occupy.remote(worker, self._seat(index), self._hosts.address, *shared)
            for index, host in enumerate(self._actors)
        ]
        self._begun(calls, "start")()

    def broadcast(
        self, method: Callable[Concatenate[W, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """See `WorkerGroup`."""
        name = method.__name__
        calls = [host.call.remote(name, *args, **kwargs) for host in self._actors]
        return self._begun(calls, name)()

    def scatter(self, method: Callable[[W, S], R], shards: Sequence[S]) -> list[R]:
        """See `WorkerGroup`."""
        return self.begin(method, shards)()

    def begin(self, method: Callable[[W, S], R], shards: Sequence[S]) -> Callable[[], list[R]]:
        """See `WorkerGroup`."""
        name, pairs = method.__name__, list(zip(self._actors, shards, strict=True))
        return self._begun([host.call.remote(name, shard) for host, shard in pairs], name)

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
            threads=placement.threads(self._groups),
            device="cuda" if placement.gpus_per_worker else "cpu",
            timeout=placement.timeout,
        )

    def _begun(self, calls: list[Any], phase: str) -> Callable[[], list[Any]]:
        """Collects calls that have just been made; their time runs from now."""
        self._busy = True
        return partial(self._collect, calls, phase, time.monotonic() + self._placement.timeout)

    def _collect(self, calls: list[Any], phase: str, deadline: float) -> list[Any]:
        """Results by rank. The first failure ends the group: its peers would wait for it."""
        waiting = list(calls)
        results: dict[Any, Any] = {}
        try:
            while waiting:
                ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise self._late([calls.index(call) for call in waiting], phase)
                results[ready[0]] = self._result(calls, ready[0], phase)
        except BaseException:  # Ctrl-C as well, for which a group that starts has no __exit__ yet
            self.close()
            raise
        self._busy = False
        return [results[call] for call in calls]

    def _result(self, calls: list[Any], call: Any, phase: str) -> Any:
        """Raises what an answer holds instead of a result."""
        error = _answer(call, timeout=None)
        if not isinstance(error, RayError):
            return error
        rank = calls.index(call)
        if isinstance(error, RayTaskError):
            cause = error.cause
            if isinstance(cause, UserError | OSError) and not isinstance(cause, ConnectionError):
                raise cause from None
            dead = self._dead(calls)
            if dead is None:
                reason = " ".join(f"{type(cause).__name__}: {cause}".split())
                raise WorkerError(
                    f"{self._name} rank {rank} failed in {phase!r}: {reason}"
                ) from error
            error = dead
        # A call may carry the death of another rank, whose answer it needed.
        rank = self._hosts.ranks.get(getattr(error, "actor_id", ""), rank)
        raise WorkerLost(
            f"{self._name} rank {rank} died in {phase!r}; it was killed or ran out of memory"
        ) from error

    def _dead(self, calls: list[Any]) -> RayActorError | None:
        """The death of a rank, which its peers may have noticed first, as a broken connection."""
        ray.wait(calls, num_returns=len(calls), timeout=SECONDS_TO_HEAR)
        errors = (_answer(call, timeout=0) for call in calls)
        return next((error for error in errors if isinstance(error, RayActorError)), None)

    def _late(self, ranks: list[int], phase: str) -> WorkerLost:
        """Names the rank that hangs, which is not one that waits for it."""
        found = self._hosts.whereabouts(ranks)
        rank = min(ranks, key=lambda r: (found[r].waits_for_peers, bool(found[r].line)))
        where = f"is in {found[rank].line}" if found[rank].line else "does not answer"
        return WorkerLost(
            f"{self._name} rank {rank} did not finish {phase!r} within "
            f"{self._placement.timeout:g} s and {where}; look for what it waits for, or raise "
            "placement.timeout"
        )


def _answer(call: Any, timeout: float | None) -> Any:
    """The result of a call or the error that it ended with; None where it is not finished by then.

    Without a timeout it waits: a result that is ready may still have to be fetched.
    """
    try:
        return ray.get(call, timeout=timeout)
    except GetTimeoutError:
        return None
    except RayError as error:
        return error
