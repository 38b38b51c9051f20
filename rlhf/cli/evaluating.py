"""What the commands that evaluate policies share: one answer of each policy to each test prompt."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.chat_format import ChatFormat
from data.dataset import read_rows
from data.errors import ConfigError, require_not_negative
from data.schemas import Prompt
from policy.prompts import PromptSet, chat_format_of, check_room, check_same_tokenizer
from policy.samples import sample_records
from reward.score import Rewards, both_models, reward_models
from rlhf.actors.group import WorkerGroup, start_workers
from rlhf.actors.placement import Placement
from rlhf.actors.workers import GenerateWorker, generate_with, logprobs_with
from rlhf.generation.sampling import SamplingConfig
from rlhf.run import console
from rlhf.types import Rollout


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Policies, and how they answer."""

    policies: dict[str, Path]
    """Name → model directory. The first is the baseline of win rates and of the KL."""
    prompts: Path
    """Dataset of prompts; the test split is used."""
    sampling: SamplingConfig = SamplingConfig()
    """How responses are sampled, at one temperature for all policies."""
    seed: int = 0
    """Draws the samples."""
    placement: Placement = Placement()
    """Where samplers and scorers run."""

    def __post_init__(self) -> None:
        require_not_negative(self, "seed")
        if not self.policies:
            raise ConfigError("policies is empty; name one at least, as in '{sft: runs/sft/model}'")
        if self.sampling.temperature == 0:
            raise ConfigError("temperature is 0; a KL needs samples, so it must be above 0")
        self.sampling.require_all_tokens("a KL")

    @property
    def baseline(self) -> Path:
        """The first policy."""
        return next(iter(self.policies.values()))


@dataclass(frozen=True)
class Answers:
    """Of one policy, one per prompt."""

    rollouts: list[Rollout]
    kl: list[float]
    """Nats per response between the policy and the baseline, on the policy's samples."""
    records: list[dict[str, Any]]
    """Rows of samples.parquet, with scores where reward models were given."""


def read_test_prompts(
    config: EvaluateCommand, rewards: Path | None
) -> tuple[PromptSet, ChatFormat]:
    """The prompts, in the ids that policies and reward models share.

    Args:
        config: of the policies.
        rewards: run directory of the reward models, where there are any.

    Raises:
        DataError: no prompts, one too long, or a model with another tokenizer.
    """
    chat = chat_format_of(config.baseline)
    prompts = PromptSet.encode(read_rows(config.prompts, Prompt, "test"), chat)
    for model in config.policies.values():
        check_same_tokenizer(config.baseline, model)
        check_room(prompts, model)
    for scorer in both_models(rewards).values() if rewards else ():
        check_same_tokenizer(config.baseline, scorer)
    return prompts, chat


def answer_all(
    config: EvaluateCommand, prompts: PromptSet, chat: ChatFormat, rewards: Path | None
) -> Iterator[tuple[str, Answers]]:
    """Name → answers, policy by policy, all from the same random streams.

    Args:
        config: of the policies.
        prompts: what they answer.
        chat: their format.
        rewards: run directory of the reward models; None for no scores.
    """
    opened = reward_models(rewards, config.placement) if rewards else nullcontext()
    with (
        start_workers(
            GenerateWorker, config.placement, config.baseline, name="baseline"
        ) as reference,
        opened as models,
    ):
        for name in config.policies:
            with console.status(f"judging {name}"):
                yield name, _answer(config, name, prompts, chat, reference, models)


def win_rate_cell(record: Mapping[str, Any]) -> str:
    """A win rate with its interval, of `WinRate.to_record`; a dash where there is none."""
    if record.get("win_rate") is None:
        return "-"
    low, high = record["win_rate_low"], record["win_rate_high"]
    return f"{record['win_rate']:.1%} [{low:.1%}, {high:.1%}]"


def _answer(
    config: EvaluateCommand,
    name: str,
    prompts: PromptSet,
    chat: ChatFormat,
    reference: WorkerGroup[GenerateWorker],
    rewards: Rewards | None,
) -> Answers:
    model = config.policies[name]
    with start_workers(GenerateWorker, config.placement, model, name=name) as policy:
        rollouts = generate_with(
            policy, prompts.ids, config.sampling, eos_id=chat.tokenizer.eos_id, seed=config.seed
        )
    scores = None if rewards is None else rewards.score(prompts.rows, rollouts)
    ref_logprobs = logprobs_with(reference, rollouts, config.sampling.temperature)
    kl = [
        sum(rollout.response_logprobs) - ref_logprob
        for rollout, ref_logprob in zip(rollouts, ref_logprobs, strict=True)
    ]
    return Answers(rollouts, kl, sample_records(prompts, rollouts, chat, scores, policy=name))
