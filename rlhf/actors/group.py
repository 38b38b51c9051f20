"""Workers of one role, in this process or as Ray actors; the algorithms cannot tell which.

A worker is a plain class whose constructor takes a `Seat` first. Calls name a method by reference
(`PolicyWorker.update`, not a string). Every wait has a timeout that names the worker and the phase.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

import torch

from data.errors import ConfigError, UserError
from rlhf.actors.placement import Placement
from rlhf.actors.process import keep_freed_memory
from rlhf.engine.distributed import Rank, join

if TYPE_CHECKING:
    from rlhf.actors.ray_group import RayGroup

W = TypeVar("W")
W_co = TypeVar("W_co", covariant=True)
R = TypeVar("R")
S = TypeVar("S")
P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A worker's place: its rank in the group, and its share of the machine."""

    rank: Rank
    threads: int
    device: str
    timeout: float

    def take(self) -> torch.device:
        """Sets up this process for its rank; a worker's constructor calls it first.

        Raises:
            ConfigError: it is to compute on a GPU where torch finds none.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "gpus_per_worker is above 0, but torch finds no GPU on this machine; set it to 0 "
                "to compute on cores, or install the GPU's driver and a torch that is made for it"
            )
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        join(self.rank, self.timeout)
        return torch.device(self.device)


class WorkerError(UserError):
    """A worker failed or did not answer in time; says which, and in which phase."""


class WorkerLost(WorkerError):
    """A worker died or hung. New ones can take its work up from what is on disk."""


class WorkerGroup(Protocol[W_co]):
    """What algorithms see of the workers of a role."""

    size: int

    def broadcast(
        self, method: Callable[Concatenate[W_co, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """Calls the method on every worker with the same arguments; results by rank."""
        ...

    def scatter(self, method: Callable[[W_co, S], R], shards: Sequence[S]) -> list[R]:
        """Calls the method on every worker with its own shard; results by rank."""
        ...

    def begin(self, method: Callable[[W_co, S], R], shards: Sequence[S]) -> Callable[[], list[R]]:
        """Like `scatter`, but other groups may work meanwhile; what it returns waits for results.

        Workers of this process begin only then.
        """
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


class Closing:
    """Makes a group a context manager."""

    def close(self) -> None:
        """Ends the workers."""
        raise AssertionError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LocalGroup(Closing, Generic[W]):
    """The one worker of a role in this very process."""

    size = 1

    def __init__(self, worker: Callable[..., W], placement: Placement, *args: Any) -> None:
        threads, timeout = placement.threads(), placement.timeout
        device = "cuda" if placement.gpus_per_worker else "cpu"
        seat = Seat(rank=Rank(), threads=threads, device=device, timeout=timeout)
        self._worker = worker(seat, *args)

    def broadcast(
        self, method: Callable[Concatenate[W, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """See `WorkerGroup`."""
        return [method(self._worker, *args, **kwargs)]

    def scatter(self, method: Callable[[W, S], R], shards: Sequence[S]) -> list[R]:
        """See `WorkerGroup`."""
        return self.begin(method, shards)()

    def begin(self, method: Callable[[W, S], R], shards: Sequence[S]) -> Callable[[], list[R]]:
        """See `WorkerGroup`."""
        (shard,) = shards
        return lambda: [method(self._worker, shard)]

    def close(self) -> None:
        """Nothing to end."""


def start_workers(
    worker: Callable[..., W], placement: Placement, *args: Any, name: str, groups: int = 1
) -> "LocalGroup[W] | RayGroup[W]":
    """The workers of a role, as the placement says. Close them when done (a context manager).

    Args:
        worker: a class whose constructor takes a `Seat` and then `args`.
        placement: how many, where, and whether through Ray.
        args: constructor arguments, the same for every rank.
        name: the role, for messages.
        groups: how many such groups work at the same time (`begin`) where they can.
    """
    if placement.ray:
        from rlhf.actors.ray_group import RayGroup  # a run in process needs no Ray

        return RayGroup(worker, placement, *args, name=name, groups=groups)
    return LocalGroup(worker, placement, *args)
