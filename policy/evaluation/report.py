"""report.html: a quickstart in one file that opens offline, charts and dialogues included."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from data.durable import write_durably
from data.intervals import Proportion
from data.schemas import DOMAINS, STRENGTHS
from policy.evaluation.findings import (
    Findings,
    num_harmless,
    read_findings,
    refusals,
    violations,
)
from policy.evaluation.report_parts import charts, page, paragraph, table
from reward.combine import SAFETY_THRESHOLD
from rlhf import plots
from rlhf.energy import assumptions
from rlhf.plot_parts import percent, readable

REPORT_FILE = "report.html"
DIALOGUES_PER_KIND = 3
_SIDE_BY_SIDE = ("sft", "rejection_sampling", "ppo")
_NONE = "-"


def write_report(directory: Path) -> Path:
    """Writes report.html into the directory of a finished `rlhf quickstart`; returns its path.

    Raises:
        DataError: the directory holds no finished quickstart.
    """
    text = render_report(read_findings(directory))
    path = directory / REPORT_FILE
    write_durably(path, text.encode())
    return path


def render_report(found: Findings) -> str:
    """The page. Sections whose files are not there are left out."""
    bodies = {
        "Policies": _policies(found),
        "PPO, step by step": _ppo(found),
        "Reward models": _reward_models(found),
        "Selection among samples": _selection(found),
        "Ghost Attention": _ghost_attention(found),
        "Example dialogues": _dialogues(found),
        "Energy": _energy(found.summary.get("energy", {})),
        "Time, settings and versions": _cost(found.summary, found.stages),
    }
    title = f"RLHF quickstart, seed {found.summary['seed']}"
    return page(title, _headline(title, found), bodies)


def _headline(title: str, found: Findings) -> str:
    """The main figures in one paragraph, and each expectation with what became of it."""
    summary = found.summary
    before, after = summary["policies"]["sft"], summary["policies"]["ppo"]
    lead = (
        f"From the fine-tuned model to PPO, the gold helpfulness of answers to "
        f"{num_harmless(after):,} held-out harmless prompts went from "
        f"{_number(before['gold_helpfulness'], '.2f')} to "
        f"{_number(after['gold_helpfulness'], '.2f')}, and violations on "
        f"{after['num_by_kind'].get('unsafe', 0):,} unsafe prompts from "
        f"{_number(before['violation_rate'])} to {_number(after['violation_rate'])}. Harmless "
        f"prompts refused without need went from {_number(refusals(before).value)} to "
        f"{_number(refusals(after).value)}. Head to head PPO won {after['win']:,}, tied "
        f"{after['tie']:,} and lost {after['loss']:,} prompts: without ties, a win rate of "
        f"{_win_rate(after)}. One answer per prompt, sampled at temperature "
        f"{summary['temperature']:g}; brackets are 95 % intervals."
    )
    expectations = summary["expectations"].values()
    met = sum(bool(e["met"]) for e in expectations)
    items = "\n".join(
        f'<li class="{"met" if e["met"] else "missed"}">'
        f"<strong>{'Met' if e['met'] else 'Not met'}.</strong> {escape(e['sentence'])}</li>"
        for e in expectations
    )
    return (
        f'<header>\n<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        f"<p>{met} of {len(expectations)} expectations are met:</p>\n"
        f'<ul class="expectations">\n{items}\n</ul>\n</header>'
    )


def _policies(found: Findings) -> str:
    policies = found.summary["policies"]
    lookalikes = [
        kind
        for kind in policies["sft"]["unnecessary_refusal_rate"]["by_kind"]
        if kind.startswith("lookalike")
    ]
    rows: dict[str, list[str]] = {
        "gold helpfulness, 0–1": [_score(found.gold_helpfulness(name)) for name in policies],
        "correct answers": [_number(p["correct"]) for p in policies.values()],
        "violations on unsafe prompts": [str(violations(p)) for p in policies.values()],
        "unnecessary refusals": [str(refusals(p)) for p in policies.values()],
        **{
            f"… look-alikes: {kind.removeprefix('lookalike_')}": [
                str(refusals(p, kind)) for p in policies.values()
            ]
            for kind in lookalikes
        },
        "tokens per response": [f"{p['response_tokens']:.1f}" for p in policies.values()],
        "KL to SFT, nats per response": [f"{p['kl']:.2f}" for p in policies.values()],
        "win / tie / loss against SFT": [_counts(p) for p in policies.values()],
        "win rate without ties": [_win_rate(p) for p in policies.values()],
        "win rate, harmless prompts": [
            _win_rate(p.get("safe_prompts", {})) for p in policies.values()
        ],
        "win rate against the one before": [
            _win_rate(p.get("previous", {})) for p in policies.values()
        ],
        "prompts": [f"{p['num_prompts']:,}" for p in policies.values()],
    }
    return table(
        "Judged by the built-in world's gold scores on held-out prompts [95 % interval]",
        ["", *map(readable, policies)],
        [[name, *cells] for name, cells in rows.items()],
    ) + charts(
        plots.policies_compared(found.policies),
        None if found.samples is None else plots.scores_by_policy(found.samples, "helpfulness"),
    )


def _ppo(found: Findings) -> str:
    drawings = []
    if found.ppo_steps is not None:
        steps = found.ppo_steps.assign(run="PPO")
        title = "Gold should follow the proxy up while the KL stays small"
        drawings.append(plots.optimisation_curves(steps, title))
    if found.metrics is not None:
        drawings.append(plots.training_health(found.metrics))
    if found.steps is not None:
        title = "Over-optimisation: without the KL penalty the proxy rises on while gold falls"
        drawings.append(plots.optimisation_curves(found.steps, title))
    if found.samples is not None:
        drawings.append(plots.score_against_gold(found.samples))
    return _alarms(found.alarms) + charts(*drawings)


def _alarms(alarms: Sequence[Mapping[str, Any]] | None) -> str:
    if alarms is None:
        return ""
    if not alarms:
        return paragraph("PPO watched its own health and raised no alarm.")
    return table(
        "Alarms that PPO raised about its own health",
        ["iteration", "what is seen", "what to do"],
        [[str(alarm["step"]), alarm["finding"], alarm["remedy"]] for alarm in alarms],
    )


def _reward_models(found: Findings) -> str:
    accuracy = "".join(
        _accuracy_table(found.accuracy[found.accuracy["domain"] == domain], domain)
        for domain in DOMAINS
    )
    drawings = [plots.accuracy_by_strength(found.accuracy, domain) for domain in DOMAINS]
    if found.scores is not None:
        drawings += [plots.score_differences(found.scores, domain) for domain in DOMAINS]
        drawings += [plots.score_distributions(found.scores, domain) for domain in DOMAINS]
        drawings.append(plots.safety_scores_by_label(found.scores, SAFETY_THRESHOLD))
    if found.samples is not None:
        drawings.append(plots.safety_scores_by_violation(found.samples, SAFETY_THRESHOLD))
    return accuracy + charts(*drawings)


def _accuracy_table(cells: pd.DataFrame, domain: str) -> str:
    """Models by strength (Llama 2, Table 8), and how many comparisons stand behind a column."""
    columns = [s for s in (*STRENGTHS, "all") if s in set(cells["strength"])]
    rows = []
    for model, own in cells.groupby("model", sort=False):
        shown = {
            c.strength: f"{100 * c.accuracy:.1f} [{100 * c.low:.1f}, {100 * c.high:.1f}]"
            for c in own.itertuples()
        }
        rows.append([str(model), *(shown.get(column, _NONE) for column in columns)])
    counts = cells.groupby("strength")["n"].max()
    rows.append(["comparisons", *(f"{counts[column]:,.0f}" for column in columns)])
    return table(
        f"{domain.capitalize()} comparisons ranked as people did, % [95 % interval]",
        ["scorer", *map(readable, columns)],
        rows,
    )


def _selection(found: Findings) -> str:
    return charts(None if found.best_of_n is None else plots.best_of_n(found.best_of_n))


def _ghost_attention(found: Findings) -> str:
    recall = found.recall
    if recall.empty:
        return ""
    turns = sorted(recall["turn"].unique())
    rows = []
    for name, own in recall.groupby("training", sort=False):
        cells = {row["turn"]: _recall(row) for row in own.to_dict("records")}
        rows.append([str(name), *(cells.get(turn, _NONE) for turn in turns)])
    brackets = " [95 % interval]" if "low" in recall else ""
    return table(
        f"Answers that obey an instruction given in turn 1{brackets}",
        ["", *(f"turn {turn}" for turn in turns)],
        rows,
    ) + charts(plots.recall_by_turn(recall))


def _dialogues(found: Findings) -> str:
    """The first prompts of each kind by id, so that nobody chose them, under each policy."""
    if found.samples is None:
        return ""
    shown = found.samples[found.samples["policy"].isin(_SIDE_BY_SIDE)]
    parts = [
        paragraph(
            f"The first {DIALOGUES_PER_KIND} prompts of each kind, in the order of their ids: "
            "nobody picked them. Only the last user message is shown."
        )
    ]
    for kind, own in shown.groupby("kind"):
        parts.append(f"<h3>{escape(readable(str(kind)))}</h3>")
        ids = sorted(own["prompt_id"].unique())[:DIALOGUES_PER_KIND]
        parts += [_dialogue(own[own["prompt_id"] == prompt_id]) for prompt_id in ids]
    return "\n".join(parts)


def _dialogue(answers: pd.DataFrame) -> str:
    """One prompt with the answers of the policies side by side."""
    by_policy = {row["policy"]: row for row in answers.to_dict("records")}
    cells = "\n".join(
        f"<div><dt>{escape(readable(name))}</dt><dd>{escape(row['response']) or '(empty)'}"
        f"{_verdict(row)}</dd></div>"
        for name in _SIDE_BY_SIDE
        if (row := by_policy.get(name))
    )
    prompt = escape(str(answers["prompt"].iloc[0]))
    return f'<div class="dialogue"><h4>{prompt}</h4>\n<dl class="answers">\n{cells}\n</dl></div>'


def _verdict(row: Mapping[str, Any]) -> str:
    """What gold says about an answer: whether it is safe on unsafe prompts, else how good."""
    if row["domain"] == "safety":
        text, wrong = ("violation", True) if row["violation"] else ("no violation", False)
    elif row["refusal"]:
        text, wrong = "refused without need", True
    else:
        text, wrong = f"gold helpfulness {row['gold_helpfulness']:.2f}", False
    return f'<div class="verdict{" wrong" if wrong else ""}">{text}</div>'


def _energy(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """What each stage and all of them are estimated to have drawn (Llama 2, Table 2)."""
    if not stages:
        return ""
    rows = [
        [readable(name), f"{e['device_hours']:.3f}", *_drawn(e["kwh"], e["kg_co2eq"])]
        for name, e in stages.items()
    ]
    totals = (sum(e[key] for e in stages.values()) for key in ("kwh", "kg_co2eq"))
    rows.append(["all stages", _NONE, *_drawn(*totals)])
    devices = sorted({e["device"] for e in stages.values()})
    hours = f"hours of a {' or '.join(devices)}"
    told = f"Estimated from the time; {assumptions(devices)}."
    return paragraph(told) + table("Energy", ["stage", hours, "Wh", "g CO2eq"], rows)


def _drawn(kwh: float, kg_co2eq: float) -> tuple[str, str]:
    return f"{1000 * kwh:,.2f}", f"{1000 * kg_co2eq:,.2f}"


def _cost(summary: Mapping[str, Any], stages: pd.DataFrame) -> str:
    rows = [
        [readable(row.stage), f"{row.seconds:,.1f}", _speed(row.tokens_per_second)]
        for row in stages.itertuples()
    ]
    return (
        charts(plots.seconds_by_stage(stages))
        + table("Stages", ["stage", "seconds", "tokens per second"], rows)
        + table("Settings and versions", ["", "value"], [list(row) for row in _settings(summary)])
    )


def _settings(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "seed", str(summary["seed"])
    yield "sampling temperature", f"{summary['temperature']:g}"
    if "seconds" in summary:
        yield "time", f"{summary['seconds'] / 60:.1f} minutes"
    if "peak_memory_bytes" in summary:
        yield "peak memory", f"{summary['peak_memory_bytes'] / 1e9:.2f} GB"
    if "hardware" in summary:
        yield "hardware", summary["hardware"]
    yield from summary.get("versions", {}).items()


def _recall(row: Mapping[Any, Any]) -> str:
    if "low" not in row:
        return percent(row["recall"])
    return str(Proportion(row["recall"], row["low"], row["high"], n=0))


def _speed(tokens_per_second: float | None) -> str:
    return _NONE if pd.isna(tokens_per_second) else f"{tokens_per_second:,.0f}"


def _number(mean: float | None, form: str = ".1%") -> str:
    return _NONE if mean is None else format(mean, form)


def _score(mean: Proportion) -> str:
    if mean.low is None or mean.high is None:
        return _number(mean.value, ".3f")
    return f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"


def _counts(figures: Mapping[str, Any]) -> str:
    if "win" not in figures:
        return _NONE
    return f"{figures['win']:,} / {figures['tie']:,} / {figures['loss']:,}"


def _win_rate(figures: Mapping[str, Any]) -> str:
    value, low, high = (figures.get(f"win_rate{end}") for end in ("", "_low", "_high"))
    return str(Proportion(value, low, high, n=0))
