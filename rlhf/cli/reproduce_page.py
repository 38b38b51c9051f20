"""What the pages of `rlhf reproduce …` share: claims with their figures and verdicts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from policy.evaluation.report_parts import table
from rlhf.claims import Interval
from rlhf.run import console, read_json

RESULTS_FILE = "reproduce.json"
Results = Mapping[str, Any]
COLORS = {"holds": "green", "does not hold": "red", "not clear": "yellow"}
INTERVALS = (
    "Means over {seeds} seeds with 95 % intervals (Student's t). A claim holds where the whole "
    "interval of every measure is above its bound, does not hold where none of the interval of one "
    "is, and is not clear in between."
)


def show_claims(out: Path) -> None:
    """What a finished run has found, on the terminal, and where its page is."""
    for view in claims_views(read_json(out / RESULTS_FILE)):
        console.print(view)
    console.print(f"open {out / 'report.html'}", highlight=False, soft_wrap=True)


def claims_views(results: Results) -> Iterator[Table]:
    """Claim by claim on the terminal: the verdict, and the figures under it."""
    for claim in results["claims"]:
        color = COLORS[claim["verdict"]]
        title = f"{claim['sentence']} ({claim['source']}): [{color}]{claim['verdict']}[/]"
        view = Table(title=title, box=SIMPLE_HEAD, title_justify="left", min_width=78)
        view.add_column("", overflow="fold")
        view.add_column("mean [95 % interval]", justify="right")
        view.add_column("verdict")
        for measure in claim["measures"]:
            view.add_row(measure["name"], figure(measure), measure["verdict"] or "")
        yield view


def figure(measure: Mapping[str, Any]) -> str:
    """Mean and interval in the measure's unit, and its bound unless that is 0."""
    scale = 100 if measure["unit"] == "points" else 1
    ends = (measure[name] for name in ("mean", "low", "high"))
    found = Interval(*(None if end is None else scale * end for end in ends))  # type: ignore[arg-type]
    bound = f" (claim: > {scale * measure['above']:g})" if measure["above"] else ""
    return f"{found}{bound}"


def claims_tables(results: Results) -> Iterator[str]:
    """The same for the page, with the figures of every seed."""
    header = ["", "mean [95 % interval]", "verdict", "by seed"]
    for claim in results["claims"]:
        caption = f"{claim['sentence']} ({claim['source']}): {claim['verdict']}"
        rows = [[m["name"], figure(m), m["verdict"] or "", _by_seed(m)] for m in claim["measures"]]
        yield table(caption, header, rows)


def _by_seed(measure: Mapping[str, Any]) -> str:
    scale = 100 if measure["unit"] == "points" else 1
    return ", ".join(f"{scale * value:.2f}" for value in measure["values"])
