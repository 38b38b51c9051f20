"""`rlhf reward evaluate`: what reward models prefer, how sure they are, and what they fall for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.dataset import latest_revisions, read_rows, read_table
from data.errors import ConfigError, DataError, require_not_negative, require_positive
from data.mixing import sample_without_replacement
from data.records import write_records
from data.schemas import DOMAINS, Comparison, Judgement, Rating, Split, from_table
from policy.prompts import chat_format_of, context_of
from reward.baselines import BagOfWords, length_scores
from reward.breakdown import FACTORS, accuracy_by, agreement, dataset_table, pair_frame
from reward.calibration import (
    expected_calibration_error,
    rank_correlation,
    reliability,
    scores_by_rating,
)
from reward.combine import SAFETY_THRESHOLD
from reward.evaluate import PairScores, score_comparisons, write_scores
from reward.probes import PROBES, changed, length_bias, position_effect, probe
from reward.score import ScoreWorker, score_with
from reward.threshold import detections, unsafe_found
from reward.train import encode_scored
from rlhf.actors.group import WorkerGroup, start_workers
from rlhf.actors.placement import Placement
from rlhf.cli.parsing import parse
from rlhf.cli.reward_views import terminal_views, write_report
from rlhf.cli.runs import begin, report_line, session
from rlhf.model.weights import load_scalar_model, read_hf_config
from rlhf.run import console, write_json

LONGER, WORDS = "the longer wins", "bag of words"
BY_LABEL = ("model", "safety_label")
MIN_TRAIN_ROWS = 10
"""A bag of words of fewer comparisons is none."""


@dataclass(frozen=True, kw_only=True)
class RewardEvaluateCommand:
    """Compare reward models with people's choices, with each other and with what costs nothing."""

    models: dict[str, Path]
    """Name → directory of a reward model, ours or any Llama sequence classifier."""
    data: dict[str, Path]
    """Name → dataset of comparisons; a training split feeds the bag of words."""
    split: Split = "test"
    """Which split is judged."""
    ratings: Path | None = None
    """Dataset of ratings, to set scores beside (Figure 29)."""
    judgements: dict[str, Path] = field(default_factory=dict)
    """Name → dataset of responses that people judged safe or unsafe, to find the latter in."""
    probes: int = 300
    """Comparisons whose responses are changed to probe for biases; 0 leaves that out."""
    max_length: int = 4096
    """Longest dialogue in tokens, or the model's context if shorter; the end is kept."""
    seed: int = 0
    """Draws the comparisons of the probes."""
    out: Path = Path("runs/reward_evaluation")
    """The run directory: evaluation.json, accuracy.parquet, scores.parquet, report.html."""
    placement: Placement = Placement()
    """Where the scorers run."""

    def __post_init__(self) -> None:
        require_not_negative(self, "probes", "seed")
        require_positive(self, "max_length")
        for name in ("models", "data"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; name one at least, as in '{{own: PATH}}'")
        taken = {LONGER, WORDS} & set(self.models)
        if taken:
            raise ConfigError(f"models has {taken.pop()!r}, a baseline's name; choose another")


@dataclass(frozen=True)
class Judged:
    """What one model says; the comparisons of the probes are a sample."""

    scores: PairScores
    probes: dict[str, Any]
    ratings: list[float]
    judgements: dict[str, list[float]]


@dataclass(frozen=True)
class Asked:
    """What the models judge."""

    comparisons: Sequence[Comparison]
    datasets: Sequence[str]
    """Name of the dataset of each comparison."""
    ratings: Sequence[Rating]
    judgements: Mapping[str, Sequence[Judgement]]


def main(argv: Sequence[str]) -> None:
    """Scores, counts, prints and writes, or finds it done."""
    config = parse(RewardEvaluateCommand, argv, prog="rlhf reward evaluate")
    asked = _asked(config)
    for model in config.models.values():
        chat_format_of(model)
        load_scalar_model(model)  # what cannot be used is told before anything is scored
    run = begin("reward evaluate", config)
    if run is None:
        return
    with session(config.placement):
        judged = {name: _judge(config, name, path, asked) for name, path in config.models.items()}
    scores = {name: j.scores for name, j in judged.items()}
    frames = {n: pair_frame(n, s, asked.comparisons, asked.datasets) for n, s in scores.items()}
    with_baselines = [*frames.values(), *_baseline_frames(config, asked)]
    frame = pd.concat(with_baselines, ignore_index=True)
    results = _results(config, judged, frames, frame, asked)
    write_scores(run.directory / "scores.parquet", asked.comparisons, scores)
    cells = accuracy_by(frame, "model", "dataset", *FACTORS)
    write_records(run.directory / "accuracy.parquet", cells.to_dict("records"))
    write_json(run.directory / "evaluation.json", results)
    write_report(run.directory / "report.html", results, frame)
    for view in terminal_views(results):
        console.print(view, highlight=False)
    run.finish(comparisons=len(asked.comparisons))
    report_line("reward evaluate", run, comparisons=len(asked.comparisons))


def _asked(config: RewardEvaluateCommand) -> Asked:
    named = [(name, c) for name, path in config.data.items() for c in _read(path, config.split)]
    if not named:
        raise DataError(f"no dataset of --data has a {config.split} split; name another --split")
    return Asked(
        comparisons=[comparison for _, comparison in named],
        datasets=[name for name, _ in named],
        ratings=[] if config.ratings is None else read_rows(config.ratings, Rating),
        judgements={
            name: read_rows(path, Judgement, config.split)
            for name, path in config.judgements.items()
        },
    )


def _read(path: Path, split: Split) -> list[Comparison]:
    return from_table(latest_revisions(read_table(path, Comparison, split=split)), Comparison)


def _judge(config: RewardEvaluateCommand, name: str, model: Path, asked: Asked) -> Judged:
    chat = chat_format_of(model)
    most = min(config.max_length, context_of(model))

    def scored(workers: WorkerGroup[ScoreWorker], rows: Sequence[Comparison]) -> PairScores:
        return score_comparisons(workers, rows, chat, most)

    def singles(
        workers: WorkerGroup[ScoreWorker], rows: Sequence[Rating | Judgement]
    ) -> list[float]:
        sequences = [encode_scored(chat, r.prompt, r.response, most) for r in rows]
        return score_with(workers, sequences)

    sample = sample_without_replacement(asked.comparisons, config.probes, seed=config.seed)
    with start_workers(ScoreWorker, config.placement, model, name=f"{name} scorer") as workers:
        return Judged(
            scored(workers, asked.comparisons),
            _probe(partial(scored, workers), sample) if sample else {},
            singles(workers, asked.ratings),
            {title: singles(workers, rows) for title, rows in asked.judgements.items()},
        )


def _probe(
    scored: Callable[[Sequence[Comparison]], PairScores], sample: Sequence[Comparison]
) -> dict[str, Any]:
    before, probes = scored(sample), {}
    for title, change in PROBES.items():
        rows = [
            replace(c, chosen=changed(c.chosen, change), rejected=changed(c.rejected, change))
            for c in sample
        ]
        found = probe(title, before, scored(rows))
        probes[title] = asdict(found) | {"sentence": found.sentence}
    backwards = scored(sample[::-1]).chosen[::-1]
    probes["position"] = {"largest_change": position_effect(before.chosen, backwards)}
    return probes


def _baseline_frames(config: RewardEvaluateCommand, asked: Asked) -> list[pd.DataFrame]:
    """What costs nothing, on the same comparisons; no bag of words without a training split."""
    test, datasets = asked.comparisons, asked.datasets
    frames = [pair_frame(LONGER, PairScores(*length_scores(test)), test, datasets)]
    train = [c for path in config.data.values() for c in _read(path, "train")]
    for domain in DOMAINS:
        own = [c for c in train if c.domain == domain]
        here = [i for i, c in enumerate(test) if c.domain == domain]
        if len(own) >= MIN_TRAIN_ROWS and here:
            rows = [test[i] for i in here]
            scores = PairScores(*BagOfWords(own).scores(rows))
            frames.append(pair_frame(WORDS, scores, rows, [datasets[i] for i in here]))
    return frames


def _results(
    config: RewardEvaluateCommand,
    judged: Mapping[str, Judged],
    frames: Mapping[str, pd.DataFrame],
    frame: pd.DataFrame,
    asked: Asked,
) -> dict[str, Any]:
    """Everything but the scores themselves, as JSON."""
    ours = pd.concat(frames.values(), ignore_index=True)
    return {
        "by_dataset": _records(dataset_table(frame)),
        "overall": _records(accuracy_by(frame, "model", "domain")),
        "by": {
            factor: _records(accuracy_by(frame, "model", "domain", factor))
            for factor in FACTORS[1:]
        },
        "by_label": _records(accuracy_by(ours[ours["safety_label"].notna()], *BY_LABEL)),
        "agreement": _records(agreement(ours)),
        "models": {
            name: _of_model(config.models[name], j, frames[name], asked)
            for name, j in judged.items()
        },
    }


def _of_model(model: Path, judged: Judged, frame: pd.DataFrame, asked: Asked) -> dict[str, Any]:
    stored, scores = read_hf_config(model), judged.scores
    both = np.concatenate([scores.chosen, scores.rejected])
    curve, bias = reliability(scores), length_bias(frame)
    stars = [r.score for r in asked.ratings]
    return {
        "scores": {"mean": float(both.mean()), "std": float(both.std())},
        "reference": {name: stored.get(f"score_{name}") for name in ("mean", "std", "reference")},
        "calibration": {"ece": expected_calibration_error(curve), "curve": _records(curve)},
        "ratings": {
            "correlation": rank_correlation(judged.ratings, stars),
            "means": _records(scores_by_rating(np.array(judged.ratings), stars)),
        },
        "threshold": SAFETY_THRESHOLD,
        "unsafe": [asdict(d) for d in unsafe_found(scores, asked.comparisons)],
        "judgements": {
            name: [asdict(d) for d in detections(values, [j.safe for j in asked.judgements[name]])]
            for name, values in judged.judgements.items()
        },
        "length": asdict(bias) | {"sentence": bias.sentence},
        "probes": judged.probes,
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON knows them: no NaN."""
    clean = frame.astype(object).where(frame.notna(), None)
    return clean.to_dict("records")
