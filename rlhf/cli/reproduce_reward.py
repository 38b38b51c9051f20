"""`rlhf reproduce reward`: the paper's claims about reward models, on the built-in world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reward.claims import (
    FRACTIONS,
    MARGIN_MODELS,
    WITHOUT_AUXILIARY,
    Pairs,
    judge_claims,
    read_pairs,
)
from rlhf.cli.parsing import parse
from rlhf.cli.quickstart import STAGES as QUICKSTART
from rlhf.cli.quickstart import configs_directory
from rlhf.cli.reproduce_page import RESULTS_FILE, show_claims
from rlhf.cli.reproduce_reward_page import accuracy_records, data_records, write_page
from rlhf.cli.reproducing import SeedsConfig, in_process, run_shared_stages
from rlhf.cli.runs import report_line
from rlhf.cli.side_by_side import run_side_by_side
from rlhf.run import Run, write_json

REWARD = (
    QUICKSTART["reward"].replace("{out}/collect", "{out}/seed-{seed}/collect")
    + " --train.centring_coef 0"
)
"""The quickstart's models, with the seed's own comparisons and the paper's loss alone."""
ONE_DOMAIN = REWARD + " --domains [{domain}]"
MODELS = {
    "reward": REWARD,
    MARGIN_MODELS["none"]: f"{ONE_DOMAIN} --train.margin none",
    MARGIN_MODELS["large"]: f"{ONE_DOMAIN} --train.margin large",
    WITHOUT_AUXILIARY: f"{ONE_DOMAIN} --train.safety_coef 0",
    # A share of one pass is one pass over a random share: the order is random, and the schedule of
    # the learning rate ends where the pass does.
    **{
        name: f"{ONE_DOMAIN} --train.epochs {share}"
        for share, name in FRACTIONS.items()
        if share < 1
    },
}
"""Directory → the command that fills it, for each seed."""


@dataclass(frozen=True, kw_only=True)
class ReproduceRewardCommand(SeedsConfig):
    """Judge what Llama 2 says about reward models, on several seeds of the built-in world.

    The world, the chat model and its variant are made once. Each seed has its own responses,
    annotators, comparisons, and its own seven reward models.
    """

    out: Path = Path("runs/reproduce_reward")
    """Run directory; each stage has its own in it. Started again, finished stages are kept."""


def main(argv: Sequence[str]) -> None:
    """Trains what is not trained yet, judges the claims, writes reproduce.json and report.html."""
    config = parse(ReproduceRewardCommand, argv, prog="rlhf reproduce reward")
    settings = {"out": str(config.out), "seeds": config.seeds, "processes": config.processes}
    run = Run(config.out, "reproduce reward", settings)
    if not run.finished:
        run_shared_stages(config.out, configs_directory())
        run_side_by_side(config.out, seed_stages(config), config.processes)
        pairs = read_models(config)
        claims = judge_claims(pairs)
        results = {
            "seeds": config.seeds,
            "claims": [claim.to_record() for claim in claims],
            "accuracy": accuracy_records(pairs),
            "data": data_records(pairs),
        }
        write_json(run.directory / RESULTS_FILE, results)
        write_page(run.directory / "report.html", results, pairs)
        run.finish(verdicts={claim.source: claim.verdict for claim in claims})
        report_line("reproduce reward", run, seeds=config.seeds)
    show_claims(config.out)


def seed_stages(config: ReproduceRewardCommand) -> dict[str, list[str]]:
    """Directory → the words of its command, of all seeds, in order."""
    places = {"out": config.out, "configs": configs_directory()}

    def words(command: str, seed: int, domain: str = "helpfulness") -> list[str]:
        return in_process([w.format(**places, seed=seed, domain=domain) for w in command.split()])

    stages = {}
    for seed in range(config.seeds):
        stages[f"seed-{seed}/collect"] = words(QUICKSTART["collect"], seed)
        for name, command in MODELS.items():
            domain = "safety" if name == WITHOUT_AUXILIARY else "helpfulness"
            stages[f"seed-{seed}/{name}"] = words(command, seed, domain)
    return stages


def read_models(config: ReproduceRewardCommand) -> Pairs:
    """The scores of every model on the test split of its seed."""

    def read(directory: str, model: str) -> list[pd.DataFrame]:
        paths = (config.out / f"seed-{s}" / directory for s in range(config.seeds))
        return [read_pairs(pd.read_parquet(path / "scores.parquet"), model) for path in paths]

    pairs = {model: read("reward", model) for model in ("helpfulness", "safety")}
    for name in MODELS.keys() - {"reward"}:
        pairs[name] = read(name, "safety" if name == WITHOUT_AUXILIARY else "helpfulness")
    return pairs
