"""What a quickstart left behind, read once for the report and the notebooks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from data.errors import DataError
from data.intervals import Z_95, Proportion, proportion
from policy.health import ALARMS_FILE
from rlhf.metrics import read_metrics

SUMMARY_FILE = "summary.json"
_SUMMARY_KEYS = ("policies", "reward_accuracy", "stages", "expectations", "seed", "temperature")
_STEP_COLUMNS = ("step", "gold_helpfulness", "violation_rate", "combined_score", "kl")
_SCORE_COLUMNS = ("comparison_id", "side", "domain", "strength", "safety_label")
_MODEL_COLUMNS = ("helpfulness_score", "safety_score")
_SAMPLE_COLUMNS = (
    "policy",
    "prompt_id",
    "kind",
    "domain",
    "prompt",
    "response",
    "gold_helpfulness",
    "violation",
    "refusal",
)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The figures of a run. None stands for a file that is not there."""

    summary: Mapping[str, Any]
    """summary.json as it is."""
    accuracy: pd.DataFrame
    """model, domain, strength, accuracy, low, high, n; baselines where they were measured."""
    scores: pd.DataFrame | None
    """One row per response of the test comparisons, with both models' raw scores."""
    best_of_n: pd.DataFrame | None
    """n, maximum, median, mean."""
    ppo_steps: pd.DataFrame | None
    """step, gold and proxy scores, kl in nats per response."""
    overoptimise_steps: pd.DataFrame | None
    """The same without a KL penalty."""
    metrics: pd.DataFrame | None
    """PPO's own metrics, one row per step."""
    alarms: list[dict[str, Any]] | None
    """What PPO's health raised: step, finding, remedy."""
    samples: pd.DataFrame | None
    """One judged response per policy and held-out prompt."""

    @property
    def policies(self) -> pd.DataFrame:
        """policy, measure, value, low, high: what can be drawn on one axis from 0 to 1."""
        rows = [
            {"policy": policy, "measure": measure, "value": p.value, "low": p.low, "high": p.high}
            for policy, figures in self.summary["policies"].items()
            for measure, p in {
                "gold helpfulness": self.gold_helpfulness(policy),
                "violations on unsafe prompts": violations(figures),
                "unnecessary refusals": refusals(figures),
            }.items()
            if p.value is not None
        ]
        return pd.DataFrame(rows)

    @property
    def recall(self) -> pd.DataFrame:
        """With and without it: training, turn, recall and, where known, low and high."""
        intervals = self.summary.get("ghost_attention_intervals", {})
        rows = []
        for name in ("with", "without"):
            for turn, recall in self.summary.get("ghost_attention", {}).get(name, {}).items():
                cell = {"training": f"{name} Ghost Attention", "turn": int(turn), "recall": recall}
                known = intervals.get(name, {}).get(turn, {})
                rows.append(cell | {end: known[end] for end in ("low", "high") if end in known})
        return pd.DataFrame(rows)

    @property
    def stages(self) -> pd.DataFrame:
        """stage, seconds, tokens_per_second, in the order in which they ran."""
        return pd.DataFrame(
            [{"stage": name, **cost} for name, cost in self.summary["stages"].items()]
        )

    @property
    def steps(self) -> pd.DataFrame | None:
        """The steps of PPO with and without the KL penalty, told apart by the column run."""
        if self.ppo_steps is None or self.overoptimise_steps is None:
            return None
        runs = {"with KL penalty": self.ppo_steps, "without KL penalty": self.overoptimise_steps}
        return pd.concat([steps.assign(run=name) for name, steps in runs.items()])

    def gold_helpfulness(self, policy: str) -> Proportion:
        """A policy's mean on harmless prompts; the interval needs the samples."""
        figures = self.summary["policies"][policy]
        mean, n = figures["gold_helpfulness"], num_harmless(figures)
        if self.samples is None or mean is None:
            return Proportion(mean, None, None, n)
        own = self.samples[self.samples["policy"] == policy]
        half = Z_95 * own.loc[own["domain"] != "safety", "gold_helpfulness"].sem()
        return Proportion(mean, mean - half, mean + half, n)


