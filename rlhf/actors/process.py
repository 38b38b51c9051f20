"""How a worker's process treats memory and threads between calls, where the C libraries let it."""

import ctypes
import signal

LIBRARIES = ctypes.CDLL(None)
"""Everything that the process has loaded for all to see: glibc, and the OpenMP of torch."""

# Numbers of glibc's mallopt (malloc.h), and what they are set to.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
KEPT = {
    MMAP_THRESHOLD: 32 * 2**20,
    TOP_PAD: 32 * 2**20,  # of a thread's heap, which then stays when it is free
    TRIM_THRESHOLD: 32 * 2**20,
}
PARENT_DEATH_SIGNAL = 1
"""Of prctl (linux/prctl.h)."""
PAUSE_SOFT = 1
"""Of omp_pause_resource_all: threads end, and come back with the next operation."""


def keep_freed_memory() -> None:
    """Keeps some freed memory for the next step, from now on and in all of this process.

    Otherwise large tensors are given back to the system and taken again page by page: a fifth of a
    training step, and a quarter of a scorer's time.
    """
    if hasattr(LIBRARIES, "mallopt"):
        for parameter, value in KEPT.items():
            LIBRARIES.mallopt(parameter, value)


def give_back_memory() -> None:
    """Gives all freed memory back, hundreds of megabytes of a worker that has gone."""
    if hasattr(LIBRARIES, "malloc_trim"):
        LIBRARIES.malloc_trim(0)


def end_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends, on Linux.

    Ray asks its workers to end; one that is stopped or hangs does not hear it, and stays.
    """
    if hasattr(LIBRARIES, "prctl"):
        LIBRARIES.prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def rest() -> None:
    """Ends the threads of OpenMP, which would wait for the next operation at full speed.

    They do so for milliseconds, on cores that the next worker needs.
    """
    if hasattr(LIBRARIES, "omp_pause_resource_all"):
        LIBRARIES.omp_pause_resource_all(PAUSE_SOFT)
