"""`rlhf evaluate gold`: policies against the built-in world's gold scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from data.chat_format import ChatFormat
from data.dataset import read_rows
from data.errors import ConfigError, DataError, require_not_negative
from data.schemas import DOMAINS, Prompt
from policy.evaluation.gold import (
    Judged,
    check_gold_facts,
    gold_records,
    judge_rollouts,
    judge_steps,
    summarize,
)
from policy.prompts import PromptSet, chat_format_of, check_room, check_same_tokenizer
from policy.samples import SAMPLES_FILE, read_samples, sample_records, write_samples
from reward.score import RewardModels, model_directory, reward_models
from rlhf.actors.group import WorkerGroup, start_workers
from rlhf.actors.placement import Placement
from rlhf.actors.workers import GenerateWorker, generate_with, logprobs_with
from rlhf.cli.parsing import parse
from rlhf.cli.runs import begin, report_line, session
from rlhf.generation.sampling import SamplingConfig
from rlhf.metrics import read_metrics
from rlhf.run import console, write_json


@dataclass(frozen=True, kw_only=True)
class EvaluateGoldCommand:
    """Judge policies on held-out prompts of the built-in world by its gold scores."""

    policies: dict[str, Path]
    """Name → model directory. The first is the baseline of win rates and of the KL."""
    rewards: Path
    """Run directory of `rlhf reward train`, for the proxy scores beside the gold ones."""
    prompts: Path
    """Dataset of prompts with gold facts; the test split is used."""
    ppo_runs: dict[str, Path] = field(default_factory=dict)
    """Name → run directory of `rlhf ppo` whose samples are judged step by step."""
    out: Path = Path("runs/evaluation")
    """The run directory: gold.json, samples.parquet, NAME_steps.parquet."""
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


def main(argv: Sequence[str]) -> None:
    """Samples, judges and prints, or finds it done."""
    config = parse(EvaluateGoldCommand, argv, prog="rlhf evaluate gold")
    baseline = next(iter(config.policies.values()))
    chat = chat_format_of(baseline)
    prompts = PromptSet.encode(read_rows(config.prompts, Prompt, "test"), chat)
    check_gold_facts(prompts.rows)
    for model in config.policies.values():
        check_same_tokenizer(baseline, model)
        check_room(prompts, model)
    for domain in DOMAINS:
        check_same_tokenizer(baseline, model_directory(config.rewards, domain))
    steps = _judge_ppo_runs(config)
    run = begin("evaluate gold", config)
    if run is None:
        return
    with (
        session(config.placement),
        start_workers(GenerateWorker, config.placement, baseline, name="baseline") as reference,
        reward_models(config.rewards, config.placement) as rewards,
    ):
        judged, records = {}, []
        for name in config.policies:
            with console.status(f"judging {name}"):
                judged[name], more = _judge(config, name, prompts, chat, reference, rewards)
                records += more
    first = judged[next(iter(config.policies))]
    summaries = {n: summarize(j, None if j is first else first) for n, j in judged.items()}
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
    row("win rate", _rate)
    row("win rate, harmless prompts", lambda s: _rate(s.get("safe_prompts", {})))
    return view


def _shown(mean: float | None, form: str = ".1%") -> str:
    return "-" if mean is None else format(mean, form)


def _counts(summary: Mapping[str, Any]) -> str:
    if "win" not in summary:
        return "-"
    return f"{summary['win']} / {summary['tie']} / {summary['loss']}"


def _rate(summary: Mapping[str, Any]) -> str:
    if summary.get("win_rate") is None:
        return "-"
    low, high = summary["win_rate_low"], summary["win_rate_high"]
    return f"{summary['win_rate']:.1%} [{low:.1%}, {high:.1%}]"


def _judge(
    config: EvaluateGoldCommand,
    name: str,
    prompts: PromptSet,
    chat: ChatFormat,
    reference: WorkerGroup[GenerateWorker],
    rewards: RewardModels,
) -> tuple[Judged, list[dict[str, Any]]]:
    """A policy's judged responses, and the rows about them for samples.parquet."""
    model = config.policies[name]
    with start_workers(GenerateWorker, config.placement, model, name=name) as policy:
        rollouts = generate_with(
            policy, prompts.ids, config.sampling, eos_id=chat.tokenizer.eos_id, seed=config.seed
        )
    scores = rewards.score(prompts.rows, rollouts)
    ref_logprobs = logprobs_with(reference, rollouts, config.sampling.temperature)
    kl = [
        sum(rollout.response_logprobs) - ref_logprob
        for rollout, ref_logprob in zip(rollouts, ref_logprobs, strict=True)
    ]
    judged = judge_rollouts(prompts, rollouts, chat, kl)
    records = sample_records(prompts, rollouts, chat, scores, policy=name)
    return judged, [r | g for r, g in zip(records, gold_records(judged), strict=True)]


def _judge_ppo_runs(config: EvaluateGoldCommand) -> dict[str, list[dict[str, Any]]]:
    """What became of each PPO run, step by step; it takes no model, so it comes first."""
    prompts = {row.prompt_id: row for row in read_rows(config.prompts, Prompt, "train")}
    steps = {}
    for name, directory in config.ppo_runs.items():
        samples = read_samples(directory / SAMPLES_FILE)
        kl = {m["step"]: m["objective/kl"] for m in read_metrics(directory) if "objective/kl" in m}
        try:
            steps[name] = judge_steps(samples, prompts, kl)
        except DataError as error:
            raise DataError(f"ppo_runs.{name}, {str(directory)!r}: {error}") from error
    return steps
