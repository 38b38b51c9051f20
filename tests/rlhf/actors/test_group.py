"""Workers in this process: the contract that Ray's groups keep too."""

import pytest

from data.errors import DataError
from rlhf.actors.group import LocalGroup, start_workers
from rlhf.actors.placement import Placement
from tests.rlhf.actors.players import Counter

HERE = Placement(ray=False)


def test_calls_return_a_result_per_rank() -> None:
    with start_workers(Counter, HERE, 5, name="counter") as group:
        assert isinstance(group, LocalGroup)
        assert group.size == 1
        assert group.broadcast(Counter.add, 2) == [7]
        assert group.broadcast(Counter.add, 2, times=3) == [13]
        assert group.scatter(Counter.scaled, [[1, 2]]) == [[13, 26]]


def test_a_shard_for_every_worker() -> None:
    group = LocalGroup(Counter, HERE, 5)
    with pytest.raises(ValueError, match="too many values"):
        group.scatter(Counter.scaled, [[1], [2]])


def test_errors_come_as_they_are() -> None:
    with pytest.raises(DataError, match="start is -1; count from 0 or more"):
        LocalGroup(Counter, HERE, -1)
    group = LocalGroup(Counter, HERE, 5)
    with pytest.raises(RuntimeError, match="broken"):
        group.broadcast(Counter.fail, 0)
    with pytest.raises(DataError, match="the file is torn"):
        group.broadcast(Counter.complain, 0)
