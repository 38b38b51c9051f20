"""Which rank of how many, and how the ranks find each other."""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One process's place in a data-parallel group."""

    index: int = 0
    world_size: int = 1
    address: str = ""
    """host:port of rank 0; empty for a single process."""


def free_address() -> str:
    """host:port on this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"{_own_ip()}:{port}"


def join(rank: Rank, timeout_seconds: float) -> None:
    """Joins the process group of all ranks, once; does nothing for a rank without an address."""
    if not rank.address or dist.is_initialized():
        return
    host, port = rank.address.rsplit(":", 1)
    os.environ.update(
        MASTER_ADDR=host,
        MASTER_PORT=port,
        RANK=str(rank.index),
        WORLD_SIZE=str(rank.world_size),
        LOCAL_RANK="0",
    )
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"tcp://{rank.address}",
        rank=rank.index,
        world_size=rank.world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )


def _own_ip() -> str:
    """This machine's address as other nodes see it; the loopback where there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))  # no packet is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
