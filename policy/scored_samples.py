"""Samples of many prompts with their scores, made in parts that outlive the process.

First every part is sampled, then every part is scored, so that policy and reward models need not be
in memory together. A part is a Parquet file, complete or absent: a process killed at any moment
continues with the parts that are missing, and because each response has its own random stream, the
samples are those of a run that nobody interrupted.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.chat_format import ChatFormat
from data.errors import DataError
from policy.prompts import PromptSet
from policy.samples import read_samples, sample_records, write_samples
from reward.score import Rewards, Scores
from rlhf.actors.group import start_workers
from rlhf.actors.placement import Placement
from rlhf.actors.workers import GenerateWorker, generate_with
from rlhf.generation.sampling import SamplingConfig
from rlhf.run import progress
from rlhf.types import Rollout

PARTS = "parts"
"""Directory of the parts in a run; deleted once the samples are in one file."""

OpenRewards = Callable[[], AbstractContextManager[Rewards]]
"""Makes the rewards ready for the length of a block; reward models start their workers then."""


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """What to sample for a list of prompts."""

    per_prompt: int
    """Samples of each prompt at each temperature."""
    sampling: SamplingConfig
    """Its temperature gives way to those below."""
    temperatures: tuple[float, ...]
    seed: int
    part_prompts: int
    """Prompts in a part."""


@dataclass(frozen=True, kw_only=True)
class ScoredSamples:
    """C = samples per prompt × temperatures samples of each of P prompts, side by side."""

    rollouts: list[Rollout]
    """[P · C]."""
    scores: Scores
    """[P · C]."""
    temperatures: tuple[float, ...]
    """[C] of the samples of every prompt; neighbours differ, so the first N hold each of them."""

    @property
    def table(self) -> NDArray[np.float64]:
        """[P, C] combined scores."""
        return self.scores.combined.double().numpy().reshape(-1, len(self.temperatures))

    @property
    def tables(self) -> dict[float, NDArray[np.float64]]:
        """Temperature → [P, K] combined scores."""
        columns, table = np.array(self.temperatures), self.table
        return {t: table[:, columns == t] for t in sorted(set(self.temperatures))}

    @property
    def responses(self) -> dict[float, list[list[list[int]]]]:
        """Temperature → [P][K] token ids."""
        columns = self.temperatures
        starts = range(0, len(self.rollouts), len(columns))
        ids = [rollout.response_ids for rollout in self.rollouts]
        return {
            t: [[ids[start + c] for c, at in enumerate(columns) if at == t] for start in starts]
            for t in sorted(set(columns))
        }


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Neighbouring prompts at one temperature."""

    prompts: PromptSet
    temperature: float
    first_stream: int
    sampled: Path
    scored: Path


def sample_scored(
    directory: Path,
    prompts: PromptSet,
    plan: SamplePlan,
    chat: ChatFormat,
    *,
    model: Path,
    rewards: OpenRewards,
    placement: Placement,
) -> ScoredSamples:
    """Samples and scores what is missing in a directory of parts; returns all of it.

    Args:
        directory: of the parts; delete it once what was made of them is safe.
        prompts: the same ones whenever it is called again.
        plan: as for the prompts.
        chat: of the model.
        model: directory of the policy.
        rewards: is opened once the samplers are gone.
        placement: of the samplers.

    Raises:
        DataError: the directory holds samples of other prompts.
    """
    directory.mkdir(parents=True, exist_ok=True)
    parts = list(_parts(directory, prompts, plan))
    unsampled = [part for part in parts if not part.sampled.exists()]
    if unsampled:
        with start_workers(GenerateWorker, placement, model, name="generator") as workers:
            for part in _shown("sampling", parts, unsampled):
                rollouts = generate_with(
                    workers,
                    [prompt for prompt in part.prompts.ids for _ in range(plan.per_prompt)],
                    replace(plan.sampling, temperature=part.temperature),
                    eos_id=chat.tokenizer.eos_id,
                    seed=plan.seed,
                    first_stream=part.first_stream,
                )
                write_samples(part.sampled, [vars(rollout) for rollout in rollouts])
    unscored = [part for part in parts if not part.scored.exists()]
    if unscored:
        with rewards() as opened:
            for part in _shown("scoring", parts, unscored):
                _score(part, opened, plan.per_prompt)
    return _joined(parts, plan)


def scored_records(
    prompts: PromptSet, samples: ScoredSamples, chat: ChatFormat
) -> list[dict[str, Any]]:
    """One record per sample, as `policy.samples.sample_records`, with its temperature."""
    records = sample_records(prompts, samples.rollouts, chat, samples.scores)
    at = cycle(samples.temperatures)
    return [record | {"temperature": t} for record, t in zip(records, at, strict=False)]


def _parts(directory: Path, prompts: PromptSet, plan: SamplePlan) -> Iterator[_Part]:
    for number, temperature in enumerate(plan.temperatures):
        for start in range(0, len(prompts), plan.part_prompts):
            places = range(start, min(start + plan.part_prompts, len(prompts)))
            name = f"t{number:02d}-{start:07d}.parquet"
            yield _Part(
                prompts=prompts.select(places),
                temperature=temperature,
                first_stream=(number * len(prompts) + start) * plan.per_prompt,
                sampled=directory / f"sampled-{name}",
                scored=directory / f"scored-{name}",
            )


def _shown(what: str, parts: list[_Part], missing: list[_Part]) -> Iterator[_Part]:
    """The missing parts, with a progress bar."""
    with progress(what, len(parts), len(parts) - len(missing)) as advance:
        for part in missing:
            yield part
            advance(1, f"temperature {part.temperature:g}")


def _score(part: _Part, rewards: Rewards, per_prompt: int) -> None:
    rollouts = _read_rollouts(part, per_prompt)
    prompts = [row for row in part.prompts.rows for _ in range(per_prompt)]
    scores = rewards.score(prompts, rollouts)
    columns = {name: values.tolist() for name, values in scores.named.items()}
    rows = zip(*columns.values(), strict=True)
    write_samples(part.scored, [dict(zip(columns, row, strict=True)) for row in rows])


def _read_rollouts(part: _Part, per_prompt: int) -> list[Rollout]:
    rollouts = [Rollout(**record) for record in read_samples(part.sampled)]
    expected = [prompt for prompt in part.prompts.ids for _ in range(per_prompt)]
    if [(r.prompt_id, r.prompt_ids) for r in rollouts] != [(p.prompt_id, p.ids) for p in expected]:
        raise DataError(
            f"{str(part.sampled)!r} holds samples of other prompts than the dataset does now; "
            "restore the prompts, or delete that directory to sample again"
        )
    return rollouts


def _joined(parts: list[_Part], plan: SamplePlan) -> ScoredSamples:
    """Puts the samples of a prompt side by side; on disk the temperatures are apart."""
    rollouts = [rollout for part in parts for rollout in _read_rollouts(part, plan.per_prompt)]
    records = [record for part in parts for record in read_samples(part.scored)]
    columns = {name: torch.tensor([record[name] for record in records]) for name in records[0]}
    shape = (len(plan.temperatures), -1, plan.per_prompt)
    places = np.arange(len(rollouts)).reshape(shape).transpose(1, 2, 0).ravel()
    rows = torch.from_numpy(places)
    return ScoredSamples(
        rollouts=[rollouts[place] for place in places],
        scores=Scores(**{name: values[rows] for name, values in columns.items()}),
        temperatures=plan.temperatures * plan.per_prompt,
    )
