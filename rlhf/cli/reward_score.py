"""`rlhf reward score`: dialogues in, both scores and the combined one out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.errors import ConfigError, DataError, require_positive
from data.records import write_records
from data.schemas import DOMAINS, Domain
from policy.prompts import chat_format_of, context_of
from reward.combine import SAFETY_THRESHOLD, combine_scores, normalise
from reward.dialogues import Dialogue, read_dialogues
from reward.score import ScoreWorker, both_models, score_with
from reward.train import encode_scored
from rlhf.actors.group import start_workers
from rlhf.actors.placement import Placement
from rlhf.cli.parsing import parse
from rlhf.cli.runs import begin, report_line, session
from rlhf.model.weights import load_scalar_model, read_hf_config


@dataclass(frozen=True, kw_only=True)
class RewardScoreCommand:
    """Score the responses of dialogues with one or both reward models."""

    dialogues: Path
    """A dataset of ours, or a Parquet, JSON or JSON-lines file with messages, prompt and response,
    or prompt, chosen and rejected."""
    rewards: Path | None = None
    """Run directory of `rlhf reward train`, for both of its models."""
    helpfulness: Path | None = None
    """Directory of a helpfulness model: any Llama sequence classifier with one label."""
    safety: Path | None = None
    """Directory of a safety model."""
    threshold: float = SAFETY_THRESHOLD
    """σ(safety score) below which the combined score is the safety score (section 3.2.3)."""
    normalised: bool = False
    """Adds (score − mean) / std by the statistics stored in each model's config.json."""
    max_length: int = 4096
    """Longest dialogue in tokens, or the model's context if shorter; the end is kept."""
    out: Path = Path("runs/scores")
    """The run directory: scores.parquet."""
    placement: Placement = Placement()
    """Where the scorers run; each model has its own workers."""

    def __post_init__(self) -> None:
        require_positive(self, "max_length")
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold is {self.threshold}; it must be above 0 and below 1")
        if (self.rewards is None) == (self.helpfulness is None and self.safety is None):
            raise ConfigError(
                "give --rewards RUN, or --helpfulness MODEL and --safety MODEL, or one of the two"
            )

    @property
    def models(self) -> dict[Domain, Path]:
        """The models to score with."""
        if self.rewards is not None:
            return both_models(self.rewards)
        named = {domain: getattr(self, domain) for domain in DOMAINS}
        return {domain: path for domain, path in named.items() if path is not None}


def main(argv: Sequence[str]) -> None:
    """Scores every response, or finds it done."""
    config = parse(RewardScoreCommand, argv, prog="rlhf reward score")
    dialogues = read_dialogues(config.dialogues)
    for model in config.models.values():
        chat_format_of(model)
        load_scalar_model(model)  # what cannot be used is told before anything is scored
        if config.normalised:
            _statistics(model)
    run = begin("reward score", config)
    if run is None:
        return
    with session(config.placement):
        scores = {d: _score(config, d, m, dialogues) for d, m in config.models.items()}
    columns = {f"{domain}_score": values for domain, values in scores.items()}
    if len(scores) == len(DOMAINS):
        tags = torch.tensor([d.is_safety_prompt for d in dialogues])
        columns["combined_score"] = combine_scores(
            scores["safety"], scores["helpfulness"], tags, config.threshold
        )
    if config.normalised:
        for domain, model in config.models.items():
            columns[f"{domain}_normalised"] = normalise(scores[domain], *_statistics(model))
    records = [
        {"dialogue_id": d.dialogue_id, "is_safety_prompt": d.is_safety_prompt}
        | {name: float(values[row]) for name, values in columns.items()}
        for row, d in enumerate(dialogues)
    ]
    write_records(run.directory / "scores.parquet", records)
    means = {name: float(values.mean()) for name, values in columns.items()}
    run.finish(dialogues=len(dialogues), **means)
    report_line("reward score", run, dialogues=len(dialogues), **means)


def _score(
    config: RewardScoreCommand, domain: Domain, model: Path, dialogues: Sequence[Dialogue]
) -> Tensor:
    chat, most = chat_format_of(model), min(config.max_length, context_of(model))
    sequences = [encode_scored(chat, d.prompt, d.response, most) for d in dialogues]
    with start_workers(ScoreWorker, config.placement, model, name=f"{domain} scorer") as workers:
        return torch.tensor(score_with(workers, sequences))


def _statistics(model: Path) -> tuple[float, float]:
    """Mean and standard deviation on the model's reference set."""
    stored = read_hf_config(model)
    if "score_mean" not in stored or not stored.get("score_std"):
        raise DataError(
            f"{str(model / 'config.json')!r} has no score_mean and score_std; leave --normalised "
            "out, or train the model with a test split"
        )
    return float(stored["score_mean"]), float(stored["score_std"])
