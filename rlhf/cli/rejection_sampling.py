"""`rlhf rejection-sampling`: sample K, keep the best, fine-tune on it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.chat_format import ChatFormat
from data.dataset import Batch, publish_many, read_rows
from data.errors import ConfigError
from data.manifest import MANIFEST
from data.schemas import Demonstration, Prompt
from policy.best_of_n import best_of_n_curve, compare_temperatures
from policy.pool import (
    Records,
    add_round,
    check_round,
    demonstrations_of,
    mix_rounds,
    pool_entries,
    read_rounds,
    round_taken,
)
from policy.prompts import PromptSet, chat_format_of, check_room
from policy.rejection_sampling import (
    RejectionSamplingConfig,
    demonstrations_from,
    finished,
    those_that_fit,
)
from policy.samples import SAMPLES_FILE, read_samples, write_samples
from policy.scored_samples import PARTS, OpenRewards, sample_scored, scored_records
from policy.selection import select
from policy.sft import fine_tune, longest_dialogue
from rlhf.actors.placement import Placement
from rlhf.cli.parsing import parse
from rlhf.cli.rewarding import RewardChoice, opener
from rlhf.cli.runs import Restarts, begin, report_line, session
from rlhf.cli.temperature_sweep import read_best_temperature
from rlhf.engine.base import EngineConfig
from rlhf.run import Run, console, write_json

BEST = "best"
"""Dataset of a run's demonstrations; sampling is over once it is there."""


@dataclass(frozen=True, kw_only=True)
class RejectionSamplingCommand(RewardChoice):
    """Sample K responses per prompt, keep the one that scores best, learn it."""

    model: Path
    """Directory of the policy to sample from, and to start from."""
    prompts: Path
    """Dataset of prompts; the training split is used."""
    student: Path | None = None
    """Directory of another model, which learns the samples in place of the one that sampled."""
    sweep: Path | None = None
    """Run directory of `rlhf temperature-sweep`; the best temperature found there is taken."""
    pool: Path | None = None
    """Directory that all rounds share: this one's best samples join it, all of it is learned."""
    round: str | None = None
    """Name of this round in the pool; by default that of the run directory."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Earlier round → share of its samples that is learned, 0 to 1; 1 where nothing is said."""
    out: Path = Path("runs/rejection_sampling")
    """The run directory; the model goes to its model/, the best samples to best/."""
    train: RejectionSamplingConfig = RejectionSamplingConfig()
    """Samples per prompt and the fine-tuning on the best."""
    engine: EngineConfig = EngineConfig()
    """What runs the optimizer steps."""
    placement: Placement = Placement()
    """Where samplers, scorers and trainers run, one after the other."""
    max_restarts: int = 0
    """How often new workers take over from the last checkpoint where some died or hung."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool is not None:
            check_round(self.round_name)
        if self.sweep is not None and self.train.temperatures:
            raise ConfigError("sweep and train.temperatures both name temperatures; give one")
        if self.pool is None and (self.round is not None or self.mixture):
            raise ConfigError("round and mixture speak about a pool; name its directory (--pool)")

    @property
    def round_name(self) -> str:
        """Of this round in the pool."""
        return self.out.name if self.round is None else self.round


def main(argv: Sequence[str]) -> None:
    """Samples, scores and fine-tunes, continues an interrupted run, or finds it finished."""
    config = parse(RejectionSamplingCommand, argv, prog="rlhf rejection-sampling")
    chat = chat_format_of(config.model)
    student = config.model if config.student is None else config.student
    student_chat = chat_format_of(student)
    prompts = PromptSet.encode(read_rows(config.prompts, Prompt, "train"), chat)
    rewards = opener(config, config.model, chat, config.placement, prompts)
    prompts = prompts.batch(0, min(config.train.num_prompts, len(prompts)), seed=config.train.seed)
    check_room(prompts, config.model)
    temperatures, earlier = _temperatures(config), _earlier_rounds(config)
    restarts = Restarts(config.max_restarts)
    run = begin("rejection-sampling", config)
    if run is None:
        return
    best = run.directory / BEST

    def work() -> tuple[int, dict[str, float]]:
        if not (best / MANIFEST).is_file():
            _sample_best(config, prompts, temperatures, rewards, earlier, chat, run)
        shutil.rmtree(run.directory / PARTS, ignore_errors=True)
        most = longest_dialogue(config.train.fine_tune, student)
        demonstrations = those_that_fit(read_rows(best, Demonstration, "train"), student_chat, most)
        figures = fine_tune(
            demonstrations,
            (),
            config.train.fine_tune,
            run,
            model=student,
            engine=config.engine,
            placement=config.placement,
            name="rejection sampling",
        )
        return len(demonstrations), figures

    with session(config.placement):
        num_demonstrations, figures = restarts.around(work, run)
    sampled = sum(
        record["response_tokens"] for record in read_samples(run.directory / SAMPLES_FILE)
    )
    figures["tokens"] += sampled
    run.finish(**figures)
    report_line("rejection-sampling", run, demonstrations=num_demonstrations, **figures)


def _temperatures(config: RejectionSamplingCommand) -> tuple[float, ...]:
    if config.sweep is None:
        return config.train.temperatures or (config.train.sampling.temperature,)
    best = read_best_temperature(config.sweep)
    console.print(f"temperature {best:g}, the best of {config.sweep}", highlight=False)
    return (best,)


def _earlier_rounds(config: RejectionSamplingCommand) -> dict[str, Records]:
    """What is learned of the pool beside the samples of this round."""
    if config.pool is None:
        return {}
    rounds = read_rounds(config.pool)
    own = rounds.pop(config.round_name, None)
    if own and not (config.out / SAMPLES_FILE).exists():  # else of this very run, interrupted
        raise round_taken(config.pool, config.round_name)
    return mix_rounds(rounds, config.mixture, seed=config.train.seed)


def _sample_best(
    config: RejectionSamplingCommand,
    prompts: PromptSet,
    temperatures: tuple[float, ...],
    rewards: OpenRewards,
    earlier: Mapping[str, Records],
    chat: ChatFormat,
    run: Run,
) -> None:
    """Writes all samples with their scores, the best-of-N curve, and last what is learned."""
    train = config.train
    samples = sample_scored(
        run.directory / PARTS,
        prompts,
        train.plan(temperatures),
        chat,
        model=config.model,
        rewards=rewards,
        placement=config.placement,
    )
    records = scored_records(prompts, samples, chat)
    write_samples(run.directory / SAMPLES_FILE, records)
    curve = {"curve": best_of_n_curve(samples.table)}
    if len(temperatures) > 1:
        curve |= compare_temperatures(samples.tables, samples.responses)
    write_json(run.directory / "best_of_n.json", curve)
    mask = select(samples.table, train.selection, keep=train.keep, seed=train.seed)
    places = finished(samples.rollouts, np.flatnonzero(mask))
    own = demonstrations_from(prompts, samples.rollouts, places, chat)
    if config.pool is not None:
        entries = pool_entries(
            [records[place] for place in places], own, round=config.round_name, policy=config.model
        )
        add_round(config.pool, config.round_name, entries)
    batches = [Batch(split="train", key="best", rows=own)]
    batches += [
        Batch(split="train", key=f"pool-{name}", rows=demonstrations_of(name, entries))
        for name, entries in earlier.items()
    ]
    publish_many(run.directory / BEST, batches, Demonstration)
