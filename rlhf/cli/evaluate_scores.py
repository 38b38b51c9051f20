"""`rlhf evaluate scores`: policies against the first one, judged by reward models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from data.schemas import DOMAINS
from policy.evaluation.progress import judge_by_rewards
from policy.samples import SAMPLES_FILE, write_samples
from reward.evaluate import ALL
from rlhf.cli.evaluating import EvaluateCommand, answer_all, read_test_prompts, win_rate_cell
from rlhf.cli.parsing import parse
from rlhf.cli.runs import begin, report_line, session
from rlhf.run import console, write_json


@dataclass(frozen=True, kw_only=True)
class EvaluateScoresCommand(EvaluateCommand):
    """Judge policies on held-out prompts, of which nobody knows the truth, by reward models.

    Harmless prompts are judged by the helpfulness model, unsafe ones by the safety model.
    """

    rewards: Path
    """Run directory of `rlhf reward train`, whose models score every response."""
    out: Path = Path("runs/evaluation")
    """The run directory: scores.json, samples.parquet."""


def main(argv: Sequence[str]) -> None:
    """Samples, scores and prints, or finds it done."""
    config = parse(EvaluateScoresCommand, argv, prog="rlhf evaluate scores")
    prompts, chat = read_test_prompts(config, config.rewards)
    run = begin("evaluate scores", config)
    if run is None:
        return
    summaries, records = {}, []
    with session(config.placement):
        for name, found in answer_all(config, prompts, chat, config.rewards):
            summaries[name] = _summary(found.records, found.kl)
            records += found.records
    for name, rates in judge_by_rewards(records).items():
        summaries[name]["win_rates"] = rates
    write_samples(run.directory / SAMPLES_FILE, records)
    write_json(run.directory / "scores.json", summaries)
    console.print(scores_view(summaries))
    run.finish(tokens=sum(record["response_tokens"] for record in records))
    report_line("evaluate scores", run, prompts=len(prompts))


def scores_view(summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per policy."""
    title = "Win rates against the first policy by reward models [95 % interval]"
    view = Table(title=title, box=SIMPLE_HEAD, min_width=len(title))
    view.add_column("policy")
    for column in ("KL, nats", "tokens", ALL, "harmless prompts", "unsafe prompts"):
        view.add_column(column, justify="right")
    for name, summary in summaries.items():
        rates = (summary.get("win_rates", {}).get(of, {}) for of in (ALL, *DOMAINS))
        figures = f"{summary['kl']:.2f}", f"{summary['response_tokens']:.1f}"
        view.add_row(name, *figures, *map(win_rate_cell, rates))
    return view


def _summary(records: Sequence[Mapping[str, Any]], kl: Sequence[float]) -> dict[str, Any]:
    """A policy's means: of each score over the prompts of its domain, of length and of KL."""
    scores = {
        f"{domain}_score": [r[f"{domain}_score"] for r in records if r["domain"] == domain]
        for domain in DOMAINS
    }
    return {
        **{name: sum(values) / len(values) if values else None for name, values in scores.items()},
        "response_tokens": sum(record["response_tokens"] for record in records) / len(records),
        "kl": sum(kl) / len(kl),
        "num_prompts": len(records),
    }
