"""A Python function as the reward: which text it sees, and every way in which it can be wrong."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import ConfigError, DataError
from data.schemas import Message, Prompt
from reward.function import RewardFunction
from reward.happy_words import share
from rlhf.types import Rollout
from tests.reward.tiny import tiny_chat


def prompt_of(*texts: str) -> Prompt:
    """A dialogue whose turns alternate."""
    roles: Any = ("user", "assistant")
    messages = tuple(Message(roles[n % 2], text) for n, text in enumerate(texts))
    return Prompt(prompt_id="p", prompt=messages, domain="helpfulness", kind="t", source="t")


def rollout(text: str) -> Rollout:
    ids = tiny_chat().encode_response(text)
    return Rollout(
        prompt_id="p",
        prompt_ids=[1],
        response_ids=ids,
        response_logprobs=[-0.5] * len(ids),
        finish_reason="eos",
        policy_version=0,
    )


def scored(function: Callable[[list[str], list[str]], Any]) -> Any:
    """Scores of two responses by a function."""
    prompts = [prompt_of("a fox"), prompt_of("a dog", "yes", "quick")]
    reward = RewardFunction("here:f", function, tiny_chat())
    return reward.score(prompts, [rollout("jumps"), rollout("please now")])


def test_it_sees_the_last_message_and_the_response() -> None:
    seen: list[list[str]] = []

    def lengths(prompts: list[str], responses: list[str]) -> list[int]:
        seen.extend((prompts, responses))
        return [len(response) for response in responses]

    found = scored(lengths)
    assert seen == [["a fox", "quick"], ["jumps", "please now"]]
    assert torch.equal(found.combined, torch.tensor([5.0, 10.0]))
    assert list(found.named) == ["combined"]


@pytest.mark.parametrize("as_what", [tuple, torch.tensor])
def test_any_row_of_numbers_will_do(as_what: Callable[[list[float]], Any]) -> None:
    found = scored(lambda prompts, responses: as_what([1.0, 2.5]))
    assert torch.equal(found.combined, torch.tensor([1.0, 2.5]))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, r: [1.0], r"'here:f' returned 1 scores for 2 responses; it must return one for"),
        (lambda p, r: [1.0, float("nan")], r"returned nan for the response 'please now'; a score"),
        (lambda p, r: [float("-inf"), 1.0], r"returned -inf for the response 'jumps'"),
        (lambda p, r: 1.0, r"failed with TypeError: 'float' object is not iterable; it must retu"),
        (lambda p, r: ["good", "bad"], r"failed with ValueError: could not convert string"),
        (lambda p, r: {}["x"], r"failed with KeyError: 'x'; it must return a list of numbers"),
    ],
)
def test_what_it_must_not_return(function: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        scored(function)
    assert "\n" not in str(raised.value)


def test_it_is_tried_out_on_prompts_of_the_run() -> None:
    seen: list[tuple[str, str]] = []

    def known(prompts: list[str], responses: list[str]) -> list[float]:
        seen.extend(zip(prompts, responses, strict=True))
        return [{"a fox": 1.0}[prompt] for prompt in prompts]

    RewardFunction("here:f", known, tiny_chat()).try_out([prompt_of("a fox")])
    assert seen == [("a fox", "Yes, of course: here it is."), ("a fox", "")]
    with pytest.raises(DataError, match=r"'here:f' failed with ZeroDivisionError: division by"):
        RewardFunction("here:f", lambda p, r: [1 / len(t) for t in r], tiny_chat()).try_out(
            [prompt_of("a"), prompt_of("b"), prompt_of("c")]
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("happy", r"reward_function is 'happy'; write package.module:function, for example rew"),
        ("reward.happy_words:", r"reward_function is 'reward.happy_words:'; write package"),
        ("reward.happy_wards:share", r"the module 'reward.happy_wards', which is not found; run"),
        ("no_such.module:share", r"the module 'no_such.module', which is not found"),
        ("reward.happy_words:shore", r"'reward.happy_words' has no function 'shore'; did you mean"),
        ("reward.happy_words:HAPPY", r"has no function 'HAPPY'; check the name"),
        ("broken_rule:f", r"'broken_rule' of reward_function cannot be loaded: SyntaxError: "),
        ("needs_more:f", r"cannot be loaded: ModuleNotFoundError: No module named 'not_there'"),
    ],
)
def test_a_name_that_leads_nowhere(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_rule.py").write_text("def f(:\n")
    (tmp_path / "needs_more.py").write_text("import not_there\n")
    with pytest.raises(ConfigError, match=message) as raised:
        RewardFunction.load(name, tiny_chat())
    assert "\n" not in str(raised.value)


def test_a_module_of_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rule_of_mine.py").write_text("def f(prompts, responses):\n    return [2, 3]\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    reward = RewardFunction.load("rule_of_mine:f", tiny_chat())
    monkeypatch.delitem(sys.modules, "rule_of_mine")
    found = reward.score([prompt_of("a")] * 2, [rollout("fox"), rollout("dog")])
    assert found.combined.tolist() == [2.0, 3.0]


def test_happy_words_by_hand() -> None:
    # "She was so happy, she smiled!": 2 of 6 words; "I can't": none of 3 (i, can, t)
    found = share(["", "", ""], ["She was so happy, she smiled!", "I can't", ""])
    assert found == [pytest.approx(100 * 2 / 6), 0.0, 0.0]
