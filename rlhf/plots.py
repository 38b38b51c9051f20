"""Every chart, once, for the report, the notebooks and the app: pure functions of DataFrames.

Values are binned and averaged here, so a chart weighs a few kilobytes however many rows it shows.
A chart is about 400 px wide: two fit side by side on a page. Its `description` says in numbers
what is to be seen, for those who cannot see it.
"""

import altair as alt
import numpy as np
import pandas as pd

from data.schemas import SAFETY_LABELS, STRENGTHS, Domain
from rlhf.metrics import STEPS_AT_EACH_END
from rlhf.plot_parts import (
    BLUE,
    GRAY,
    WIDTH,
    Drawing,
    binned_means,
    color,
    finish,
    histogram,
    histogram_rows,
    line_chart,
    listed,
    means_at_ends,
    percent,
    readable,
    row_header,
    shape,
    share_tip,
    sigmoid,
    stacked_panels,
)

_NO_STRENGTH = "strength not asked"
_STRENGTH_ORDER = [*map(readable, STRENGTHS), _NO_STRENGTH]
_SIGMA_EDGES = np.linspace(0, 1, 21)


def score_differences(scores: pd.DataFrame, model: Domain) -> Drawing:
    """How far a reward model sets chosen and rejected responses apart, by strength.

    Args:
        scores: comparison_id, side, domain, strength and `{model}_score`, one row per response.
        model: which model; the comparisons of its own domain are shown.
    """
    own = _of_domain(scores, model)
    pairs = own.pivot(index=["comparison_id", "strength"], columns="side", values=f"{model}_score")
    pairs = (pairs["chosen"] - pairs["rejected"]).rename("difference").reset_index()
    bins = histogram(pairs, "difference", ["strength"])
    right, wrong = "chosen scored higher", "rejected scored higher"
    bins["order"] = np.where(bins["low"] < 0, wrong, right)
    chart = histogram_rows(
        bins,
        row=("strength", _STRENGTH_ORDER),
        colors=("order", [right, wrong]),
        x="score of the chosen − score of the rejected response",
    )
    medians = listed(pairs.groupby("strength")["difference"].median(), _STRENGTH_ORDER)
    return finish(
        chart,
        f"{model.capitalize()} model: the clearer the preference, the further to the right",
        f"Median difference: {medians}. {len(pairs):,} comparisons.",
    )


def score_distributions(scores: pd.DataFrame, model: Domain) -> Drawing:
    """Scores of chosen and of rejected responses, by strength; arguments of `score_differences`."""
    own, value = _of_domain(scores, model), f"{model}_score"
    sides = ["chosen", "rejected"]
    chart = histogram_rows(
        histogram(own, value, ["strength", "side"]),
        row=("strength", _STRENGTH_ORDER),
        colors=("side", sides),
        x=f"{model} score",
    )
    return finish(
        chart,
        f"{model.capitalize()} model: do chosen and rejected responses come apart?",
        f"Median score: {listed(own.groupby('side')[value].median(), sides)}. "
        f"{len(own):,} responses.",
    )


def safety_scores_by_label(scores: pd.DataFrame, threshold: float) -> Drawing:
    """σ(safety score) of both responses, by the safety label that people gave the pair.

    Args:
        scores: side, safety_label and safety_score, one row per response.
        threshold: on σ; below it the reward rule takes a response for unsafe.
    """
    labeled = scores[scores["safety_label"].notna()]
    labeled = labeled.assign(
        label=labeled["safety_label"].map(readable), sigma=sigmoid(labeled["safety_score"])
    )
    unsafe = labeled["safety_label"].eq("chosen_safe_only") & labeled["side"].eq("rejected")
    caught = percent((labeled["sigma"][unsafe] < threshold).mean())
    chart = histogram_rows(
        histogram(labeled, "sigma", ["label", "side"], _SIGMA_EDGES),
        row=("label", [readable(label) for label in SAFETY_LABELS]),
        colors=("side", ["chosen", "rejected"]),
        x="σ(safety score)",
        rule=threshold,
    )
    return finish(
        chart,
        f"Unsafe responses belong left of the line at {threshold}, safe ones right of it",
        f"Where only the chosen response is safe, {caught} of the rejected ones score below "
        f"{threshold}. {len(labeled):,} responses.",
    )


