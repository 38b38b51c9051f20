"""How a worker's process keeps its memory."""

import ctypes

# Numbers of glibc's mallopt (malloc.h), and what they are set to.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
KEPT = {
    MMAP_THRESHOLD: 32 * 2**20,
    TOP_PAD: 64 * 2**20,  # of a thread's heap, which then stays when it is free
    TRIM_THRESHOLD: 128 * 2**20,
}


def keep_freed_memory() -> None:
    """Keeps some freed memory for the next step, where the C library is glibc.

    Otherwise large tensors are given back to the system and taken again page by page: a fifth of a
    training step, and a quarter of a scorer's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in KEPT.items():
            mallopt(parameter, value)
