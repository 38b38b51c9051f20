"""Where workers run: settings that cannot be, and cores shared out."""

import os
from typing import Any

import pytest

from data.errors import ConfigError
from rlhf.actors import placement
from rlhf.actors.placement import Placement

THREADS = Placement.threads
"""The method itself, which a fixture of these tests replaces by one thread."""


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"workers": 0}, "workers is 0; it must be 1 or more"),
        ({"workers": 2, "ray": False}, "workers is 2; without Ray there is exactly one"),
        ({"gpus_per_worker": -1.0}, "gpus_per_worker is -1.0; it must be a number from 0"),
        ({"cpus_per_worker": float("nan")}, "cpus_per_worker is nan; it must be a number"),
        ({"timeout": 0.0}, r"timeout is 0\.0; it must be above 0 seconds"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Placement(**values)


@pytest.mark.parametrize(
    ("cores", "workers", "groups", "threads"),
    [(16, 1, 1, 16), (16, 3, 1, 5), (2, 4, 1, 1), (16, 1, 2, 8), (16, 3, 2, 2), (1, 1, 2, 1)],
)
def test_cores_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, groups: int, threads: int
) -> None:
    monkeypatch.setattr(placement, "usable_cores", lambda: cores)
    assert THREADS(Placement(workers=workers), groups) == threads


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert placement.usable_cores() == 3


def test_cores_where_no_system_call_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert placement.usable_cores() == 1
