"""`rlhf reproduce policy`: the paper's claims about optimising a policy, on the built-in world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.dataset import Batch, publish_many, read_rows
from data.manifest import MANIFEST
from data.schemas import DOMAINS, Prompt
from policy.claims import (
    ALL_ROUNDS,
    BOTH_MODELS,
    LAST_ROUND,
    MISSING_KINDS,
    NO_PENALTY,
    ONE_MODEL,
    PENALTY,
    PPO,
    RS,
    SFT,
    Answers,
    judge_claims,
)
from policy.evaluation.gold import judge_samples
from policy.ppo_metrics import kl_by_step
from policy.samples import SAMPLES_FILE
from rlhf.cli.parsing import parse
from rlhf.cli.quickstart import STAGES as QUICKSTART
from rlhf.cli.quickstart import configs_directory
from rlhf.cli.reproduce_page import RESULTS_FILE, show_claims
from rlhf.cli.reproduce_policy_page import curves_of, write_page
from rlhf.cli.reproducing import SeedsConfig, in_process, run_shared_stages
from rlhf.cli.runs import report_line
from rlhf.cli.side_by_side import run_side_by_side
from rlhf.run import Run, write_json

OF_SEED = ("collect", "reward", RS, PPO)
"""Stages of the quickstart that every seed has of its own."""
NARROW, HELD_OUT = "narrow_prompts", "held_out_prompts"
"""Prompts without the kinds that the second round lacks; those of the test split, given as a
training split because that is what a sweep samples."""
HELPFULNESS_ALONE = "helpfulness_alone"
"""Rewards in which the helpfulness model stands in for the safety model, too."""
LATER = 1000
"""Added to the seed for the second round, so that it draws prompts and samples of its own."""

ROUND_2 = (
    "rejection-sampling --config {configs}/rejection_sampling.yaml --rewards {own}/reward "
    "--model {own}/rejection_sampling/model --prompts {out}/narrow_prompts --train.seed {later} "
    "--train.num_prompts 600"
)
FROM_SFT = "--model {out}/sft/model --prompts {out}/world/prompts --train.seed {seed}"
LONG = f"ppo --config {{configs}}/ppo_from_sft.yaml {FROM_SFT} --rewards {{own}}/reward"
SHORT = f"ppo --config {{configs}}/ppo_short.yaml {FROM_SFT}"
SWEEP = (
    "temperature-sweep --config {configs}/sweep.yaml --rewards {own}/reward "
    "--prompts {out}/held_out_prompts --seed {seed}"
)
JUDGED = (RS, PPO, LAST_ROUND, ALL_ROUNDS, BOTH_MODELS, ONE_MODEL)
"""Policies that answer the held-out prompts, beside the fine-tuned model."""
STAGES = {
    LAST_ROUND: ROUND_2,
    ALL_ROUNDS: f"{ROUND_2} --pool {{own}}/pool",
    NO_PENALTY: f"{LONG} --train.kl_coef 0",
    PENALTY: f"{LONG} --train.kl_coef 0.01",
    BOTH_MODELS: f"{SHORT} --rewards {{own}}/reward",
    ONE_MODEL: f"{SHORT} --rewards {{own}}/reward/{HELPFULNESS_ALONE}",
    "evaluation": "evaluate gold --config {configs}/evaluation.yaml "
    f"--prompts {{out}}/world/prompts --seed {{seed}} --policies.{SFT} {{out}}/sft/model "
    + " ".join(f"--policies.{name} {{own}}/{name}/model" for name in JUDGED),
    "best_of_n": SWEEP.replace("sweep.yaml", "best_of_n.yaml") + " --model {out}/sft/model",
    f"sweep_{SFT}": f"{SWEEP} --model {{out}}/sft/model",
    f"sweep_{PPO}": f"{SWEEP} --model {{own}}/ppo/model",
}
"""Directory → the command that fills it, for each seed, after those of the quickstart."""


@dataclass(frozen=True, kw_only=True)
class ReproducePolicyCommand(SeedsConfig):
    """Judge what Llama 2 says about PPO and rejection sampling, on seeds of the built-in world.

    The world, the chat model and its variant are made once. Each seed has its own comparisons,
    reward models and policies.
    """

    out: Path = Path("runs/reproduce_policy")
    """Run directory; each stage has its own in it. Started again, finished stages are kept."""


def main(argv: Sequence[str]) -> None:
    """Trains what is not trained yet, judges the claims, writes reproduce.json and report.html."""
    config = parse(ReproducePolicyCommand, argv, prog="rlhf reproduce policy")
    settings = {"out": str(config.out), "seeds": config.seeds, "processes": config.processes}
    run = Run(config.out, "reproduce policy", settings)
    if not run.finished:
        run_shared_stages(config.out, configs_directory())
        publish_prompts(config.out)
        for seed in range(config.seeds):
            leave_helpfulness_alone(config.out / f"seed-{seed}" / "reward")
        run_side_by_side(config.out, seed_stages(config), config.processes)
        seeds = read_answers(config)
        claims = judge_claims(seeds)
        results = {
            "seeds": config.seeds,
            "claims": [claim.to_record() for claim in claims],
            **curves_of(seeds),
        }
        write_json(run.directory / RESULTS_FILE, results)
        write_page(run.directory / "report.html", results)
        run.finish(verdicts={claim.sentence: claim.verdict for claim in claims})
        report_line("reproduce policy", run, seeds=config.seeds)
    show_claims(config.out)


def seed_stages(config: ReproducePolicyCommand) -> dict[str, list[str]]:
    """Directory → the words of its command, of all seeds, in order."""
    commands = {name: _of_seed(QUICKSTART[name]) for name in OF_SEED} | STAGES
    commands[RS] += " --pool {own}/pool"
    stages = {}
    for seed in range(config.seeds):
        places = {"out": config.out, "own": config.out / f"seed-{seed}"}
        values = places | {"configs": configs_directory(), "seed": seed, "later": seed + LATER}
        for name, command in commands.items():
            words = [word.format(**values) for word in command.split()]
            stages[f"seed-{seed}/{name}"] = in_process(words)
    return stages


def publish_prompts(out: Path) -> None:
    """Writes the two datasets that are parts of the world's prompts, unless they are there."""
    prompts = out / "world" / "prompts"
    parts = {
        NARROW: [r for r in read_rows(prompts, Prompt, "train") if r.kind not in MISSING_KINDS],
        HELD_OUT: read_rows(prompts, Prompt, "test"),
    }
    for name, rows in parts.items():
        if not (out / name / MANIFEST).exists():
            publish_many(out / name, [Batch(split="train", key=name, rows=rows)], Prompt)


