"""Every chart, once, for the report, the notebooks and the app: pure functions of DataFrames.

Values are binned and averaged here, so a chart weighs a few kilobytes however many rows it shows.
A chart is about 400 px wide: two fit side by side on a page, one on a phone. Its `description`
says in numbers what is to be seen, for those who cannot see it. The colors keep a contrast of 3:1
on white and on near black, and are told apart with any color vision.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from data.intervals import Z_95
from data.schemas import SAFETY_LABELS, STRENGTHS, Domain

GRAY, BLUE, ORANGE, GREEN, PURPLE = "#7a7a7a", "#0072b2", "#d55e00", "#009e73", "#c06a9a"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, GRAY)
WIDTH = 320
"""Pixels of the plotting area; with axis and labels a chart takes about 400."""
SAFETY_THRESHOLD = 0.15
"""σ(safety score) below which the paper treats a response as unsafe (Llama 2, section 3.2.3)."""

_TITLE_LETTERS = 52
_ROW_HEIGHT = 56
_BINS = 28
_MIN_BIN_ROWS = 5
_NOT_ASKED = "not asked"
_POLICY_NAMES = {"sft": "SFT", "ppo": "PPO"}


def readable(name: str) -> str:
    """A policy, strength, label or stage as people write it."""
    return _POLICY_NAMES.get(name, name.replace("_", " "))


def score_differences(scores: pd.DataFrame, model: Domain) -> alt.TopLevelMixin:
    """How far a reward model sets chosen and rejected responses apart, by strength.

    Args:
        scores: one row per response: comparison_id, side, domain, strength, `{model}_score`.
        model: which model; the comparisons of its own domain are shown.
    """
    own = scores[scores["domain"] == model].assign(strength=_readable(scores["strength"]))
    pairs = own.pivot(index=["comparison_id", "strength"], columns="side", values=f"{model}_score")
    pairs = (pairs["chosen"] - pairs["rejected"]).rename("difference").reset_index()
    bins = _histogram(pairs, "difference", ["strength"])
    bins["order"] = np.where(bins["low"] < 0, "rejected scored higher", "chosen scored higher")
    medians = pairs.groupby("strength")["difference"].median()
    chart = _histogram_rows(
        bins,
        row=("strength", _strength_order(own)),
        color=("order", ["chosen scored higher", "rejected scored higher"]),
        x="score of the chosen − score of the rejected response",
    )
    return _finish(
        chart,
        f"{model.capitalize()} model: the clearer the preference, the further to the right",
        f"Median difference {_listed(medians, _strength_order(own))}; {len(pairs):,} comparisons.",
    )


def score_distributions(scores: pd.DataFrame, model: Domain) -> alt.TopLevelMixin:
    """Scores of chosen and of rejected responses, by strength.

    Args:
        scores: as for `score_differences`.
        model: which model; the comparisons of its own domain are shown.
    """
    own = scores[scores["domain"] == model].assign(strength=_readable(scores["strength"]))
    value = f"{model}_score"
    medians = own.groupby("side")[value].median()
    chart = _histogram_rows(
        _histogram(own, value, ["strength", "side"]),
        row=("strength", _strength_order(own)),
        color=("side", ["chosen", "rejected"]),
        x=f"{model} score",
    )
    return _finish(
        chart,
        f"{model.capitalize()} model: do chosen and rejected responses separate?",
        f"Median score {_listed(medians, ['chosen', 'rejected'])}; {len(own):,} responses.",
    )


def safety_scores_by_label(scores: pd.DataFrame) -> alt.TopLevelMixin:
    """σ(safety score) of both responses by the safety label that people gave the pair.

    Args:
        scores: side, safety_label and safety_score, one row per response.
    """
    labeled = scores[scores["safety_label"].notna()]
    labeled = labeled.assign(
        label=_readable(labeled["safety_label"]), sigma=_sigmoid(labeled["safety_score"])
    )
    rejected = labeled[
        labeled["safety_label"].eq("chosen_safe_only") & labeled["side"].eq("rejected")
    ]
    below = _percent((rejected["sigma"] < SAFETY_THRESHOLD).mean())
    chart = _histogram_rows(
        _histogram(labeled, "sigma", ["label", "side"], edges=np.linspace(0, 1, 21)),
        row=("label", [readable(label) for label in SAFETY_LABELS]),
        color=("side", ["chosen", "rejected"]),
        x="σ(safety score)",
        rule=SAFETY_THRESHOLD,
    )
    return _finish(
        chart,
        f"Unsafe responses belong to the left of the line at {SAFETY_THRESHOLD}, safe ones to the right",
        f"Where only the chosen response is safe, {below} of the rejected ones lie below "
        f"{SAFETY_THRESHOLD}; {len(labeled):,} responses.",
    )


def safety_scores_by_violation(samples: pd.DataFrame) -> alt.TopLevelMixin:
    """σ(safety score) of the responses to unsafe prompts, violations apart from the others.

    Args:
        samples: domain, safety_score and violation, one row per response.
    """
    unsafe = samples[samples["domain"] == "safety"]
    names = ["violates", "does not violate"]
    unsafe = unsafe.assign(
        truth=np.where(unsafe["violation"].astype(bool), *names),
        sigma=_sigmoid(unsafe["safety_score"]),
    )
    caught = unsafe["sigma"].lt(SAFETY_THRESHOLD).groupby(unsafe["truth"]).mean()
    shares = _listed(caught, names, _percent)
    chart = _histogram_rows(
        _histogram(unsafe, "sigma", ["truth"], edges=np.linspace(0, 1, 21)),
        row=("truth", names),
        color=("truth", ["does not violate", "violates"]),
        x="σ(safety score), responses to unsafe prompts",
        rule=SAFETY_THRESHOLD,
    )
    return _finish(
        chart,
        f"Does the threshold of {SAFETY_THRESHOLD} catch true violations?",
        f"Below the threshold: {shares}; {len(unsafe):,} responses of all policies.",
    )


def scores_by_policy(samples: pd.DataFrame, model: Domain) -> alt.TopLevelMixin:
    """A reward model's scores on the prompts of its domain, policy by policy.

    Args:
        samples: policy, domain, `{model}_score`, one row per response.
        model: which model.
    """
    own = samples[samples["domain"] == model].assign(policy=_readable(samples["policy"]))
    value = f"{model}_score"
    names = list(own["policy"].unique())
    medians = own.groupby("policy")[value].median()
    chart = _histogram_rows(
        _histogram(own, value, ["policy"]),
        row=("policy", names),
        color=("policy", names),
        x=f"{model} score",
        legend=False,
    )
    prompts = "harmless" if model == "helpfulness" else "unsafe"
    return _finish(
        chart,
        f"{model.capitalize()} scores on {prompts} prompts: training should move them to the right",
        f"Median score {_listed(medians, names)}.",
    )


def accuracy_by_strength(accuracy: pd.DataFrame, domain: Domain) -> alt.TopLevelMixin:
    """How often each scorer prefers what people preferred (Llama 2, Table 8).

    Args:
        accuracy: model, domain, strength, accuracy, low, high (95 %), one row per cell.
        domain: whose comparisons.
    """
    cells = accuracy[(accuracy["domain"] == domain) & accuracy["strength"].isin(STRENGTHS)]
    cells = cells.assign(strength=_readable(cells["strength"]))
    models = list(cells["model"].unique())
    order = [readable(s) for s in STRENGTHS]
    axis = alt.Axis(labelAngle=0, labelExpr="split(datum.label, ' ')", labelLimit=0)
    base = alt.Chart(cells, width=WIDTH, height=220).encode(
        x=alt.X("strength:N", sort=order, axis=axis, title="strength of the preference"),
        xOffset=alt.XOffset("model:N", sort=models),
        color=_color("model", models),
    )
    intervals = base.mark_rule(strokeWidth=2).encode(y=_accuracy_axis("low"), y2="high:Q")
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=_accuracy_axis("accuracy"),
        shape=alt.Shape("model:N", sort=models),
        tooltip=[
            "model",
            "strength",
            _share_tip("accuracy"),
            _share_tip("low"),
            _share_tip("high"),
        ],
    )
    own = cells[cells["model"] == models[0]].set_index("strength")["accuracy"]
    return _finish(
        alt.layer(_rule(y=0.5), intervals, points),
        f"{domain.capitalize()} comparisons: accuracy falls as the choice gets closer",
        f"{models[0]}: {_listed(own, order, _percent)}. Bars are 95 % intervals; 50 % is a coin.",
    )


def optimisation_curves(steps: pd.DataFrame, title: str) -> alt.TopLevelMixin:
    """Gold scores, proxy score and KL over the steps of one or more PPO runs, one above the other.

    Args:
        steps: run, step, gold_helpfulness, violation_rate, combined_score and kl (nats per
            response), one row per step.
        title: what to look for.
    """
    panels = [
        ("gold_helpfulness", "gold helpfulness, harmless prompts (0–1)", ".2f"),
        ("violation_rate", "violations, unsafe prompts (share)", ".0%"),
        ("combined_score", "proxy: combined reward-model score", ".2f"),
        ("kl", "KL to the start, nats per response", ".1f"),
    ]
    first, last = steps.groupby("run", sort=False).first(), steps.groupby("run", sort=False).last()
    told = [
        f"{run}: gold helpfulness {first.gold_helpfulness[run]:.2f} to "
        f"{last.gold_helpfulness[run]:.2f}, proxy {first.combined_score[run]:.2f} to "
        f"{last.combined_score[run]:.2f}, KL {last.kl[run]:.1f} nats at step {last.step[run]:.0f}."
        for run in first.index
    ]
    return _finish(_panels(steps, panels, "PPO step"), title, " ".join(told))


def training_health(metrics: pd.DataFrame) -> alt.TopLevelMixin:
    """Whether PPO itself behaves: sizes of its updates, quality of its critic, response length.

    Args:
        metrics: step and TRL's metric names, one row per step, with a column run.
    """
    panels = [
        ("policy/approxkl_avg", "approximate KL of an update, nats per token", ".4f"),
        ("policy/clipfrac_avg", "clipped ratios (share of tokens)", ".1%"),
        ("val/explained_variance", "variance explained by the critic (1 is perfect)", ".2f"),
        ("response/tokens", "response length, tokens", ".1f"),
    ]
    panels = [panel for panel in panels if panel[0] in metrics]
    last = metrics.iloc[-1]
    told = [f"{label} {format(last[column], form)}" for column, label, form in panels]
    return _finish(
        _panels(metrics, panels, "PPO step"),
        "Is PPO healthy? Small updates, a critic that learns, no runaway length",
        f"At the last step: {'; '.join(told)}.",
    )


def best_of_n(curve: pd.DataFrame) -> alt.TopLevelMixin:
    """Mean over prompts of the best and of the median score of N samples (Llama 2, Figure 7).

    Args:
        curve: n, maximum, median.
    """
    lines = curve.melt("n", ["maximum", "median"], var_name="of N samples", value_name="score")
    first, last = curve.iloc[0], curve.iloc[-1]
    chart = _lines(
        lines,
        x=alt.X(
            "n:Q",
            scale=alt.Scale(type="log", base=2, nice=False),
            axis=alt.Axis(values=[int(n) for n in curve["n"]], format="d"),
            title="samples per prompt, N (log scale)",
        ),
        y=alt.Y("score:Q", scale=alt.Scale(zero=False), title="combined score, mean over prompts"),
        color=("of N samples", ["maximum", "median"]),
    )
    return _finish(
        chart,
        "The gap between the best and the median of N samples is what selection can gain",
        f"From N = {first.n:.0f} to {last.n:.0f} the maximum goes from {first.maximum:.2f} to "
        f"{last.maximum:.2f}, the median from {first['median']:.2f} to {last['median']:.2f}.",
    )


def recall_by_turn(recall: pd.DataFrame) -> alt.TopLevelMixin:
    """How long a standing instruction is obeyed (Llama 2, Table 30).

    Args:
        recall: training, turn (1 is where the instruction stands), recall, one row per cell.
    """
    names = list(recall["training"].unique())
    ends = recall.groupby("training", sort=False)["recall"].agg(["first", "last"])
    told = [f"{n}: {_percent(ends['first'][n])} to {_percent(ends['last'][n])}" for n in names]
    turns = sorted(int(turn) for turn in recall["turn"].unique())
    chart = _lines(
        recall,
        x=alt.X("turn:Q", axis=alt.Axis(values=turns, format="d"), title="turn of the dialogue"),
        y=alt.Y(
            "recall:Q",
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(format="%"),
            title="answers that obey the instruction of turn 1",
        ),
        color=("training", names),
    )
    return _finish(
        chart,
        "A standing instruction should still hold in the last turn",
        f"Obeyed in turn {turns[0]} and in turn {turns[-1]}: {'; '.join(told)}.",
    )


def policies_compared(policies: pd.DataFrame) -> alt.TopLevelMixin:
    """The policies side by side in several measures between 0 and 1.

    Args:
        policies: policy, measure, value, low, high (95 %), one row per policy and measure.
    """
    frame = policies.assign(policy=_readable(policies["policy"]))
    names, measures = list(frame["policy"].unique()), list(frame["measure"].unique())
    base = alt.Chart().encode(y=alt.Y("policy:N", sort=names, title=None))
    bars = base.mark_bar().encode(
        x=alt.X("value:Q", scale=alt.Scale(domain=[0, 1.12]), title="share, or score from 0 to 1"),
        color=_color("policy", names, legend=False),
        tooltip=["policy", "measure", *(_share_tip(c, ".3f") for c in ("value", "low", "high"))],
    )
    intervals = base.mark_rule(color=GRAY, strokeWidth=2).encode(x="low:Q", x2="high:Q")
    texts = base.mark_text(align="left", dx=6).encode(
        x="high:Q", text=alt.Text("value:Q", format=".2f")
    )
    chart = alt.layer(bars, intervals, texts, data=frame).properties(
        width=WIDTH, height=18 * len(names)
    )
    by_measure = frame.pivot(index="policy", columns="measure", values="value")
    told = [f"{m}: {_listed(by_measure[m], names)}" for m in measures]
    return _finish(
        chart.facet(row=_row("measure", measures), spacing=16),
        "Helpfulness should rise while violations fall and refusals stay where they were",
        "; ".join(told) + ". Lines are 95 % intervals.",
    )


def score_against_gold(samples: pd.DataFrame, bins: int = 8) -> alt.TopLevelMixin:
    """Gold helpfulness of harmless prompts by helpfulness score, policy by policy.

    Args:
        samples: policy, domain, helpfulness_score, gold_helpfulness, one row per response.
        bins: of equal numbers of responses over all policies.
    """
    safe = samples[samples["domain"] == "helpfulness"].assign(policy=_readable(samples["policy"]))
    safe = safe.assign(
        bin=pd.qcut(safe["helpfulness_score"], bins, labels=False, duplicates="drop")
    )
    points = safe.groupby(["policy", "bin"], sort=False).agg(
        score=("helpfulness_score", "mean"),
        gold=("gold_helpfulness", "mean"),
        error=("gold_helpfulness", "sem"),
        responses=("gold_helpfulness", "size"),
    )
    points = points[points["responses"] >= _MIN_BIN_ROWS].reset_index().sort_values("score")
    points["low"] = points["gold"] - Z_95 * points["error"]
    points["high"] = points["gold"] + Z_95 * points["error"]
    names = list(safe["policy"].unique())
    lines = _lines(
        points,
        x=alt.X(
            "score:Q",
            scale=alt.Scale(zero=False),
            title="helpfulness score (proxy), mean of the bin",
        ),
        y=alt.Y(
            "gold:Q",
            scale=alt.Scale(domain=[0, 1], clamp=True),
            title="gold helpfulness, mean of the bin (0–1)",
        ),
        color=("policy", names),
    )
    bars = alt.Chart(points).mark_rule(opacity=0.6).encode(
        x="score:Q", y="low:Q", y2="high:Q", color=_color("policy", names)
    )  # fmt: skip
    related = safe.groupby("policy")[["helpfulness_score", "gold_helpfulness"]].corr(
        method="spearman"
    )
    rank = related["gold_helpfulness"].xs("helpfulness_score", level=1)
    return _finish(
        alt.layer(bars, lines),
        "Gold against proxy: a policy whose line lies lower has learned to please the model",
        f"Rank correlation of score and gold: {_listed(rank, names)}. Lines are 95 % intervals.",
    )


def seconds_by_stage(stages: pd.DataFrame) -> alt.TopLevelMixin:
    """Where the time goes.

    Args:
        stages: stage, seconds, tokens_per_second (may be missing), in order.
    """
    speed = stages["tokens_per_second"].map(
        lambda s: f" · {s:,.0f} tokens/s" if pd.notna(s) else ""
    )
    frame = stages.assign(
        stage=_readable(stages["stage"]), text=stages["seconds"].map("{:,.0f} s".format) + speed
    )
    longest = frame.loc[frame["seconds"].idxmax()]
    base = alt.Chart(frame, width=WIDTH - 50, height=20 * len(frame)).encode(
        x=alt.X(
            "seconds:Q", scale=alt.Scale(domain=[0, 1.7 * float(longest.seconds)]), title="seconds"
        ),
        y=alt.Y("stage:N", sort=list(frame["stage"]), title=None),
    )
    return _finish(
        alt.layer(
            base.mark_bar(color=BLUE), base.mark_text(align="left", dx=4).encode(text="text:N")
        ),
        "Which stage takes the time?",
        f"{frame['seconds'].sum():,.0f} s in all; the longest is {longest.stage}, {longest.seconds:,.0f} s.",
    )
