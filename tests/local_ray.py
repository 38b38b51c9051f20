"""A Ray of the tests' own on this machine."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rlhf.actors.session import ray_session


@contextmanager
def own_ray() -> Iterator[None]:
    """Ends with the block; sockets need a short path, so it does not live in pytest's folder."""
    directory = tempfile.mkdtemp(prefix="ray-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", directory)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_AUTH_TOKEN", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        with ray_session():
            yield
    shutil.rmtree(directory, ignore_errors=True)
