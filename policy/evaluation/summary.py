"""The figures of a whole run on the built-in world, gathered from its stages' directories."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from data.schemas import DOMAINS
from policy.evaluation.expectations import judge_expectations
from policy.samples import read_samples
from rlhf.metrics import steps_at_ends
from rlhf.run import CONFIG_FILE, FINISHED_FILE, read_json

PACKAGES = ("torch", "ray", "deepspeed", "sentencepiece", "pyarrow", "numpy")


def summarize_run(
    directory: Path, stages: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that report.html shows as numbers; see docs/evaluation.md for each key.

    Args:
        directory: holds one run directory per stage.
        stages: their names, in order.
        facts: seed, seconds, peak_memory_bytes of the whole run.
    """
    accuracy = read_json(directory / "reward" / "accuracy.json")
    recall = read_json(directory / "recall" / "recall.json")
    summary = {
        "policies": read_json(directory / "evaluation" / "gold.json"),
        "reward_accuracy": {model: accuracy[model] for model in DOMAINS},
        "baseline_accuracy": {m: rows for m, rows in accuracy.items() if m not in DOMAINS},
        "ghost_attention": {
            name: {turn: found["value"] for turn, found in by_turn.items()}
            for name, by_turn in recall.items()
        },
        "ghost_attention_intervals": recall,
        "stages": {name: stage_cost(directory / name) for name in stages},
        "energy": {
            name: energy
            for name in stages
            if (energy := read_json(directory / name / FINISHED_FILE).get("energy"))
        },
        **facts,
        "temperature": _settings(directory / "evaluation")["sampling"]["temperature"],
        "versions": _versions(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
    }
    steps = directory / "overoptimise_evaluation" / "overoptimise_steps.parquet"
    if steps.exists():
        summary["overoptimise"] = _ends(read_samples(steps))
    expectations = judge_expectations(summary)
    summary["expectations"] = {
        e.name: {key: value for key, value in asdict(e).items() if key != "name"}
        for e in expectations
    }
    return summary


def stage_cost(run: Path) -> dict[str, float | None]:
    """Seconds of a finished run, and tokens per second where it worked on tokens."""
    finished = read_json(run / FINISHED_FILE)
    tokens = finished.get("tokens")
    return {
        "seconds": finished["seconds"],
        "tokens_per_second": tokens / finished["seconds"] if tokens else None,
    }


def _ends(
    steps: Sequence[Mapping[str, float | None]],
) -> dict[str, dict[str, float | None]]:
    """Gold and proxy in the first and the last steps of a run; see `steps_at_ends`."""
    names = {"gold_helpfulness": "gold_helpfulness", "proxy": "combined_score", "kl": "kl"}
    few = steps_at_ends(len(steps))
    parts = {"first": steps[:few], "last": steps[-few:]}
    return {
        end: {name: _mean([step[column] for step in part]) for name, column in names.items()}
        for end, part in parts.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _settings(run: Path) -> dict[str, Any]:
    """The resolved config of a run."""
    return yaml.safe_load((run / CONFIG_FILE).read_text())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # DeepSpeed may be absent
    return found
