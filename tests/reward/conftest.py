"""Fixtures of the tests of reward models."""

from collections.abc import Iterator

import pytest

from rlhf.actors.placement import Placement


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Workers take one core each; tiny matrices lose more to several threads than they gain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Placement, "threads", 1)
        yield
