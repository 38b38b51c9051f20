"""`rlhf evaluate gold`: policies against the built-in world's gold scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from data.dataset import read_rows
from data.errors import DataError
from data.schemas import Prompt
from policy.evaluation.gold import (
    check_gold_facts,
    gold_records,
    judge_rollouts,
    judge_steps,
    summarize_all,
)
from policy.ppo_metrics import kl_by_step
from policy.samples import SAMPLES_FILE, read_samples, write_samples
from rlhf.cli.evaluating import EvaluateCommand, answer_all, read_test_prompts, win_rate_cell
from rlhf.cli.parsing import parse
from rlhf.cli.runs import begin, report_line, session
from rlhf.run import console, write_json


@dataclass(frozen=True, kw_only=True)
class EvaluateGoldCommand(EvaluateCommand):
    """Judge policies on held-out prompts of the built-in world by its gold scores."""

    rewards: Path | None = None
    """Run directory of `rlhf reward train`, whose models' scores are added to the samples. Without
    it there are none; no figure here needs them."""
    ppo_runs: dict[str, Path] = field(default_factory=dict)
    """Name → run directory of `rlhf ppo` whose samples are judged step by step."""
    out: Path = Path("runs/evaluation")
    """The run directory: gold.json, samples.parquet, NAME_steps.parquet."""


def main(argv: Sequence[str]) -> None:
    """Samples, judges and prints, or finds it done."""
    config = parse(EvaluateGoldCommand, argv, prog="rlhf evaluate gold")
    prompts, chat = read_test_prompts(config, config.rewards)
    check_gold_facts(prompts.rows)
    steps = _judge_ppo_runs(config)
    run = begin("evaluate gold", config)
    if run is None:
        return
    judged, records = {}, []
    with session(config.placement):
        for name, found in answer_all(config, prompts, chat, config.rewards):
            judged[name] = judge_rollouts(prompts, found.rollouts, chat, found.kl)
            golds = gold_records(judged[name])
            records += [r | gold for r, gold in zip(found.records, golds, strict=True)]
    summaries = summarize_all(judged)
    write_samples(run.directory / SAMPLES_FILE, records)
    for name, rows in steps.items():
        write_samples(run.directory / f"{name}_steps.parquet", rows)
    write_json(run.directory / "gold.json", summaries)
    console.print(gold_view(summaries))
    run.finish(tokens=sum(sum(j.response_tokens) for j in judged.values()))
    report_line("evaluate gold", run, prompts=len(prompts))


def gold_view(summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """The figures of every policy side by side."""
    view = Table(title="Policies against gold on held-out prompts (win rates: 95 % interval)")
    for column in ("", *summaries):
        view.add_column(column, justify="right" if column else "left")

    def row(title: str, show: Any) -> None:
        view.add_row(title, *(show(s) for s in summaries.values()))

    row("gold helpfulness", lambda s: _shown(s["gold_helpfulness"], ".3f"))
    row("correct answers", lambda s: _shown(s["correct"]))
    row("violation rate", lambda s: _shown(s["violation_rate"]))
    kinds = list(next(iter(summaries.values()))["unnecessary_refusal_rate"]["by_kind"])
    row("unnecessary refusals", lambda s: _shown(s["unnecessary_refusal_rate"]["all"]))
    for kind in (k for k in kinds if k.startswith("lookalike")):
        row(
            f"  {kind.replace('_', ': ')}",
            lambda s, k=kind: f"{s['unnecessary_refusal_rate']['by_kind'][k]:.1%}",
        )
    row("response tokens", lambda s: f"{s['response_tokens']:.1f}")
    row("KL, nats per response", lambda s: f"{s['kl']:.2f}")
    row("win / tie / loss", _counts)
    row("win rate", win_rate_cell)
    row("win rate, harmless prompts", lambda s: win_rate_cell(s.get("safe_prompts", {})))
    row("win rate against the one before", lambda s: win_rate_cell(s.get("previous", {})))
    return view


def _shown(mean: float | None, form: str = ".1%") -> str:
    return "-" if mean is None else format(mean, form)


def _counts(summary: Mapping[str, Any]) -> str:
    if "win" not in summary:
        return "-"
    return f"{summary['win']} / {summary['tie']} / {summary['loss']}"


def _judge_ppo_runs(config: EvaluateGoldCommand) -> dict[str, list[dict[str, Any]]]:
    """What became of each PPO run, step by step; it takes no model, so it comes first."""
    prompts = {row.prompt_id: row for row in read_rows(config.prompts, Prompt, "train")}
    steps = {}
    for name, directory in config.ppo_runs.items():
        samples = read_samples(directory / SAMPLES_FILE)
        try:
            steps[name] = judge_steps(samples, prompts, kl_by_step(directory))
        except DataError as error:
            raise DataError(f"ppo_runs.{name}, {str(directory)!r}: {error}") from error
    return steps
