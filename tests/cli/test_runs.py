"""What a command says before its workers are there."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rlhf.actors.placement import Placement
from rlhf.cli import runs


def test_the_start_of_ray_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    joined: list[bool] = []

    @contextmanager
    def started() -> Iterator[None]:
        joined.append(True)
        yield

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(runs, "ray_session", started)
    monkeypatch.setattr(runs.ray, "is_initialized", lambda: bool(joined))
    with runs.session(Placement(workers=2)), runs.session(Placement(workers=1)):
        pass
    assert capsys.readouterr().err == "starting Ray …\n"


def test_nothing_is_told_where_there_is_no_ray(capsys: pytest.CaptureFixture[str]) -> None:
    with runs.session(Placement(ray=False)):
        pass
    assert capsys.readouterr().err == ""
