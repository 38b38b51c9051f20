"""What says how good responses are, in every command that asks: reward models or a function."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from data.chat_format import ChatFormat
from data.errors import ConfigError
from policy.prompts import PromptSet, check_same_tokenizer
from policy.scored_samples import OpenRewards
from reward.function import RewardFunction
from reward.score import both_models, reward_models
from rlhf.actors.placement import Placement


@dataclass(frozen=True, kw_only=True)
class RewardChoice:
    """The one or the other."""

    rewards: Path | None = None
    """Run directory of `rlhf reward train`, with both models."""
    reward_function: str | None = None
    """In their place a Python function, package.module:function, of prompts and responses."""

    def __post_init__(self) -> None:
        if (self.rewards is None) == (self.reward_function is None):
            raise ConfigError(
                "give one reward: --rewards, a run of `rlhf reward train`, or --reward_function, "
                "a Python function (package.module:function)"
            )


def opener(
    config: RewardChoice,
    model: Path,
    chat: ChatFormat,
    placement: Placement,
    prompts: PromptSet,
    dtype: torch.dtype = torch.float32,
) -> OpenRewards:
    """What makes the rewards ready, after a check of all that can be wrong with them.

    Args:
        config: names them.
        model: directory of the policy; reward models must share its tokenizer.
        chat: of the policy.
        placement: of each reward model.
        prompts: what a function is tried out on.
        dtype: of the reward models' weights and activations.

    Raises:
        ConfigError: there is no such function.
        DataError: a reward model is missing, or has another tokenizer; the function does not give a
            finite number per response.
    """
    if config.rewards is None:
        assert config.reward_function is not None
        function = RewardFunction.load(config.reward_function, chat)
        function.try_out(prompts.rows)
        return lambda: nullcontext(function)
    for scorer in both_models(config.rewards).values():
        check_same_tokenizer(model, scorer)
    return partial(reward_models, config.rewards, placement, dtype)
