"""Figures that claims about policies rest on: pure functions of samples with known gold scores.

Samples are frames with a row per response: prompt_id, kind, domain, combined_score (the proxy), and
the columns of `policy.evaluation.gold.judge_samples`.
"""

from collections.abc import Sequence
from math import log

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from policy.best_of_n import gold_of_best, sizes
from policy.evaluation.gold import TIE_MARGIN
from policy.evaluation.win_rate import win_rate


def table_of(samples: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """[P, K] of samples that stand side by side for each prompt."""
    return samples[column].to_numpy(float).reshape(samples["prompt_id"].nunique(), -1)


def gold_score(samples: pd.DataFrame, kinds: Sequence[str] | None = None) -> float:
    """Mean gold score, of all kinds of prompts or of some."""
    own = samples if kinds is None else samples[samples["kind"].isin(kinds)]
    return float(own["gold_score"].mean())


def helpfulness(samples: pd.DataFrame) -> float:
    """Mean gold helpfulness on harmless prompts."""
    return float(samples.loc[samples["domain"] != "safety", "gold_helpfulness"].mean())


def violations(samples: pd.DataFrame) -> float:
    """Share of the responses to unsafe prompts that say how."""
    return float(samples.loc[samples["domain"] == "safety", "violation"].mean())


def wins(ours: pd.DataFrame, theirs: pd.DataFrame) -> float:
    """Win / (win + loss) by gold: helpfulness on harmless prompts, no violation on unsafe ones.

    Args:
        ours: one response per prompt.
        theirs: to the same prompts, in the same order.
    """
    unsafe = (ours["domain"] == "safety").to_numpy()

    def utilities(own: pd.DataFrame) -> list[float]:
        return np.where(unsafe, ~own["violation"].to_numpy(bool), own["gold_helpfulness"]).tolist()

    margins = np.where(unsafe, 0.0, TIE_MARGIN).tolist()
    rate = win_rate(utilities(ours), utilities(theirs), margins).rate
    return 0.5 if rate.value is None else rate.value


def peak(places: Sequence[float], values: Sequence[float]) -> float:
    """Where the parabola through the highest value and its neighbours is highest.

    Args:
        places: ascending, equally far apart.
        values: at them. Where the highest is the first or the last, its place is the answer.
    """
    best = int(np.argmax(values))
    if best in (0, len(values) - 1):
        return places[best]
    left, middle, right = values[best - 1 : best + 2]
    step = places[best + 1] - places[best]
    return places[best] + step * 0.5 * (left - right) / (left - 2 * middle + right)


def best_temperature(sweep: pd.DataFrame, n: int, value: str = "combined_score") -> float:
    """At or between those of a sweep, the one whose best of n by combined score is worth most.

    Args:
        sweep: K samples per prompt at every `temperature`.
        n: 1 to K.
        value: column of what the best is worth; by default what it scores.
    """
    worth = {
        float(temperature): value_of_best(own, "combined_score", value, n)
        for temperature, own in sweep.groupby("temperature")
    }
    return peak(list(worth), list(worth.values()))


def straightness(places: Sequence[float], values: Sequence[float]) -> float:
    """R², the share of the variance of the values that a straight line explains."""
    return float(np.corrcoef(places, values)[0, 1] ** 2)


def best_of_n_kl(n: int) -> float:
    """Nats between best of n and the policy that samples: log n − (n − 1) / n."""
    return log(n) - (n - 1) / n


def value_of_best(samples: pd.DataFrame, scores: str, value: str, n: int) -> float:
    """Mean over prompts of a value of the sample that scores best of n.

    Args:
        samples: K per prompt.
        scores: column by which the best is chosen.
        value: column of what is averaged.
        n: 1 to K.
    """
    return float(gold_of_best(table_of(samples, scores), table_of(samples, value), n).mean())


def gold_of_best_of_n(samples: pd.DataFrame) -> dict[int, float]:
    """N → mean gold score of the best by combined score, for N = 1, 2, 4 … K."""
    numbers = sizes(len(samples) // samples["prompt_id"].nunique())
    return {n: value_of_best(samples, "combined_score", "gold_score", n) for n in numbers}


def gold_at_kl(samples: pd.DataFrame, kl: float) -> float:
    """Gold score of best of N at the N that has this KL, straight in √KL between powers of two.

    Beyond the largest N it is that of the largest.
    """
    found = gold_of_best_of_n(samples)
    roots = [best_of_n_kl(n) ** 0.5 for n in found]
    return float(np.interp(max(kl, 0.0) ** 0.5, roots, list(found.values())))


def late_change(run: pd.DataFrame, column: str) -> float:
    """Mean over the last quarter of a run's steps less that over the second quarter.

    The quarters are fixed beforehand: the last steps are below the highest of all by noise alone.

    Args:
        run: samples with their `step`, counted from 0.
        column: what is averaged.
    """
    part = run["step"] / (run["step"].max() + 1)
    late, early = part >= 0.75, (part >= 0.25) & (part < 0.5)
    return float(run.loc[late, column].mean() - run.loc[early, column].mean())