def safety_scores_by_violation(samples: pd.DataFrame, threshold: float) -> Drawing:
    """σ(safety score) of responses to unsafe prompts, true violations apart from the others.

    Args:
        samples: domain, safety_score and violation, one row per response.
        threshold: as for `safety_scores_by_label`.
    """
    unsafe = samples[samples["domain"] == "safety"]
    names = ["no violation", "violation"]
    unsafe = unsafe.assign(
        truth=unsafe["violation"].map({False: names[0], True: names[1]}),
        sigma=sigmoid(unsafe["safety_score"]),
    )
    chart = histogram_rows(
        histogram(unsafe, "sigma", ["truth"], _SIGMA_EDGES),
        row=("truth", names),
        colors=("truth", names),
        x="σ(safety score), responses to unsafe prompts",
        rule=threshold,
    )
    below = unsafe["sigma"].lt(threshold).groupby(unsafe["truth"]).mean()
    return finish(
        chart,
        f"Does the threshold of {threshold} catch true violations, and only those?",
        f"Below the threshold: {listed(below, names, percent)}. {len(unsafe):,} responses.",
    )


def scores_by_policy(samples: pd.DataFrame, model: Domain) -> Drawing:
    """A reward model's scores on the prompts of its domain, policy by policy.

    Args:
        samples: policy, domain and `{model}_score`, one row per response.
        model: which model.
    """
    own, value = _by_policy(samples, model), f"{model}_score"
    names = list(own["policy"].unique())
    prompts = "harmless" if model == "helpfulness" else "unsafe"
    chart = histogram_rows(
        histogram(own, value, ["policy"]),
        row=("policy", names),
        colors=("policy", names),
        x=f"{model} score, responses to {prompts} prompts",
    )
    return finish(
        chart,
        f"{model.capitalize()} scores by policy: training should move them to the right",
        f"Median score: {listed(own.groupby('policy')[value].median(), names)}.",
    )


def accuracy_by_strength(accuracy: pd.DataFrame, domain: Domain) -> Drawing:
    """How often each scorer prefers what people preferred (Llama 2, Table 8).

    Args:
        accuracy: model, domain, strength, accuracy, low, high (95 %), one row per cell.
        domain: whose comparisons.
    """
    cells = accuracy[(accuracy["domain"] == domain) & accuracy["strength"].isin(STRENGTHS)]
    cells = cells.assign(strength=cells["strength"].map(readable))
    models = list(cells["model"].unique())
    axis = alt.Axis(labelAngle=0, labelExpr="split(datum.label, ' ')", labelLimit=0)
    base = alt.Chart(cells, width=WIDTH, height=220).encode(
        x=alt.X("strength:N", sort=_STRENGTH_ORDER, axis=axis, title="strength of the preference"),
        xOffset=alt.XOffset("model:N", sort=models),
        color=color("model", models),
    )
    y = alt.Y(
        "accuracy:Q",
        axis=alt.Axis(format="%"),
        scale=alt.Scale(zero=False),
        title="comparisons ranked as people did",
    )
    points = base.mark_point(filled=True, size=56, opacity=1).encode(
        y=y,
        shape=shape("model", models),
        tooltip=["model:N", "strength:N", *map(share_tip, ("accuracy", "low", "high"))],
    )
    intervals = base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q")
    coin = (
        alt.Chart(cells.head(1)).mark_rule(strokeDash=[4, 3], color=GRAY).encode(y=alt.datum(0.5))
    )
    told = [
        f"{name}: {listed(own.set_index('strength')['accuracy'], _STRENGTH_ORDER, percent)}"
        for name, own in cells.groupby("model", sort=False)
    ]
    return finish(
        alt.layer(coin, intervals, points),
        f"{domain.capitalize()} comparisons: accuracy falls as the choice gets closer",
        f"{'; '.join(told)}. Lines are 95 % intervals; the dashed line is a coin.",
    )


