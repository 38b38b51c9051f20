"""Workers that count, fail, sleep and die on demand. In a module of their own: actors import it."""

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from data.errors import DataError
from rlhf.actors.group import Seat


class Counter:
    """Knows its rank and adds up what it is given."""

    def __init__(self, seat: Seat, start: int) -> None:
        if start < 0:
            raise DataError(f"start is {start}; count from 0 or more")
        if start > 1000:
            raise ZeroDivisionError("too much")
        self.device = seat.take()
        self.rank = seat.rank
        self.value = start

    def add(self, amount: int, *, times: int = 1) -> int:
        self.value += amount * times
        return self.value

    def scaled(self, shard: list[int]) -> list[int]:
        return [self.value * number for number in shard]

    def place(self) -> tuple[int, int, int]:
        """Rank, number of ranks, process."""
        return self.rank.index, self.rank.world_size, os.getpid()

    def total(self) -> float:
        """The sum of all ranks' values, through their process group."""
        value = torch.tensor(float(self.value))
        dist.all_reduce(value)
        return float(value)

    def negated(self, tensor: Tensor) -> tuple[Tensor, bool]:
        """In place, which a tensor of somebody else's memory would not allow; and whether it was
        part of a larger one."""
        shared = tensor.untyped_storage().nbytes() > tensor.nbytes
        with torch.no_grad():
            return tensor.neg_(), shared

    def fail(self, rank: int) -> None:
        if self.rank.index == rank:
            raise RuntimeError("it is\n  broken")

    def complain(self, rank: int) -> None:
        if self.rank.index == rank:
            raise DataError("the file is torn; restore it")

    def meet(self, files: tuple[Path, Path]) -> int:
        """Makes the first file, waits for the second; the number of its threads."""
        files[0].touch()
        while not files[1].exists():
            time.sleep(0.01)
        return torch.get_num_threads()

    def sleep(self, rank: int, seconds: float) -> None:
        if self.rank.index == rank:
            time.sleep(seconds)

    def die(self, rank: int) -> None:
        if self.rank.index == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)  # the others would wait for it forever

    def meet_late(self, rank: int, seconds: float) -> None:
        if self.rank.index == rank:
            time.sleep(seconds)
        self.total()

    def die_before_meeting(self, rank: int) -> None:
        if self.rank.index == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        self.total()


class Fatal:
    """One rank of it dies while it starts; the other waits for it."""

    def __init__(self, seat: Seat, rank: int) -> None:
        if seat.rank.index == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        seat.take()
