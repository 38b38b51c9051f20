"""The same work in several processes over gloo."""

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlhf.engine.distributed import Rank, free_address, join

SECONDS = 600.0
"""Until a rank that waits for the others gives up."""


def in_processes(directory: Path, world_size: int, work: Callable[[Rank], Any]) -> list[Any]:
    """What `work`, a function of some module, returns on every rank; by rank.

    Args:
        directory: for the results.
    """
    context = multiprocessing.get_context("spawn")
    address = free_address()
    ranks = [Rank(index=n, world_size=world_size, address=address) for n in range(world_size)]
    processes = [
        context.Process(target=_rank, args=(rank, directory, work), daemon=True) for rank in ranks
    ]
    for process in processes:
        process.start()
    try:
        for rank, process in zip(ranks, processes, strict=True):
            process.join(SECONDS + 60)  # a rank that gives up says for what it waited
            assert process.exitcode is not None, f"rank {rank.index} has not ended"
            assert process.exitcode == 0, f"rank {rank.index} ended with {process.exitcode}"
    finally:
        for process in processes:
            process.kill()
    return [torch.load(directory / f"{rank.index}.pt", weights_only=False) for rank in ranks]


def _rank(rank: Rank, directory: Path, work: Callable[[Rank], Any]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # DeepSpeed calls names that torch is about to rename
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  DeepSpeed prints its progress
    join(rank, SECONDS)
    torch.save(work(rank), directory / f"{rank.index}.pt")
    torch.distributed.destroy_process_group()
    # Not through the interpreter's end: a thread of torch that still asks for the interpreter then
    # aborts the process, once in many runs.
    os._exit(0)
