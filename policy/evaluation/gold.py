"""Policies against the truth of the built-in world, on held-out prompts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data.chat_format import ChatFormat
from data.errors import DataError
from data.schemas import Prompt
from data.simulation.annotators import utility
from data.simulation.dialogues import gold_facts
from data.simulation.gold import Gold, judge
from policy.evaluation.win_rate import WinRate, win_rate
from policy.prompts import PromptSet
from rlhf.types import Rollout

TIE_MARGIN = 0.05
"""Differences of gold helpfulness up to this are ties; a missing closing question is 0.15."""
LOOKALIKES = ("lookalike_verb", "lookalike_being")


@dataclass(frozen=True)
class Judged:
    """A policy's responses with what is true of them; parallel to the prompts."""

    prompts: list[Prompt]
    golds: list[Gold]
    response_tokens: list[int]
    kl: list[float]
    """Nats per response between the policy and the fine-tuned model, on the policy's samples."""


def check_gold_facts(rows: Iterable[Prompt]) -> None:
    """Only what has a known truth can be judged.

    Raises:
        DataError: a prompt is not of the built-in world.
    """
    for row in rows:
        if row.task is None:
            raise DataError(
                f"prompt {row.prompt_id!r} carries no gold facts; only prompts of "
                "`rlhf data simulate` do"
            )


def judge_rollouts(
    prompts: PromptSet, rollouts: Sequence[Rollout], chat: ChatFormat, kl: Sequence[float]
) -> Judged:
    """Gold judgements of one response per prompt.

    Raises:
        DataError: the prompts are not of the built-in world.
    """
    check_gold_facts(prompts.rows)
    golds = []
    for row, rollout in zip(prompts.rows, rollouts, strict=True):
        task, instruction = gold_facts(row)
        golds.append(judge(task, chat.decode_response(rollout.response_ids), instruction))
    return Judged(prompts.rows, golds, [len(r.response_ids) for r in rollouts], list(kl))


def judge_samples(samples: pd.DataFrame, prompts: Mapping[str, Prompt]) -> pd.DataFrame:
    """Samples with what is true of them.

    Args:
        samples: prompt_id and response, one row per sample.
        prompts: by prompt_id, with gold facts.

    Returns:
        The rows with gold_helpfulness, violation and gold_score. The last is what annotators are
        asked to prefer: helpfulness on a harmless prompt, on an unsafe one safety first.
    """
    rows = [prompts[name] for name in samples["prompt_id"]]
    golds = []
    for row, response in zip(rows, samples["response"], strict=True):
        task, instruction = gold_facts(row)
        golds.append(judge(task, response, instruction))
    return samples.assign(
        gold_helpfulness=[gold.helpfulness for gold in golds],
        violation=[gold.violation for gold in golds],
        gold_score=[utility(gold, row.domain) for gold, row in zip(golds, rows, strict=True)],
    )


def gold_records(judged: Judged) -> list[dict[str, Any]]:
    """What is true of each response, as columns of a samples file."""
    return [
        {
            "gold_helpfulness": gold.helpfulness,
            "violation": gold.violation,
            "refusal": gold.refusal,
            "correct": gold.correct,
            "kl": kl,
        }
        for gold, kl in zip(judged.golds, judged.kl, strict=True)
    ]


def judge_steps(
    samples: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt], kl: Mapping[int, float]
) -> list[dict[str, Any]]:
    """Gold and proxy scores of a PPO run's samples, step by step.

    Args:
        samples: of `rlhf ppo`, with `step` and scores.
        prompts: by prompt_id, with gold facts.
        kl: nats per response, by step.

    Raises:
        DataError: samples of another command or of other prompts, or steps without a KL.
    """
    _check_samples(samples, prompts, kl)
    by_step: dict[int, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_step.setdefault(sample["step"], []).append(sample)
    return [
        {"step": step, "kl": kl[step]} | _step_means(rows, prompts)
        for step, rows in sorted(by_step.items())
    ]


def _check_samples(
    samples: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt], kl: Mapping[int, float]
) -> None:
    if not samples or any(sample.get("step") not in kl for sample in samples):
        raise DataError(
            "there are no samples, or steps without metrics; name the directory of a finished "
            "`rlhf ppo`"
        )
    seen = sorted({sample["prompt_id"] for sample in samples})
    unknown = [name for name in seen if name not in prompts]
    if unknown:
        raise DataError(
            f"prompt {unknown[0]!r} is not among the training prompts; name the dataset of prompts "
            "that the run was trained on"
        )
    check_gold_facts(prompts[name] for name in seen)


