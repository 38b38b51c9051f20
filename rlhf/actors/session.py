"""One Ray for a command and all that it calls."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants

from rlhf.actors.group import WorkerError
from rlhf.actors.placement import usable_cores

OBJECT_STORE_BYTES = 512 * 2**20
"""Enough for what stages pass around on one machine; it is memory only once it is used."""

INLINE_BYTES = 2 * 2**20
"""In a Ray of our own, smaller arguments and results travel with a call instead of through the
object store, which takes milliseconds more. A mini-batch of PPO is a few hundred kilobytes."""

SECONDS_TO_REACH = 10.0
OWN = "rlhf_own"
"""A resource that tells a Ray of our own: this machine, and never more."""


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray for the length of a block.

    The one that this process has joined already, the cluster of RAY_ADDRESS (set in submitted
    jobs), or one of its own that ends with the block, whatever else runs on this machine. SIGTERM
    then ends the block as Ctrl-C does.

    Raises:
        WorkerError: Ray cannot start or be reached.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    # Of the failures of a group only the first is told; Ray would print the stacks of the others.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    before = signal.getsignal(signal.SIGTERM)  # Ray sets its own, which prints a stack
    try:
        if address:
            _check_listens(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            _start_local()
    except Exception as error:  # of a node that is slow to start, Ray raises nothing narrower
        reason = " ".join(str(error).split())[:300]
        what = (
            f"the cluster at RAY_ADDRESS={address} cannot be reached"
            if address
            else "Ray cannot start"
        )
        remedy = (
            "unset it to use this machine alone"
            if address
            else "check memory, /tmp and the ports, or try again when the machine is less busy"
        )
        raise WorkerError(f"{what}: {reason}; {remedy}") from error
    try:
        _handle_sigterm(signal.default_int_handler)
        yield
    finally:
        ray.shutdown()
        _handle_sigterm(before)


def _handle_sigterm(handler: Any) -> None:
    """Python handles signals in the main thread only."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def _check_listens(address: str) -> None:
    """Fails within seconds where nobody listens; Ray itself would try for many minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        with socket.create_connection((host, int(port)), timeout=SECONDS_TO_REACH):
            pass


def _start_local() -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _no_clusters():
        ray.init(
            address="local",
            num_cpus=usable_cores(),
            resources={OWN: 1},
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _system_config={"max_direct_call_object_size": INLINE_BYTES},
            _node_ip_address="127.0.0.1",
        )


@contextmanager
def _no_clusters() -> Iterator[None]:
    """What Ray starts in this block listens on the loopback alone, as on a Mac.

    Elsewhere it takes 127.0.0.1 to mean this machine's address in the network, where anybody who
    reaches its ports may run code.
    """
    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR  # for Ray's processes
    constant, before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(variable)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