def optimisation_curves(steps: pd.DataFrame, title: str) -> Drawing:
    """Gold scores, proxy score and KL over the steps of PPO runs, one above the other.

    Args:
        steps: run, step, gold_helpfulness, violation_rate, combined_score and kl (nats per
            response), one row per run and step.
        title: what to look for.
    """
    told = []
    for run, own in steps.groupby("run", sort=False):
        first, last = means_at_ends(own[["gold_helpfulness", "combined_score", "kl"]])
        told.append(
            f"{run}: gold helpfulness from {first.gold_helpfulness:.2f} to "
            f"{last.gold_helpfulness:.2f}, proxy from {first.combined_score:.2f} to "
            f"{last.combined_score:.2f}, KL from {first.kl:.1f} to {last.kl:.1f} nats"
        )
    chart = stacked_panels(
        steps,
        [
            ("gold_helpfulness", "gold helpfulness of harmless prompts (0–1)", ".2f"),
            ("violation_rate", "violations on unsafe prompts (share)", ".0%"),
            ("combined_score", "proxy: combined score of the reward models", ".2f"),
            ("kl", "KL to the model PPO started from, nats per response", ".1f"),
        ],
        x="PPO step",
    )
    return finish(chart, title, "; ".join(told) + f" (means of at most {STEPS_AT_EACH_END} steps).")


def training_health(metrics: pd.DataFrame) -> Drawing:
    """Whether PPO itself behaves: size of its updates, quality of its critic, response length.

    Args:
        metrics: run, step and metrics by the names that TRL uses, one row per step.
    """
    named = [
        ("policy/approxkl_avg", "approximate KL of an update, nats per token", ".4f"),
        ("policy/clipfrac_avg", "clipped ratios (share of tokens)", ".1%"),
        ("val/explained_variance", "variance that the critic explains (1 is all)", ".2f"),
        ("response/tokens", "tokens per response", ".1f"),
    ]
    shown = [panel for panel in named if panel[0] in metrics and metrics[panel[0]].notna().any()]
    told = [f"{label} {metrics[column].dropna().iloc[-1]:{form}}" for column, label, form in shown]
    return finish(
        stacked_panels(metrics, shown, x="PPO step"),
        "Is PPO healthy? Small updates, a critic that learns, no runaway length",
        f"In the last step: {'; '.join(told)}.",
    )


def best_of_n(curve: pd.DataFrame) -> Drawing:
    """Mean over prompts of the best and of the median score of N samples (Llama 2, Figure 7).

    Args:
        curve: n, maximum, median.
    """
    sides = ["maximum", "median"]
    chart = line_chart(
        curve.melt("n", sides, var_name="of N samples", value_name="score"),
        x=alt.X(
            "n:Q",
            scale=alt.Scale(type="log", base=2, nice=False),
            axis=alt.Axis(values=curve["n"].tolist(), format="d"),
            title="samples per prompt, N (log scale)",
        ),
        y=alt.Y("score:Q", scale=alt.Scale(zero=False), title="combined score, mean over prompts"),
        colors=("of N samples", sides),
    )
    first, last = curve.iloc[0], curve.iloc[-1]
    told = [f"the {side} from {first[side]:.2f} to {last[side]:.2f}" for side in sides]
    return finish(
        chart,
        "The gap between the best and the median of N samples is what selection can gain",
        f"From N = {first.n:.0f} to {last.n:.0f}: {', '.join(told)}.",
    )


def recall_by_turn(recall: pd.DataFrame) -> Drawing:
    """How long an instruction given in turn 1 is obeyed (Llama 2, Table 30).

    Args:
        recall: training, turn, recall and, where known, low and high (95 %).
    """
    names = list(recall["training"].unique())
    turns = sorted(recall["turn"].unique().tolist())
    chart = line_chart(
        recall,
        x=alt.X("turn:Q", axis=alt.Axis(values=turns, format="d"), title="turn of the dialogue"),
        y=alt.Y(
            "recall:Q",
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(format="%"),
            title="answers that obey the instruction of turn 1",
        ),
        colors=("training", names),
    )
    told = []
    for name, own in recall.groupby("training", sort=False):
        shares = own.set_index("turn " + own["turn"].astype(str))["recall"]
        told.append(f"{name}: {listed(shares, shares.index, percent)}")
    title = "A standing instruction should still hold in the last turn"
    return finish(chart, title, f"{'; '.join(told)}.")


