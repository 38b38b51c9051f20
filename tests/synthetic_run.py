"""A small directory like the one `rlhf quickstart` leaves behind, drawn from a seed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.intervals import proportion
from data.schemas import DOMAINS, SAFETY_LABELS, STRENGTHS
from rlhf.energy import run_energy

KINDS = ("fact", "howto", "lookalike_verb", "unsafe")
PROMPTS_PER_KIND = 12
POLICIES = {"sft": 0.45, "rejection_sampling": 0.6, "ppo": 0.7, "ghost_attention": 0.68}
"""Name → mean gold helpfulness."""
HOSTILE = "<script>document.title = 'owned'</script> & \"quotes\" <img src=https://example.com/x>"
"""A response that must be shown, not executed."""


def write_run(directory: Path, *, overoptimise: bool = False, seed: int = 0) -> Path:
    """Writes every file that the report and the notebook read; returns the directory."""
    rng = np.random.default_rng(seed)
    for name in ("reward", "rejection_sampling", "evaluation", "ppo"):
        (directory / name).mkdir(parents=True)
    scores = _scores(rng)
    samples = _samples(rng)
    scores.to_parquet(directory / "reward" / "scores.parquet")
    samples.to_parquet(directory / "evaluation" / "samples.parquet")
    accuracy = _accuracy(scores)
    _write_json(directory / "reward" / "accuracy.json", accuracy)
    ns = (1, 2, 4, 8, 16)
    curve = [{"n": n, "maximum": 0.2 + 0.3 * np.log2(n), "median": 0.2, "mean": 0.2} for n in ns]
    _write_json(directory / "rejection_sampling" / "best_of_n.json", {"curve": curve})
    _steps(rng, falls=False).to_parquet(directory / "evaluation" / "ppo_steps.parquet")
    if overoptimise:
        steps = _steps(rng, falls=True)
        (directory / "overoptimise_evaluation").mkdir()
        steps.to_parquet(directory / "overoptimise_evaluation" / "overoptimise_steps.parquet")
    (directory / "ppo" / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in _metrics(rng))
    )
    _write_json(directory / "summary.json", _summary(samples, accuracy))
    return directory


def _scores(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for number in range(320):
        domain, strength = DOMAINS[number % 2], STRENGTHS[number // 2 % 4]
        gap = 0.7 * (3 - STRENGTHS.index(strength))
        for side, shift in (("chosen", gap / 2), ("rejected", -gap / 2)):
            rows.append(
                {
                    "comparison_id": f"c{number}",
                    "side": side,
                    "domain": domain,
                    "strength": strength,
                    "safety_label": SAFETY_LABELS[number // 8 % 3] if domain == "safety" else None,
                    "source": "synthetic",
                    "model": "sft",
                    "temperature": 1.0,
                    "response_tokens": int(rng.integers(4, 30)),
                    "helpfulness_score": shift + rng.normal(),
                    "safety_score": 2 * shift + rng.normal(),
                }
            )
    return pd.DataFrame(rows)


def _samples(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for policy, gold in POLICIES.items():
        for number in range(len(KINDS) * PROMPTS_PER_KIND):
            kind = KINDS[number % len(KINDS)]
            unsafe = kind == "unsafe"
            violation = unsafe and bool(rng.random() < 0.9 - gold)
            helpfulness = float(np.clip(rng.normal(gold, 0.2), 0, 1))
            response = f"{policy} answers {number}" if number else HOSTILE
            rows.append(
                {
                    "policy": policy,
                    "prompt_id": f"p{number:03}",
                    "kind": kind,
                    "domain": "safety" if unsafe else "helpfulness",
                    "prompt": f"Question {number} of kind {kind}?",
                    "response": response,
                    "gold_helpfulness": helpfulness,
                    "violation": violation,
                    "refusal": kind == "lookalike_verb" and bool(rng.random() < 0.2),
                    "correct": bool(rng.random() < gold),
                    "response_tokens": int(rng.integers(4, 30)),
                    "kl": float(rng.gamma(2)) if policy != "sft" else 0.0,
                    "helpfulness_score": 3 * helpfulness - 1.5 + rng.normal(0, 0.4),
                    "safety_score": -2.5 if violation else 2.5 + rng.normal(),
                    "combined_score": 0.0,
                }
            )
    return pd.DataFrame(rows)


def _steps(rng: np.random.Generator, *, falls: bool) -> pd.DataFrame:
    step = np.arange(24)
    gold = 0.7 - 0.015 * step if falls else 0.45 + 0.25 * (1 - np.exp(-step / 6))
    return pd.DataFrame(
        {
            "step": step,
            "gold_helpfulness": gold + rng.normal(0, 0.01, 24),
            "violation_rate": 0.4 * np.exp(-step / 5),
            "helpfulness_score": step / 20,
            "safety_score": step / 15,
            "combined_score": step / (10 if falls else 18),
            "kl": step * (0.8 if falls else 0.12),
        }
    )


def _metrics(rng: np.random.Generator) -> list[dict[str, float | None]]:
    return [
        {
            "step": step,
            "objective/kl": 0.1 * step,
            "objective/scores": 0.05 * step,
            "objective/scores_helpfulness": 0.05 * step,
            "objective/scores_safety": 0.05 * step,
            "policy/clipfrac_avg": 0.02 + 0.01 * rng.random(),
            "policy/approxkl_avg": 0.002,
            "val/explained_variance": None if step == 0 else step / (step + 5),
            "response/tokens": 14 + rng.random(),
        }
        for step in range(24)
    ]


def _accuracy(scores: pd.DataFrame) -> dict[str, Any]:
    columns = {name: f"{name}_score" for name in DOMAINS} | {"the longer wins": "response_tokens"}
    table: dict[str, Any] = {}
    for model, column in columns.items():
        pairs = scores.pivot(
            index=["comparison_id", "domain", "strength"], columns="side", values=column
        ).reset_index()
        right = pairs["chosen"].gt(pairs["rejected"]) + 0.5 * pairs["chosen"].eq(pairs["rejected"])
        table[model] = {
            domain: {
                strength: _cell(right[pairs["domain"].eq(domain) & pairs["strength"].isin(among)])
                for strength, among in ({s: [s] for s in STRENGTHS} | {"all": STRENGTHS}).items()
            }
            for domain in DOMAINS
        }
    return table


def _cell(right: pd.Series) -> dict[str, Any]:
    found = proportion(float(right.sum()), len(right))
    return {"accuracy": found.value, "low": found.low, "high": found.high, "n": found.n}


def _summary(samples: pd.DataFrame, accuracy: Mapping[str, Any]) -> dict[str, Any]:
    policies = {name: _policy(own, name) for name, own in samples.groupby("policy", sort=False)}
    stages = {"tokenizer": (2.0, None), "pretrain": (120.0, 21500.0), "ppo": (90.5, 3000.0)}
    return {
        "policies": policies,
        "reward_accuracy": {name: accuracy[name] for name in DOMAINS},
        "ghost_attention": {
            "without": {"1": 0.8, "2": 0.3, "4": 0.1, "6": 0.05},
            "with": {"1": 0.85, "2": 0.8, "4": 0.7, "6": 0.6},
        },
        "stages": {n: {"seconds": s, "tokens_per_second": t} for n, (s, t) in stages.items()},
        "energy": {n: run_energy(s, gpus=0, cores=2).as_dict() for n, (s, _) in stages.items()},
        "peak_memory_bytes": 3.2e9,
        "seconds": 212.5,
        "seed": 0,
        "temperature": 1.0,
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "hardware": "2 cores, x86_64, Linux",
        "expectations": {
            "violations_halved": {"met": True, "sentence": "Violations fell to less than half."},
            "recall": {"met": False, "sentence": "Recall in turn 6 is <40 %."},
        },
    }


def _policy(own: pd.DataFrame, name: str) -> dict[str, Any]:
    safe, unsafe = own[own["domain"] == "helpfulness"], own[own["domain"] == "safety"]
    figures = {
        "gold_helpfulness": safe["gold_helpfulness"].mean(),
        "correct": safe["correct"].mean(),
        "violation_rate": unsafe["violation"].mean(),
        "unnecessary_refusal_rate": {
            "all": safe["refusal"].mean(),
            "by_kind": safe.groupby("kind")["refusal"].mean().to_dict(),
        },
        "response_tokens": own["response_tokens"].mean(),
        "kl": own["kl"].mean(),
        "num_prompts": len(own),
        "num_by_kind": own["kind"].value_counts().to_dict(),
    }
    if name != "sft":
        # 24 / (24 + 8) = 0.75; 18 / (18 + 6) = 0.75
        figures |= _wins(24, 16, 8) | {"safe_prompts": _wins(18, 12, 6)}
        figures["previous"] = {"policy": "the one before", **_wins(12, 24, 12)}
    return figures


def _wins(win: int, tie: int, loss: int) -> dict[str, Any]:
    rate = proportion(win, win + loss)
    named = {"win_rate": rate.value, "win_rate_low": rate.low, "win_rate_high": rate.high}
    return {"win": win, "tie": tie, "loss": loss, **named}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, default=float))
