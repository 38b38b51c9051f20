"""`rlhf ppo` starts a Ray where any of its workers are Ray actors."""

from typing import NoReturn
from unittest.mock import MagicMock

import pytest

from rlhf.actors.placement import Placement
from rlhf.cli import ppo
from rlhf.cli.parsing import parse

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
        ([*MODELS, *HERE, *SCORERS_HERE, "--critic_placement.ray", "true"], True),
        ([*FUNCTION, *SCORERS_HERE], True),
        ([*FUNCTION, *HERE], False),
        ([*FUNCTION, *HERE, "--critic-placement.ray", "true"], True),
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


def test_roles_are_placed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the critic's placement does not say is as for the policy."""
    words = ["--placement.workers", "2", "--placement.timeout", "60"]
    words += ["--critic-placement.workers", "3", "--critic-placement.cpus-per-worker", "1"]
    command = ["--model", "model", "--prompts", "prompts", *FUNCTION, *words]
    config = parse(ppo.PpoCommand, command, prog="rlhf ppo")
    started = MagicMock()
    monkeypatch.setattr(ppo, "start_workers", started)
    with ppo._roles(config, MagicMock()):
        placed = {call.kwargs["name"]: call.args[1] for call in started.call_args_list}
    assert placed == {
        "policy": Placement(workers=2, timeout=60),
        "critic": Placement(workers=3, cpus_per_worker=1, timeout=60),
    }
    again = parse(ppo.PpoCommand, [*command, "--critic-placement.workers", "null"], prog="x")
    assert again.placements.critic.workers == 2
