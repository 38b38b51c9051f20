"""`rlhf quickstart`: the whole loop on the built-in world, each stage by its own command."""

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

import rlhf
from data.errors import ConfigError, require_not_negative
from data.schemas import DOMAINS
from policy.evaluation.findings import SUMMARY_FILE
from policy.evaluation.summary import summarize_run
from rlhf.actors.placement import Placement
from rlhf.cli.evaluate_gold import gold_view
from rlhf.cli.evaluate_recall import recall_view
from rlhf.cli.main import run_command
from rlhf.cli.parsing import parse
from rlhf.cli.reward_train import accuracy_views
from rlhf.cli.stages import is_finished, run_stages
from rlhf.peak_memory import peak_memory
from rlhf.run import Run, console, read_json, write_json

COST_FILE = "cost.json"


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """Run the whole loop on the built-in world: from raw text to a better and safer policy."""

    out: Path = Path("runs/quickstart")
    """Run directory; each stage has its own in it. Started again, finished stages are kept."""
    seed: int = 0
    """Another seed is another world, other annotators and other models."""
    workers: int = 2
    """Data-parallel workers of every stage; with one, DeepSpeed is not used."""
    overoptimise: bool = False
    """Add a PPO run without KL penalty, whose proxy score rises while the gold score falls."""

    def __post_init__(self) -> None:
        require_not_negative(self, "seed")
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; it must be 1 or more")

    @property
    def placement(self) -> Placement:
        """Of every stage that has workers."""
        return Placement(workers=self.workers)


STAGES = {
    "world": "data simulate --config {configs}/world.yaml --seed {seed}",
    "tokenizer": "tokenizer train --config {configs}/tokenizer.yaml --input {out}/world/corpus.txt",
    "pretrain": "pretrain --config {configs}/pretrain.yaml --corpus {out}/world/corpus.txt "
    "--tokenizer {out}/tokenizer --train.seed {seed}",
    "sft": "sft --config {configs}/sft.yaml --model {out}/pretrain/model "
    "--data {out}/world/demonstrations --train.seed {seed}",
    "variant": "sft --config {configs}/sft.yaml --model {out}/pretrain/model "
    "--data {out}/world/demonstrations --train.seed {seed} --train.epochs 0.35",
    "collect": "collect --config {configs}/collect.yaml --model {out}/sft/model "
    "--other_model {out}/variant/model --prompts {out}/world/prompts "
    "--annotators_seed {seed} --judge.seed {seed}",
    "reward": "reward train --config {configs}/reward.yaml --model {out}/sft/model "
    "--data {out}/collect/comparisons --train.seed {seed}",
    "rejection_sampling": "rejection-sampling --config {configs}/rejection_sampling.yaml "
    "--model {out}/sft/model --rewards {out}/reward --prompts {out}/world/prompts "
    "--train.seed {seed}",
    "ppo": "ppo --config {configs}/ppo.yaml --model {out}/rejection_sampling/model "
    "--rewards {out}/reward --prompts {out}/world/prompts --train.seed {seed}",
    "ghost_attention": "ghost-attention --config {configs}/ghost_attention.yaml "
    "--model {out}/ppo/model --dialogues {out}/world/dialogues "
    "--instructions {out}/world/instructions.jsonl --prompts {out}/world/prompts "
    "--train.seed {seed}",
    "evaluation": "evaluate gold --config {configs}/evaluation.yaml --policies.sft {out}/sft/model "
    "--policies.rejection_sampling {out}/rejection_sampling/model --policies.ppo {out}/ppo/model "
    "--policies.ghost_attention {out}/ghost_attention/model --ppo_runs.ppo {out}/ppo "
    "--rewards {out}/reward --prompts {out}/world/prompts --seed {seed}",
    "recall": "evaluate recall --config {configs}/recall.yaml --policies.without {out}/ppo/model "
    "--policies.with {out}/ghost_attention/model --dialogues {out}/world/dialogues "
    "--instructions {out}/world/instructions.jsonl --seed {seed}",
    "overoptimise": "ppo --config {configs}/overoptimise.yaml --model {out}/sft/model "
    "--rewards {out}/reward --prompts {out}/world/prompts --train.seed {seed}",
    "overoptimise_evaluation": "evaluate gold --config {configs}/evaluation.yaml "
    "--policies.sft {out}/sft/model --policies.overoptimised {out}/overoptimise/model "
    "--ppo_runs.overoptimise {out}/overoptimise --rewards {out}/reward "
    "--prompts {out}/world/prompts --seed {seed}",
}
"""Run directory → the command that fills it, as a researcher would type it."""
ON_THE_DRIVER = ("world", "tokenizer")
"""Stages without workers."""