def policies_compared(policies: pd.DataFrame) -> Drawing:
    """The policies side by side in several measures between 0 and 1.

    Args:
        policies: policy, measure, value, low, high (95 %), one row per policy and measure.
    """
    frame = policies.assign(policy=policies["policy"].map(readable))
    names, measures = list(frame["policy"].unique()), list(frame["measure"].unique())
    base = alt.Chart().encode(
        y=alt.Y("policy:N", sort=names, title=None), color=color("policy", names, legend=False)
    )
    points = base.mark_point(filled=True, size=56, opacity=1).encode(
        x=alt.X("value:Q", scale=alt.Scale(domain=[0, 1]), title="share or score, 0–1"),
        tooltip=["policy:N", "measure:N", *(share_tip(c, ".3f") for c in ("value", "low", "high"))],
    )
    intervals = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    figure = alt.Text("value:Q", format=".2f")
    figures = base.mark_text(align="left", dx=6).encode(
        x="high:Q", text=figure, color=alt.value(GRAY)
    )
    layers = alt.layer(intervals, points, figures, data=frame)
    rows = layers.properties(width=WIDTH - 60, height=18 * len(names))
    values = frame.pivot(index="policy", columns="measure", values="value")
    told = [f"{measure}: {listed(values[measure], names)}" for measure in measures]
    return finish(
        rows.facet(row=row_header("measure", measures), spacing=16),
        "Helpfulness should rise, violations fall, refusals stay where they were",
        f"{'; '.join(told)}. Lines are 95 % intervals.",
    )


def score_against_gold(samples: pd.DataFrame) -> Drawing:
    """Gold helpfulness of harmless prompts by helpfulness score, policy by policy.

    Args:
        samples: policy, domain, helpfulness_score, gold_helpfulness, one row per response.
    """
    safe = _by_policy(samples, "helpfulness")
    names = list(safe["policy"].unique())
    points = binned_means(safe, "helpfulness_score", "gold_helpfulness", "policy", bins=8)
    x = alt.X("x:Q", scale=alt.Scale(zero=False), title="helpfulness score (proxy), mean of a bin")
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, 1]), title="gold helpfulness (0–1), mean of a bin")
    ranks = {
        name: own["helpfulness_score"].rank().corr(own["gold_helpfulness"].rank())
        for name, own in safe.groupby("policy")
    }
    return finish(
        line_chart(points, x=x, y=y, colors=("policy", names)),
        "Gold against proxy: where a line falls to the right, more score means less truth",
        f"Rank correlation of score and gold: {listed(ranks, names)}. Lines are 95 % intervals.",
    )


def seconds_by_stage(stages: pd.DataFrame) -> Drawing:
    """Where the time goes.

    Args:
        stages: stage, seconds and tokens_per_second (may be missing), in order.
    """
    named = stages.assign(
        stage=stages["stage"].map(readable), text=stages["seconds"].map("{:,.0f} s".format)
    )
    longest = named.loc[named["seconds"].idxmax()]
    room = alt.Scale(domain=[0, 1.15 * float(longest.seconds)], nice=False)
    base = alt.Chart(named, width=WIDTH - 70, height=20 * len(named)).encode(
        x=alt.X("seconds:Q", scale=room, title="seconds"),
        y=alt.Y("stage:N", sort=list(named["stage"]), title=None),
        tooltip=["stage:N", alt.Tooltip("seconds:Q", format=",.1f"), "tokens_per_second:Q"],
    )
    figures = base.mark_text(align="left", dx=4).encode(text="text:N")
    return finish(
        alt.layer(base.mark_bar(color=BLUE), figures),
        "Which stage takes the time?",
        f"{named['seconds'].sum():,.0f} s in all; the longest stage is {longest.stage}.",
    )


def _of_domain(scores: pd.DataFrame, model: Domain) -> pd.DataFrame:
    """The responses of a domain's comparisons; strengths in words."""
    own = scores[scores["domain"] == model]
    strength = own["strength"].map(readable, na_action="ignore").fillna(_NO_STRENGTH)
    return own.assign(strength=strength)


def _by_policy(samples: pd.DataFrame, domain: Domain) -> pd.DataFrame:
    """The responses to a domain's prompts; policies in words."""
    own = samples[samples["domain"] == domain]
    return own.assign(policy=own["policy"].map(readable))