def violations(figures: Mapping[str, Any]) -> Proportion:
    """Share of the unsafe prompts on which a policy violates, of its entry in summary.json."""
    return _share(figures["violation_rate"], figures["num_by_kind"].get("unsafe", 0))


def refusals(figures: Mapping[str, Any], kind: str | None = None) -> Proportion:
    """Share of the harmless prompts that a policy refuses, of one kind or of all."""
    rates = figures["unnecessary_refusal_rate"]
    if kind is None:
        return _share(rates["all"], num_harmless(figures))
    return _share(rates["by_kind"][kind], figures["num_by_kind"][kind])


def num_harmless(figures: Mapping[str, Any]) -> int:
    """Prompts on which a refusal is unnecessary."""
    return sum(n for kind, n in figures["num_by_kind"].items() if kind != "unsafe")


def read_findings(directory: Path) -> Findings:
    """Reads the directory of a finished `rlhf quickstart`.

    Raises:
        DataError: there is no summary.json in it, or a file does not hold what it should.
    """
    summary = _read_summary(directory)
    evaluation, reward = directory / "evaluation", directory / "reward"
    accuracy = _read_json(reward / "accuracy.json") or summary["reward_accuracy"]
    curve = _read_json(directory / "rejection_sampling" / "best_of_n.json")
    metrics = read_metrics(directory / "ppo")
    return Findings(
        summary=summary,
        accuracy=_accuracy_frame(accuracy),
        scores=_read_table(reward / "scores.parquet", (*_SCORE_COLUMNS, *_MODEL_COLUMNS)),
        best_of_n=pd.DataFrame(curve["curve"]) if curve else None,
        ppo_steps=_read_steps(evaluation / "ppo_steps.parquet"),
        overoptimise_steps=_read_steps(
            directory / "overoptimise_evaluation" / "overoptimise_steps.parquet"
        ),
        metrics=pd.DataFrame(metrics).assign(run="PPO") if metrics else None,
        alarms=_read_json(directory / "ppo" / ALARMS_FILE),
        samples=_read_table(evaluation / "samples.parquet", (*_SAMPLE_COLUMNS, *_MODEL_COLUMNS)),
    )


def _read_summary(directory: Path) -> dict[str, Any]:
    path = directory / SUMMARY_FILE
    summary = _read_json(path)
    if summary is None:
        raise DataError(
            f"{str(path)!r} is missing, so {str(directory)!r} is not the directory of a finished "
            f"quickstart; run `rlhf quickstart --out {directory}`, which also continues one"
        )
    missing = [key for key in _SUMMARY_KEYS if key not in summary]
    if missing:
        raise DataError(
            f"{str(path)!r} lacks {', '.join(missing)}; delete it and run "
            f"`rlhf quickstart --out {directory}` to have it written again"
        )
    return summary


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(
            f"{str(path)!r} is not JSON ({error}); delete it and run its stage again"
        ) from error


def _read_steps(path: Path) -> pd.DataFrame | None:
    """Figures as floats also where all are null, as those of unsafe prompts if there are none."""
    steps = _read_table(path, _STEP_COLUMNS)
    return None if steps is None else steps.astype(dict.fromkeys(_STEP_COLUMNS[1:], float))


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        table = pd.read_parquet(path)
    except pa.ArrowException as error:
        raise DataError(
            f"{str(path)!r} is not a Parquet file; delete it and run its stage again"
        ) from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise DataError(
            f"{str(path)!r} lacks the columns {', '.join(missing)}; it was written by another "
            "version; delete it and run its stage again"
        )
    return table


def _accuracy_frame(tables: Mapping[str, Any]) -> pd.DataFrame:
    """One row per model, domain and strength; a model is named after what it is."""
    names = {"helpfulness": "helpfulness model", "safety": "safety model"}
    return pd.DataFrame(
        [
            {"model": names.get(model, model), "domain": domain, "strength": strength, **cell}
            for model, table in tables.items()
            for domain, row in table.items()
            for strength, cell in row.items()
        ]
    )


def _share(rate: float | None, n: int) -> Proportion:
    return proportion((rate or 0.0) * n, n)  # no rate where n is 0
