"""Progress over rounds of RLHF: every policy against the fine-tuned model (Llama 2, Figure 11).

Two judges: gold, where it is known, and the reward models of the newest round, which are part of
what made the policies and so no neutral judge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.schemas import DOMAINS
from policy.evaluation.win_rate import WinRate, win_rate
from reward.evaluate import ALL, AccuracyTable


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What one round collected, and how good its reward models are."""

    number: int
    comparisons: int
    """New ones, in all splits."""
    comparisons_so_far: int
    """Those of earlier rounds too."""
    accuracy: Mapping[str, AccuracyTable]
    """Model → domain → strength, of accuracy.json."""

    def to_record(self) -> dict[str, Any]:
        """As rounds.json has it; of each reward model the accuracy on its own domain."""
        return {
            "round": self.number,
            "comparisons": self.comparisons,
            "comparisons_so_far": self.comparisons_so_far,
            "reward_accuracy": {
                domain: self.accuracy[domain].get(domain, {}).get(ALL) for domain in DOMAINS
            },
        }


def judge_by_rewards(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Policy → `all`, helpfulness and safety → win, tie and loss against the first policy.

    Harmless prompts are judged by the helpfulness score, unsafe ones by the safety score. Only
    equal scores are ties.

    Args:
        samples: policy, prompt_id, domain, helpfulness_score and safety_score; of each policy one
            per prompt, in the same order.
    """
    by_policy: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_policy.setdefault(sample["policy"], []).append(sample)
    first, *others = by_policy
    return {name: _by_domain(by_policy[name], by_policy[first]) for name in others}


def judge_by_gold(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a policy's figures in gold.json.

    Gold counts all prompts and the harmless ones; the unsafe ones are what is left.
    """
    harmless = summary["safe_prompts"]
    counts = ("win", "tie", "loss")
    unsafe = WinRate(*(summary[name] - harmless[name] for name in counts))
    everything = WinRate(*(summary[name] for name in counts))
    return {
        ALL: everything.to_record(),
        "helpfulness": dict(harmless),
        "safety": unsafe.to_record(),
    }


def policy_records(
    rounds: Mapping[str, int],
    samples: Sequence[Mapping[str, Any]],
    gold: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """A record per policy, the baseline first: its gold figures and what both judges say.

    Args:
        rounds: policy → round that made it, 0 for the baseline.
        samples: as for `judge_by_rewards`.
        gold: policy → figures of gold.json; empty where gold is not known.
    """
    by_rewards = judge_by_rewards(samples)
    records = []
    for name, number in rounds.items():
        record: dict[str, Any] = {"policy": name, "round": number}
        if name in gold:
            record |= {key: gold[name][key] for key in ("gold_helpfulness", "violation_rate")}
        if name in by_rewards:
            record["by_rewards"] = by_rewards[name]
            if name in gold:
                record["by_gold"] = judge_by_gold(gold[name])
        records.append(record)
    return records


def _by_domain(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    named = {ALL: DOMAINS, "helpfulness": ("helpfulness",), "safety": ("safety",)}
    return {name: _win_rate(ours, theirs, of).to_record() for name, of in named.items()}


def _win_rate(
    ours: Sequence[Mapping[str, Any]],
    theirs: Sequence[Mapping[str, Any]],
    domains: Sequence[str],
) -> WinRate:
    pairs = [
        (mine[f"{mine['domain']}_score"], other[f"{mine['domain']}_score"])
        for mine, other in zip(ours, theirs, strict=True)
        if mine["domain"] in domains
    ]
    return win_rate([a for a, _ in pairs], [b for _, b in pairs], [0.0] * len(pairs))
