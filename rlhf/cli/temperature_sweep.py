"""`rlhf temperature-sweep`: at which temperature the best of N samples scores highest."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from data.dataset import read_rows
from data.durable import write_durably
from data.errors import ConfigError, DataError, require_not_negative, require_positive
from data.schemas import Prompt, Split
from policy.best_of_n import NGRAMS, compare_temperatures
from policy.prompts import PromptSet, chat_format_of, check_room
from policy.rejection_sampling import check_temperatures
from policy.samples import SAMPLES_FILE, write_samples
from policy.scored_samples import PARTS, SamplePlan, ScoredSamples, sample_scored, scored_records
from rlhf.actors.placement import Placement
from rlhf.cli.parsing import parse
from rlhf.cli.rewarding import RewardChoice, opener
from rlhf.cli.runs import Restarts, begin, report_line, session
from rlhf.generation.sampling import SamplingConfig
from rlhf.run import console, read_json, write_json

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class TemperatureSweepCommand(RewardChoice):
    """Compare the best of N samples at several temperatures."""

    model: Path
    """Directory of the policy to sample from."""
    prompts: Path
    """Dataset of prompts."""
    split: Split = "train"
    """Which of its splits; validation or test to see how a trained policy does on new prompts."""
    out: Path = Path("runs/temperature_sweep")
    """The run directory: sweep.json, charts, samples.parquet."""
    temperatures: tuple[float, ...] = (0.6, 0.8, 1.0, 1.2, 1.4)
    """At each of these."""
    num_prompts: int = 256
    """The first of an order drawn by the seed, as rejection sampling takes them."""
    samples_per_prompt: int = 16
    """The largest N."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=1024)
    """Truncation and length; its temperature is not used."""
    part_prompts: int = 256
    """Prompts whose samples are written together; an interruption loses no more than them."""
    seed: int = 0
    """Draws prompts and samples."""
    placement: Placement = Placement()
    """Where samplers and scorers run, one after the other."""
    max_restarts: int = 0
    """How often new workers take over where some died or hung."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "num_prompts", "samples_per_prompt", "part_prompts")
        require_not_negative(self, "seed")
        if not self.temperatures:
            raise ConfigError("temperatures is empty; name one at least")
        check_temperatures(self.temperatures, self.sampling)

    @property
    def plan(self) -> SamplePlan:
        """What to sample."""
        return SamplePlan(
            per_prompt=self.samples_per_prompt,
            sampling=self.sampling,
            temperatures=self.temperatures,
            seed=self.seed,
            part_prompts=self.part_prompts,
        )


def main(argv: Sequence[str]) -> None:
    """Samples, scores and compares, continues an interrupted run, or finds it finished."""
    config = parse(TemperatureSweepCommand, argv, prog="rlhf temperature-sweep")
    chat = chat_format_of(config.model)
    prompts = PromptSet.encode(read_rows(config.prompts, Prompt, config.split), chat)
    rewards = opener(config, config.model, chat, config.placement, prompts)
    prompts = prompts.batch(0, min(config.num_prompts, len(prompts)), seed=config.seed)
    check_room(prompts, config.model)
    restarts = Restarts(config.max_restarts)
    run = begin("temperature-sweep", config)
    if run is None:
        return

    def work() -> ScoredSamples:
        return sample_scored(
            run.directory / PARTS,
            prompts,
            config.plan,
            chat,
            model=config.model,
            rewards=rewards,
            placement=config.placement,
        )

    with session(config.placement):
        samples = restarts.around(work, run)
    write_samples(run.directory / SAMPLES_FILE, scored_records(prompts, samples, chat))
    compared = compare_temperatures(samples.tables, samples.responses)
    _write_charts(run.directory, compared["temperature_curves"])
    write_json(run.directory / SWEEP_FILE, {"num_prompts": len(prompts), **compared})
    run.finish(tokens=sum(len(rollout.response_ids) for rollout in samples.rollouts))
    shutil.rmtree(run.directory / PARTS)
    console.print(_view(compared))
    report_line("temperature-sweep", run, best_temperature=compared["best_temperature"])


def read_best_temperature(sweep: Path) -> float:
    """What a finished sweep found.

    Raises:
        DataError: there is none in that directory.
    """
    path = sweep / SWEEP_FILE
    try:
        return float(read_json(path)["best_temperature"])
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{str(path)!r} holds no finished sweep; run `rlhf temperature-sweep --out {sweep}`"
        ) from error


def _write_charts(directory: Path, points: list[dict[str, float]]) -> None:
    import vl_convert

    from rlhf.sampling_plots import (
        best_of_n_by_temperature,
        diversity_by_temperature,
        scores_by_temperature,
    )

    curves = pd.DataFrame(points)
    for name, chart in {
        "best_of_n": best_of_n_by_temperature(curves),
        "scores": scores_by_temperature(curves),
        "diversity": diversity_by_temperature(curves),
    }.items():
        svg = vl_convert.vegalite_to_svg(chart.to_json())
        write_durably(directory / f"{name}.svg", svg.encode())


def _view(compared: dict[str, Any]) -> Table:
    """A row per temperature, of all N samples; below it, how sure the best one is."""
    points = compared["temperature_curves"]
    most = max(point["n"] for point in points)
    distinct = [f"distinct_{n}" for n in NGRAMS]
    view = Table(
        title=f"Combined scores, best of {most:.0f}",
        caption=_lead(compared),
        collapse_padding=True,  # else wider than 80 columns
    )
    for column in ("temperature", "maximum", "95 %", "median", "mean", *distinct):
        view.add_column(column.replace("_", "-"), justify="right", no_wrap=True)
    for point in points:
        if point["n"] == most:
            best = point["temperature"] == compared["best_temperature"]
            figures = [f"{point[name]:.2f}" for name in ("median", "mean", *distinct)]
            view.add_row(
                f"{point['temperature']:g}" + (" (best)" if best else ""),
                f"{point['maximum']:.2f}",
                f"[{point['low']:.2f}, {point['high']:.2f}]",
                *figures,
            )
    return view


def _lead(compared: dict[str, Any]) -> str | None:
    """The best temperature against the runner-up, in words; None where there was only one."""
    lead = compared["against_runner_up"]
    if lead["runner_up"] is None:
        return None
    verdict = "either will do" if lead["low"] <= 0 else "the lead is more than chance"
    told = (
        f"{lead['temperature']:g} leads {lead['runner_up']:g} by {lead['difference']:.2f} "
        f"[{lead['low']:.2f}, {lead['high']:.2f}], paired by prompt: {verdict}"
    )
    if lead["temperature"] == max(p["temperature"] for p in compared["temperature_curves"]):
        told += (
            f". {lead['temperature']:g} is the warmest of the sweep: read its best samples before "
            "a round uses it, for reward models can like what they have never seen"
        )
    return told
