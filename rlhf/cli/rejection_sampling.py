"""`rlhf rejection-sampling`: sample K, keep the best, fine-tune on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.chat_format import ChatFormat
from data.dataset import publish, read_rows
from data.manifest import MANIFEST
from data.schemas import DOMAINS, Demonstration, Prompt
from policy.prompts import PromptSet, chat_format_of, check_room, check_same_tokenizer
from policy.rejection_sampling import (
    RejectionSamplingConfig,
    best_of_n_curve,
    best_per_prompt,
    demonstrations_from,
    those_that_fit,
)
from policy.samples import SAMPLES_FILE, read_samples, sample_records, write_samples
from policy.sft import fine_tune
from reward.score import model_directory, reward_models
from rlhf.actors.group import start_workers
from rlhf.actors.placement import Placement
from rlhf.actors.workers import GenerateWorker, generate_with
from rlhf.cli.parsing import parse
from rlhf.cli.runs import Restarts, begin, report_line, session
from rlhf.engine.base import EngineConfig
from rlhf.run import Run, console, write_json
from rlhf.types import Rollout


@dataclass(frozen=True, kw_only=True)
class RejectionSamplingCommand:
    """Sample K responses per prompt, keep the one that the reward models like best, learn it."""

    model: Path
    """Directory of the policy to start from."""
    rewards: Path
    """Run directory of `rlhf reward train`, with both models."""
    prompts: Path
    """Dataset of prompts; the training split is used."""
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


def main(argv: Sequence[str]) -> None:
    """Samples, scores and fine-tunes, continues an interrupted run, or finds it finished."""
    config = parse(RejectionSamplingCommand, argv, prog="rlhf rejection-sampling")
    chat = chat_format_of(config.model)
    for domain in DOMAINS:
        check_same_tokenizer(config.model, model_directory(config.rewards, domain))
    prompts = PromptSet.encode(read_rows(config.prompts, Prompt, "train"), chat)
    prompts = prompts.batch(0, min(config.train.num_prompts, len(prompts)), seed=config.train.seed)
    check_room(prompts, config.model)
    restarts = Restarts(config.max_restarts)
    run = begin("rejection-sampling", config)
    if run is None:
        return
    best = run.directory / "best"

    def work() -> tuple[int, dict[str, float]]:
        if not (best / MANIFEST).is_file():
            _sample_best(config, prompts, chat, run, best)
        demonstrations = those_that_fit(
            read_rows(best, Demonstration, "train"), chat, config.train.fine_tune.row_length
        )
        figures = fine_tune(
            demonstrations,
            (),
            config.train.fine_tune,
            run,
            model=config.model,
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


def _sample_best(
    config: RejectionSamplingCommand, prompts: PromptSet, chat: ChatFormat, run: Run, best: Path
) -> None:
    """Writes all samples with their scores, the best-of-N curve, and last the best samples."""
    num_samples = config.train.samples_per_prompt
    rollouts = _generate(config, prompts, chat)
    with console.status("scoring"), reward_models(config.rewards, config.placement) as rewards:
        tags = [tag for tag in prompts.is_safety for _ in range(num_samples)]
        scores = rewards.score([r.ids for r in rollouts], tags)
    table = scores.combined.double().numpy().reshape(-1, num_samples)
    records = sample_records(
        prompts, rollouts, chat, scores, temperature=config.train.sampling.temperature
    )
    write_samples(run.directory / SAMPLES_FILE, records)
    write_json(run.directory / "best_of_n.json", {"curve": best_of_n_curve(table)})
    demonstrations = demonstrations_from(prompts, rollouts, best_per_prompt(table), chat)
    publish(best, demonstrations, Demonstration, split="train", key="best")


def _generate(
    config: RejectionSamplingCommand, prompts: PromptSet, chat: ChatFormat
) -> list[Rollout]:
    """K per prompt, side by side."""
    num_samples = config.train.samples_per_prompt
    with (
        console.status(f"sampling {num_samples} × {len(prompts)} responses"),
        start_workers(GenerateWorker, config.placement, config.model, name="generator") as workers,
    ):
        return generate_with(
            workers,
            [prompt for prompt in prompts.ids for _ in range(num_samples)],
            config.train.sampling,
            eos_id=chat.tokenizer.eos_id,
            seed=config.train.seed,
        )
