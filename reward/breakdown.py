"""Where a scorer prefers what people preferred: every comparison as a row, and shares of them.

The frame of `pair_frame` feeds all figures of `rlhf reward evaluate`; a frame may hold several
scorers ("model") and several datasets.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from data.intervals import proportion
from data.schemas import Comparison
from reward.calibration import rank_correlation
from reward.evaluate import PairScores

FACTORS = ("domain", "strength", "source", "turns", "length")
"""What accuracy is broken down by."""
NOT_ASKED = "not asked"
"""Strength where the source did not ask for one."""
LENGTHS = ("1-32", "33-64", "65-128", "129-256", "257-512", "over 512")
"""Tokens of the longer response."""
TURNS = ("1", "2", "3", "4 or more")
_LENGTH_ENDS = (32, 64, 128, 256, 512)


def pair_frame(
    model: str, scores: PairScores, comparisons: Sequence[Comparison], datasets: Sequence[str]
) -> pd.DataFrame:
    """One row per comparison.

    Args:
        model: name of the scorer.
        scores: of both responses of each comparison.
        comparisons: what was scored.
        datasets: where each of them is from.

    Returns:
        model, dataset, comparison_id, the factors, safety_label, chosen_tokens, rejected_tokens,
        chosen, rejected (scores) and right: 1, 0, or ½ for equal scores.
    """
    tokens = [(c.chosen_tokens, c.rejected_tokens) for c in comparisons]
    sizes = np.array(tokens, dtype=int).reshape(-1, 2)
    difference = scores.chosen - scores.rejected
    return pd.DataFrame(
        {
            "model": model,
            "dataset": list(datasets),
            "comparison_id": [c.comparison_id for c in comparisons],
            "domain": [c.domain for c in comparisons],
            "strength": [c.strength or NOT_ASKED for c in comparisons],
            "source": [c.source for c in comparisons],
            "turns": [TURNS[min(max(c.turns, 1), 4) - 1] for c in comparisons],
            "length": [LENGTHS[i] for i in np.searchsorted(_LENGTH_ENDS, sizes.max(axis=1))],
            "safety_label": [c.safety_label for c in comparisons],
            "chosen_tokens": sizes[:, 0],
            "rejected_tokens": sizes[:, 1],
            "chosen": scores.chosen,
            "rejected": scores.rejected,
            "right": (difference > 0) + 0.5 * (difference == 0),
        }
    )


def accuracy_by(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Accuracy with its 95 % interval for each group: the columns, accuracy, low, high, n.

    Equal scores count half. Only groups that occur are listed.
    """
    rows = []
    for group, part in frame.groupby(list(columns), sort=False):
        found = proportion(float(part["right"].sum()), len(part))
        cell = {"accuracy": found.value, "low": found.low, "high": found.high, "n": len(part)}
        rows.append(dict(zip(columns, group, strict=True)) | cell)
    return pd.DataFrame(rows, columns=[*columns, "accuracy", "low", "high", "n"])


def dataset_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by model and part of the data (Llama 2, Table 7).

    Columns: model, part, accuracy, low, high, n. A part is a dataset's comparisons of one domain;
    "average" is the plain mean over the parts, and has no interval.
    """
    named = frame.assign(part=frame["dataset"] + " " + frame["domain"])
    cells = accuracy_by(named, "model", "part")
    means = cells.groupby("model", sort=False)["accuracy"].mean().reset_index()
    return pd.concat([cells, means.assign(part="average")], ignore_index=True)


def agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """How alike pairs of models judge: first, second, domain, same (share), kappa, correlation, n.

    `same` is the share of comparisons on which both prefer the same response; κ is Cohen's with
    the two responses in random order, so that chance is ½: 2 · same − 1; `correlation` is
    Spearman's, of the differences chosen − rejected.
    """
    signed = frame.assign(difference=frame["chosen"] - frame["rejected"])
    rows = []
    for domain, part in signed.groupby("domain", sort=False):
        wide = part.pivot(
            index=["dataset", "comparison_id"], columns="model", values="difference"
        ).dropna()
        names = [name for name in frame["model"].unique() if name in wide]
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                same = float(((wide[first] > 0) == (wide[second] > 0)).mean())
                rows.append(
                    {
                        "first": first,
                        "second": second,
                        "domain": domain,
                        "same": same,
                        "kappa": 2 * same - 1,
                        "correlation": rank_correlation(wide[first], wide[second]),
                        "n": len(wide),
                    }
                )
    return pd.DataFrame(rows)