def main(argv: Sequence[str]) -> None:
    """Runs the stages that are not finished, then writes summary.json and report.html."""
    config = parse(QuickstartConfig, argv, prog="rlhf quickstart")
    stages = list_stages(config)
    run = Run(config.out, "quickstart", {"out": str(config.out), "seed": config.seed})
    if not run.finished or any(not is_finished(config.out / name) for name in stages):
        _run_stages(config, run, stages)
        kept = [name for name in STAGES if is_finished(config.out / name)]
        facts = {"seed": config.seed, **read_json(config.out / COST_FILE)}
        write_json(config.out / SUMMARY_FILE, summarize_run(config.out, kept, facts))
        run_command(["report", str(config.out)])
        run.finish()
    show_summary(read_json(config.out / SUMMARY_FILE), config.out)


def list_stages(config: QuickstartConfig) -> dict[str, list[str]]:
    """Run directory → the words of its command but for its --out, in order."""
    values = {"out": config.out, "seed": config.seed, "configs": configs_directory()}
    workers = _usable_workers(config.workers)
    stages = {}
    for name, command in STAGES.items():
        if name.startswith("overoptimise") and not config.overoptimise:
            continue
        words = [word.format(**values) for word in command.split()]
        if name not in ON_THE_DRIVER:
            words += ["--placement.workers", str(workers)]
        stages[name] = words
    return stages


def configs_directory() -> Path:
    """configs/tiny: of an installed package, or of the checkout."""
    package = Path(rlhf.__file__).parent
    for configs in (package / "configs", package.parent / "configs"):
        if (configs / "tiny").is_dir():
            return configs / "tiny"
    raise ConfigError("configs/tiny is missing; install the package again")


def show_summary(summary: dict[str, Any], out: Path) -> None:
    """The tables and the expectations, met or not, on the terminal."""
    console.print(gold_view(summary["policies"]))
    accuracy = {m: summary["reward_accuracy"][m] for m in DOMAINS} | summary["baseline_accuracy"]
    for view in accuracy_views(accuracy):
        console.print(view)
    console.print(recall_view(summary["ghost_attention_intervals"]))
    console.print(_cost_view(summary["stages"]))
    for found in summary["expectations"].values():
        mark = "[green]✓[/]" if found["met"] else "[red]✗[/]"
        console.print(f"{mark} {escape(found['sentence'])}", highlight=False)
    console.print(f"open {out / 'report.html'}", highlight=False, soft_wrap=True)


def _run_stages(config: QuickstartConfig, run: Run, stages: dict[str, list[str]]) -> None:
    """Those that are not finished, in one Ray; an interrupted one has cost its time as well."""
    lap = time.monotonic()

    def keep_cost() -> None:
        nonlocal lap
        peak.look()
        lap = _keep_cost(run, lap, peak.bytes)

    with peak_memory() as peak:
        run_stages(config.out, stages, config.placement, keep_cost)


def _cost_view(stages: dict[str, dict[str, float | None]]) -> Table:
    view = Table(title="Stages")
    for column in ("stage", "seconds", "tokens/s"):
        view.add_column(column, justify="left" if column == "stage" else "right")
    for name, cost in stages.items():
        speed = cost["tokens_per_second"]
        view.add_row(name, f"{cost['seconds']:.0f}", f"{speed:,.0f}" if speed else "-")
    return view


def _usable_workers(wanted: int) -> int:
    """One, with a word about it, where several would need a DeepSpeed that is not installed."""
    if wanted > 1 and importlib.util.find_spec("deepspeed") is None:
        console.print("DeepSpeed is not installed: one worker instead of several", highlight=False)
        return 1
    return wanted


def _keep_cost(run: Run, lap: float, peak_bytes: int) -> float:
    """Adds the time since `lap` to what earlier stages and sessions cost; returns the time now."""
    path = run.directory / COST_FILE
    before = read_json(path) if path.exists() else {"seconds": 0.0, "peak_memory_bytes": 0}
    now = time.monotonic()
    cost = {
        "seconds": before["seconds"] + now - lap,
        "peak_memory_bytes": max(before["peak_memory_bytes"], peak_bytes),
    }
    write_json(path, cost)
    return now
