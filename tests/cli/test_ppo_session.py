"""`rlhf ppo` starts a Ray where any of its workers are Ray actors."""

from typing import NoReturn
from unittest.mock import MagicMock

import pytest

from rlhf.actors.placement import Placement
from rlhf.cli import ppo

HERE, SCORERS_HERE = ["--placement.ray", "false"], ["--reward_placement.ray", "false"]
MODELS, FUNCTION = ["--rewards", "runs/reward"], ["--reward_function", "package.module:function"]


class Opened(Exception):
    """The session that would be opened: whether with Ray."""


@pytest.mark.parametrize(
    ("words", "starts"),
    [
        (MODELS, True),
        ([*MODELS, *HERE], True),
        ([*MODELS, *SCORERS_HERE], True),
        ([*MODELS, *HERE, *SCORERS_HERE], False),
        ([*MODELS, *HERE, *SCORERS_HERE, "--critic_placement.workers", "2"], True),
        ([*FUNCTION, *SCORERS_HERE], True),
        ([*FUNCTION, *HERE], False),
        ([*FUNCTION, *HERE, "--critic_placement.ray", "true"], True),
    ],
)
def test_ray_starts_where_any_worker_needs_it(
    monkeypatch: pytest.MonkeyPatch, words: list[str], starts: bool
) -> None:
    def session(placement: Placement) -> NoReturn:
        raise Opened(placement.ray)

    for name in ("chat_format_of", "PromptSet", "read_rows", "opener", "check_same_tokenizer"):
        monkeypatch.setattr(ppo, name, MagicMock())
    for name in ("check_room", "check_workers", "begin"):
        monkeypatch.setattr(ppo, name, MagicMock())
    monkeypatch.setattr(ppo, "session", session)
    with pytest.raises(Opened) as opened:
        ppo.main(["--model", "model", "--prompts", "prompts", *words])
    assert opened.value.args == (starts,)