def leave_helpfulness_alone(rewards: Path) -> None:
    """Links that make the helpfulness model of a seed both of its reward models.

    R_c is then the helpfulness score, whatever the rule chooses. They stand in the directory of the
    reward stage, so that what reads them waits for it; no run counts links for its results.
    """
    alone = rewards / HELPFULNESS_ALONE
    alone.mkdir(parents=True, exist_ok=True)
    for domain in DOMAINS:
        if not (alone / domain).is_symlink():
            (alone / domain).symlink_to(Path("..") / "helpfulness")


def read_answers(config: ReproducePolicyCommand) -> list[Answers]:
    """What the policies of every seed said, with gold scores."""
    rows = (
        row
        for split in ("train", "test")
        for row in read_rows(config.out / "world" / "prompts", Prompt, split)
    )
    prompts = {row.prompt_id: row for row in rows}

    def read(directory: Path) -> pd.DataFrame:
        return judge_samples(pd.read_parquet(directory / SAMPLES_FILE), prompts)

    seeds = []
    for own in (config.out / f"seed-{seed}" for seed in range(config.seeds)):
        held_out = read(own / "evaluation")
        seeds.append(
            Answers(
                best_of=read(own / "best_of_n"),
                sweeps={name: read(own / f"sweep_{name}") for name in (SFT, PPO)},
                held_out={str(name): part for name, part in held_out.groupby("policy", sort=False)},
                runs={
                    name: with_kl(read(own / name), own / name) for name in (NO_PENALTY, PENALTY)
                },
            )
        )
    return seeds


def with_kl(samples: pd.DataFrame, run: Path) -> pd.DataFrame:
    """A PPO run's samples with `kl`, nats per response in their step."""
    return samples.assign(kl=samples["step"].map(kl_by_step(run)))


def _of_seed(command: str) -> str:
    """A command of the quickstart on what belongs to a seed."""
    for name in OF_SEED:
        command = command.replace(f"{{out}}/{name}", f"{{own}}/{name}")
    return command
