"""The HTML page of `rlhf reproduce reward` and what it shows beside the claims."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from data.durable import write_durably
from data.schemas import DOMAINS, STRENGTHS
from policy.evaluation.report_parts import charts, page, paragraph, table
from reward.claims import FRACTIONS, HELPFULNESS, MARGIN_MODELS, Pairs, accuracy
from reward.evaluate import ALL
from rlhf.claim_plots import accuracy_over_data, scores_by_margin
from rlhf.claims import over_seeds
from rlhf.cli.reproduce_page import INTERVALS, Results, claims_tables, figure
from rlhf.plot_parts import readable

SHARED = (
    " The seeds share world and chat model; each has its own responses, annotators, comparisons "
    "and reward models."
)


def accuracy_records(pairs: Pairs) -> list[dict[str, Any]]:
    """Accuracy of every model by domain and strength: mean over seeds, low, high."""
    return [
        {"model": model, "domain": domain, "strength": strength or ALL}
        | vars(over_seeds([accuracy(p, domain, strength) for p in of_seeds]))
        for model, of_seeds in pairs.items()
        for domain in DOMAINS
        for strength in (*STRENGTHS, None)
    ]


def data_records(pairs: Pairs) -> list[dict[str, Any]]:
    """Accuracy of the helpfulness model by share of the data and strength."""
    return [
        {"share": share, "strength": strength or ALL}
        | vars(over_seeds([accuracy(p, HELPFULNESS, strength) for p in pairs[model]]))
        for share, model in FRACTIONS.items()
        for strength in (*STRENGTHS, None)
    ]


def write_page(path: Path, results: Results, pairs: Pairs) -> None:
    """The page: opens offline, with every table and chart."""
    seeds = results["seeds"]
    bodies = {
        "Claims": paragraph(INTERVALS.format(seeds=seeds) + SHARED)
        + "\n".join(claims_tables(results)),
        "Accuracy": "\n".join(_accuracy(results)),
        "Margins": charts(scores_by_margin(_scores_of_margins(pairs), list(MARGIN_MODELS)))
        + paragraph("Scores on helpfulness comparisons of the test split, seed 0."),
        "Data": charts(_data_chart(results)),
    }
    title = "Llama 2's claims about reward models, on the built-in world"
    write_durably(path, page(title, f"<h1>{escape(title)}</h1>", bodies).encode())


def _accuracy(results: Results) -> Iterator[str]:
    """A table per domain: models down, strengths across (Tables 8 and 28)."""
    cells = {(r["model"], r["domain"], r["strength"]): r for r in results["accuracy"]}
    models = list(dict.fromkeys(r["model"] for r in results["accuracy"]))
    columns = [*STRENGTHS, ALL]
    for domain in DOMAINS:
        rows = [
            [readable(model), *(figure(_points(cells[model, domain, c])) for c in columns)]
            for model in models
        ]
        header = ["", *(readable(c).removesuffix(" better") for c in columns)]
        yield table(f"Accuracy on {domain} comparisons, %", header, rows)


def _points(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "unit": "points", "above": None}


def _scores_of_margins(pairs: Pairs) -> pd.DataFrame:
    """Of seed 0 alone: the level of the scores is free, and differs between seeds."""
    parts = []
    for margin, model in MARGIN_MODELS.items():
        own = pairs[model][0]
        own = own[own["domain"] == HELPFULNESS]
        long = own.melt(value_vars=["chosen", "rejected"], var_name="side", value_name="score")
        parts.append(long.assign(margin=margin))
    return pd.concat(parts, ignore_index=True)


def _data_chart(results: Results) -> Any:
    curve = pd.DataFrame(results["data"]).rename(columns={"mean": "accuracy"})
    curve = curve[curve["strength"] != ALL]
    names: Sequence[str] = [readable(name) for name in STRENGTHS]
    return accuracy_over_data(curve.assign(strength=curve["strength"].map(readable)), names)
