"""A reward that is a Python function: a rule that can be checked, in place of reward models."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from data.chat_format import ChatFormat
from data.errors import ConfigError, DataError
from data.schemas import Prompt
from reward.score import Scores
from rlhf.types import Rollout

Function = Callable[[list[str], list[str]], Sequence[float]]
"""Prompts and responses, as many of each, to a score per response."""
TRIAL = ("Yes, of course: here it is.", "")
"""Made-up responses."""


@dataclass(frozen=True)
class RewardFunction:
    """Scores by a function of texts; it runs in the process that directs the run."""

    name: str
    function: Function
    chat: ChatFormat
    """Decodes the responses."""

    @classmethod
    def load(cls, name: str, chat: ChatFormat) -> "RewardFunction":
        """The function that is called `package.module:function`.

        Modules are found where Python finds them, and in the current directory.

        Raises:
            ConfigError: there is none.
        """
        return cls(name, _load(name), chat)

    def try_out(self, prompts: Sequence[Prompt]) -> None:
        """Asks the function once, before hours of sampling lead to it.

        Args:
            prompts: of the run, since a function may know these only. The first ones get made-up
                responses, one of them empty, as that of a policy may be.

        Raises:
            DataError: see `score`.
        """
        asked = [row.prompt[-1].content for row, _ in zip(cycle(prompts), TRIAL, strict=False)]
        self._scores(asked, list(TRIAL))

    def score(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        """What the function says of each response.

        Args:
            prompts: one per rollout; the function sees the last message of each.
            rollouts: [B].

        Raises:
            DataError: it fails, or does not return a finite number per response.
        """
        asked = [prompt.prompt[-1].content for prompt in prompts]
        answered = [self.chat.decode_response(rollout.response_ids) for rollout in rollouts]
        return Scores(combined=self._scores(asked, answered))

    def _scores(self, asked: list[str], answered: list[str]) -> Tensor:
        """[B]."""
        try:
            returned: Any = self.function(asked, answered)
            found = [float(value) for value in returned]
        except Exception as error:
            raise DataError(
                f"the reward function {self.name!r} failed with {type(error).__name__}: {error}; "
                "it must return a list of numbers; --debug shows the place"
            ) from error
        if len(found) != len(answered):
            raise DataError(
                f"the reward function {self.name!r} returned {len(found)} scores for "
                f"{len(answered)} responses; it must return one for each, in their order"
            )
        scores = torch.tensor(found)
        for value, finite, response in zip(found, scores.isfinite(), answered, strict=True):
            if not finite:
                raise DataError(
                    f"the reward function {self.name!r} returned {value} for the response "
                    f"{response[:60]!r}; a score must be a finite number, of float32"
                )
        return scores


def _load(name: str) -> Function:
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise ConfigError(
            f"reward_function is {name!r}; write package.module:function, for example "
            "reward.happy_words:share"
        )
    module = _import(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        named = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        near = difflib.get_close_matches(function_name, named, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "check the name"
        raise ConfigError(f"module {module_name!r} has no function {function_name!r}; {hint}")
    return function  # type: ignore[no-any-return]


def _import(name: str) -> ModuleType:
    here = os.getcwd()  # `rlhf` is a script, whose path begins with its own folder instead
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever a module does while it is loaded
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        if missing and (name + ".").startswith(f"{error.name}."):  # type: ignore[attr-defined]
            raise ConfigError(
                f"reward_function names the module {name!r}, which is not found; run the command "
                "where it lies, or install it"
            ) from error
        raise ConfigError(
            f"the module {name!r} of reward_function cannot be loaded: {type(error).__name__}: "
            f"{error}; --debug shows the place"
        ) from error
