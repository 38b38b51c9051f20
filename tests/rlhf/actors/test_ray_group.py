"""Workers as Ray actors: the same results, and failures that say who, where and when."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
import torch
from torch import Tensor

from data.errors import DataError
from rlhf.actors import hosts, ray_group
from rlhf.actors.group import WorkerError, WorkerLost, start_workers
from rlhf.actors.placement import Placement
from rlhf.actors.ray_group import RayGroup
from tests.rlhf.actors.players import Counter, Fatal

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
TWO = Placement(workers=2, timeout=300)


@pytest.fixture
def pair() -> Iterator[RayGroup[Counter]]:
    """Two workers that count from 5."""
    with RayGroup(Counter, TWO, 5, name="counter") as group:
        yield group


def hurry(group: RayGroup[Counter], monkeypatch: pytest.MonkeyPatch) -> None:
    """The group started at leisure; from now on it waits for two seconds only."""
    monkeypatch.setattr(group, "_placement", Placement(workers=2, timeout=2.0))


def test_calls_return_a_result_per_rank(pair: RayGroup[Counter]) -> None:
    assert pair.size == 2
    assert pair.broadcast(Counter.add, 2, times=3) == [11, 11]
    assert pair.scatter(Counter.scaled, [[1, 2], [3]]) == [[11, 22], [33]]
    assert pair.broadcast(Counter.add, 1) == [12, 12]  # they remember
    with pytest.raises(ValueError, match="zip"):
        pair.scatter(Counter.scaled, [[1]])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).view(2, 3),
        torch.ones(3, 4).t()[1:3],
        torch.tensor(2.5),
        torch.zeros(0, 3),
        torch.full((600_000,), 0.1),  # too large to travel with the call
        torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        torch.tensor([1.5, -2.0], requires_grad=True),
    ],
    ids=["ids", "a part", "a number", "nothing", "much", "bf16", "with a gradient"],
)
def test_tensors_arrive_as_they_are(pair: RayGroup[Counter], tensor: Tensor) -> None:
    for found, shared in pair.broadcast(Counter.negated, tensor):
        torch.testing.assert_close(found, -tensor, rtol=0, atol=0)
        assert found.requires_grad == tensor.requires_grad and not shared
        found.detach().add_(1)


def test_groups_that_work_at_once_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Placement, "threads", lambda _, groups: 6 // groups)
    one, files = Placement(timeout=300), (tmp_path / "a", tmp_path / "b")
    with (
        start_workers(Counter, one, 0, name="first", groups=2) as first,
        start_workers(Counter, one, 0, name="second", groups=2) as second,
    ):
        begun = [first.begin(Counter.meet, [files]), second.begin(Counter.meet, [files[::-1]])]
        assert [results() for results in begun] == [[3], [3]]


def test_a_group_that_closes_before_its_results_are_there(tmp_path: Path) -> None:
    """As where another group failed meanwhile: its process is ended at once."""
    with RayGroup(Counter, Placement(timeout=300), 0, name="counter") as group:
        ((_, _, process),) = group.broadcast(Counter.place)
        group.begin(Counter.meet, [(tmp_path / "a", tmp_path / "never")])
        began = time.monotonic()
    assert time.monotonic() - began < hosts.SECONDS_TO_VACATE / 2
    with suppress(psutil.NoSuchProcess):
        psutil.Process(process).wait(timeout=300)


def test_the_timeout_counts_from_the_call(
    pair: RayGroup[Counter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from when somebody asks for the results."""
    now, waits, wait = [0.0], list[float](), ray.wait

    def watch(calls: list[Any], *, timeout: float, **others: Any) -> Any:
        waits.append(timeout)
        return wait(calls, timeout=timeout, **others)

    monkeypatch.setattr(ray_group, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(ray, "wait", watch)
    results = pair.begin(Counter.meet, [(tmp_path / "a", tmp_path / "never")] * 2)
    now[0] = TWO.timeout + 0.5
    with pytest.raises(WorkerLost, match=r"counter rank \d did not finish 'meet' within 300 s"):
        results()
    assert waits[0] == 0.0


def test_ranks_are_processes_joined_in_a_group(pair: RayGroup[Counter]) -> None:
    places = pair.broadcast(Counter.place)
    assert [place[:2] for place in places] == [(0, 2), (1, 2)]
    assert len({os.getpid(), *(place[2] for place in places)}) == 3
    assert pair.broadcast(Counter.total) == [10.0, 10.0]


def test_one_worker_needs_no_process_group() -> None:
    with start_workers(Counter, Placement(timeout=300), 3, name="counter") as group:
        assert isinstance(group, RayGroup)
        assert group.broadcast(Counter.add, 1) == [4]


def test_the_next_group_takes_the_processes_over() -> None:
    found = []
    for start in (5, 7):
        with RayGroup(Counter, TWO, start, name="counter") as group:
            found.append([place[2] for place in group.broadcast(Counter.place)])
            # nothing of the worker before is left, and the ranks still hear each other
            assert group.broadcast(Counter.total) == [2.0 * start] * 2
    assert found[0] == found[1]


def test_groups_at_the_same_time_have_processes_of_their_own(
    pair: RayGroup[Counter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_here() -> str:
        raise AssertionError("ranks meet on the node of the first, which need not be the driver's")

    assert not hosts._kept[hosts._key(TWO)]  # so that new processes have to meet
    monkeypatch.setattr(hosts, "free_address", not_here)
    with RayGroup(Counter, TWO, 6, name="other") as other:
        mine, theirs = ({p[2] for p in group.broadcast(Counter.place)} for group in (pair, other))
        assert mine.isdisjoint(theirs)
        assert other.broadcast(Counter.total) == [12.0, 12.0]


def test_an_exception_names_role_rank_and_phase(pair: RayGroup[Counter]) -> None:
    before = {place[2] for place in pair.broadcast(Counter.place)}
    reason = r"^counter rank 1 failed in 'fail': RuntimeError: it is broken$"
    with pytest.raises(WorkerError, match=reason):
        pair.broadcast(Counter.fail, 1)
    pair.close()  # a second time does no harm
    with RayGroup(Counter, TWO, 1, name="next") as group:  # not in the processes that failed
        assert before.isdisjoint(place[2] for place in group.broadcast(Counter.place))


def test_errors_for_the_user_come_as_they_are(pair: RayGroup[Counter]) -> None:
    with pytest.raises(DataError, match=r"^the file is torn; restore it$"):
        pair.broadcast(Counter.complain, 0)


def test_a_constructor_that_fails() -> None:
    reason = r"^counter rank [01] failed in 'start': ZeroDivisionError: too much$"
    with pytest.raises(WorkerError, match=reason):
        RayGroup(Counter, TWO, 2000, name="counter")


def test_a_killed_worker_is_named_though_the_other_waits(pair: RayGroup[Counter]) -> None:
    with pytest.raises(WorkerLost, match=r"^counter rank 1 died in 'die'; it was killed or ran"):
        pair.broadcast(Counter.die, 1)


def test_a_late_worker_is_named(pair: RayGroup[Counter], monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(pair, monkeypatch)
    expected = (
        r"^counter rank 1 did not finish 'sleep' within 2 s and is in sleep \(players.py:\d+\)"
    )
    with pytest.raises(WorkerLost, match=expected):
        pair.broadcast(Counter.sleep, 1, 1000.0)


def test_a_late_worker_is_named_though_its_peer_is_late_too(
    pair: RayGroup[Counter], monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(pair, monkeypatch)
    with pytest.raises(WorkerLost, match=r"^counter rank 1 .* 2 s and is in meet_late \(players"):
        pair.broadcast(Counter.meet_late, 1, 1000.0)


def test_a_stopped_worker_is_named_and_ended_with_its_peer(
    pair: RayGroup[Counter], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = [place[2] for place in pair.broadcast(Counter.place)]
    hurry(pair, monkeypatch)
    os.kill(processes[1], signal.SIGSTOP)
    expected = "^counter rank 1 did not finish 'total' within 2 s and does not answer; look for"
    with pytest.raises(WorkerLost, match=expected):
        pair.broadcast(Counter.total)
    _, alive = psutil.wait_procs([psutil.Process(p) for p in processes], timeout=300)
    assert alive == []


def test_a_killed_worker_is_named_though_its_peer_hears_of_it_first(
    pair: RayGroup[Counter],
) -> None:
    with pytest.raises(WorkerLost, match=r"^counter rank 1 died in 'die_before_meeting'; it was"):
        pair.broadcast(Counter.die_before_meeting, 1)


def test_a_killed_host_is_named_though_the_other_needed_its_answer() -> None:
    with pytest.raises(WorkerLost, match=r"^fatal rank 0 died in 'start'; it was killed or ran"):
        RayGroup(Fatal, TWO, 0, name="fatal")


def test_a_process_that_died_while_idle() -> None:
    with RayGroup(Counter, TWO, 5, name="counter") as group:
        process = group.broadcast(Counter.place)[1][2]
    os.kill(process, signal.SIGKILL)
    time.sleep(1)
    with RayGroup(Counter, TWO, 6, name="counter") as group:
        assert group.broadcast(Counter.total) == [12.0, 12.0]
