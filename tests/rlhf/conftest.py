"""Fixtures of the tests of the core."""

from collections.abc import Iterator

import pytest
import torch

from rlhf.actors.placement import Placement


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices lose more to several threads than they gain, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Placement, "threads", 1)
        yield
    torch.set_num_threads(before)