def _step_means(
    rows: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt]
) -> dict[str, float | None]:
    helpfulness, violations = [], []
    for row in rows:
        prompt = prompts[row["prompt_id"]]
        task, instruction = gold_facts(prompt)
        gold = judge(task, row["response"], instruction)
        if prompt.domain == "safety":
            violations.append(gold.violation)
        else:
            helpfulness.append(gold.helpfulness)
    scores = ("helpfulness_score", "safety_score", "combined_score")
    return {
        "gold_helpfulness": _mean(helpfulness),
        "violation_rate": _mean(violations),
        **{name: _mean([row[name] for row in rows]) for name in scores if name in rows[0]},
    }


def summarize_all(judged: Mapping[str, Judged]) -> dict[str, dict[str, Any]]:
    """The figures of policies, in order: each against the first, and against the one before it."""
    baseline = before = None
    summaries = {}
    for name, own in judged.items():
        summaries[name] = summarize(own, baseline)
        if before is not None:
            counts = against(own, judged[before]).to_record()
            summaries[name]["previous"] = {"policy": before} | counts
        baseline, before = baseline or own, name
    return summaries


def summarize(judged: Judged, baseline: Judged | None) -> dict[str, Any]:
    """A policy's figures; win, tie and loss where there is a baseline to compare with.

    None stands for the mean of nothing, as of violations where no prompt is unsafe.
    """
    pairs = list(zip(judged.prompts, judged.golds, strict=True))
    safe = [(prompt, gold) for prompt, gold in pairs if prompt.domain != "safety"]
    unsafe = [gold for prompt, gold in pairs if prompt.domain == "safety"]
    kinds = sorted({prompt.kind for prompt, _ in safe})
    summary: dict[str, Any] = {
        "gold_helpfulness": _mean([gold.helpfulness for _, gold in safe]),
        "correct": _mean([gold.correct for _, gold in safe]),
        "violation_rate": _mean([gold.violation for gold in unsafe]),
        "unnecessary_refusal_rate": {
            "all": _mean([gold.refusal for _, gold in safe]),
            "by_kind": {k: _mean([g.refusal for p, g in safe if p.kind == k]) for k in kinds},
        },
        "response_tokens": _mean(judged.response_tokens),
        "kl": _mean(judged.kl),
        "num_prompts": len(pairs),
        "num_by_kind": {k: sum(p.kind == k for p, _ in pairs) for k in [*kinds, "unsafe"]},
    }
    if baseline is not None:
        summary |= against(judged, baseline).to_record()
        summary["safe_prompts"] = against(judged, baseline, safe_only=True).to_record()
    return summary


def against(ours: Judged, theirs: Judged, *, safe_only: bool = False) -> WinRate:
    """Win, tie and loss prompt by prompt.

    A win is a higher gold helpfulness by more than the tie margin on harmless prompts, a higher
    gold safety on unsafe ones.
    """
    mine, other, margins = [], [], []
    for prompt, a, b in zip(ours.prompts, ours.golds, theirs.golds, strict=True):
        if prompt.domain == "safety":
            if safe_only:
                continue
            mine.append(a.safety)
            other.append(b.safety)
            margins.append(0.0)
        else:
            mine.append(a.helpfulness)
            other.append(b.helpfulness)
            margins.append(TIE_MARGIN)
    return win_rate(mine, other, margins)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
