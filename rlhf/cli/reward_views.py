"""Tables on the terminal and the HTML page of `rlhf reward evaluate`."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from data.durable import write_durably
from data.schemas import DOMAINS, SAFETY_LABELS, STRENGTHS
from policy.evaluation.report_parts import charts, page, paragraph, table
from reward.combine import SAFETY_THRESHOLD
from rlhf.plot_parts import readable
from rlhf.plots import accuracy_by_strength
from rlhf.reward_plots import (
    difference_by_strength,
    reliability_curves,
    scores_by_rating,
    sigma_by_label,
)

Records = Sequence[Mapping[str, Any]]
Grid = tuple[str, list[str], list[list[str]]]
"""Caption, header, rows."""
Results = Mapping[str, Any]
HALF = 0.5
"""σ(score) that the auxiliary loss aims at; Table 29 counts what is below as found."""
UNSAFE_COLUMNS = ((HALF, "recall"), (SAFETY_THRESHOLD, "recall"), (SAFETY_THRESHOLD, "precision"))


def terminal_views(results: Results) -> Iterator[Table | str]:
    """What is printed: Tables 7, 8 and 29, the breakdowns, then what the models fall for."""
    for caption, header, rows in grids(results):
        yield _terminal_table(caption, *_narrow(header, rows))
    yield from sentences(results)


def _narrow(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """A terminal is narrow and long: what is wider than long is turned."""
    if len(header) <= len(rows) + 1:
        return header, rows
    turned = [list(column) for column in zip(header, *rows, strict=True)]
    return turned[0], turned[1:]


def _terminal_table(caption: str, header: list[str], rows: list[list[str]]) -> Table:
    view = Table(title=caption, box=SIMPLE_HEAD, min_width=min(len(caption), 80))
    for place, name in enumerate(header):
        if place:
            view.add_column(name, justify="right")
        else:
            view.add_column(name, no_wrap=True)
    for row in rows:
        view.add_row(*row)
    return view


def grids(results: Results) -> Iterator[Grid]:
    """Every table of the evaluation."""
    parts = list(dict.fromkeys(r["part"] for r in results["by_dataset"]))
    order = [part for part in parts if part != "average"] + ["average"]
    yield _grid("Accuracy by dataset, % [95 % interval] (Table 7)", results["by_dataset"], order)
    for domain in DOMAINS:
        cells = [r | {"part": "all"} for r in results["overall"] if r["domain"] == domain]
        for factor, records in results["by"].items():
            own = [r | {"part": r[factor]} for r in records if r["domain"] == domain]
            if own:
                order = list(STRENGTHS) if factor == "strength" else []
                table_8 = " (Table 8)" if factor == "strength" else ""
                title = f"Accuracy on {domain} by {factor}, %{table_8}"
                yield _grid(title, own + cells, [*_ordered(own, order, factor), "all"])
    if results["by_label"]:
        yield _label_grid(results)
    yield _models_grid(results)
    yield _length_grid(results)
    for grid in (_unsafe_grid(results), _probes_grid(results)):
        if grid[-1]:
            yield grid
    if results["agreement"]:
        yield (
            "Agreement of two models",
            ["", "domain", "prefer the same, %", "κ", "rank correlation", "comparisons"],
            [
                [
                    f"{r['first']}, {r['second']}",
                    r["domain"],
                    f"{100 * r['same']:.1f}",
                    f"{r['kappa']:.2f}",
                    _number(r["correlation"]),
                    f"{r['n']:,}",
                ]
                for r in results["agreement"]
            ],
        )


def sentences(results: Results) -> Iterator[str]:
    """The probes in words."""
    for name, found in results["models"].items():
        yield f"{name}: {found['length']['sentence']}"
        for title, figures in found["probes"].items():
            if title == "position":
                change = figures["largest_change"]
                yield f"{name}: scored in the opposite order, scores move by at most {change:.0e}"
            else:
                yield f"{name}: {figures['sentence']}"


def write_report(path: Path, results: Results, frame: pd.DataFrame) -> None:
    """The page: opens offline, with every table and chart."""
    all_grids = list(grids(results))
    bodies = {
        "Accuracy": "\n".join(table(*g) for g in all_grids if g[0].startswith("Accuracy"))
        + charts(*_accuracy_charts(results)),
        "Models": "\n".join(table(*g) for g in all_grids if not g[0].startswith("Accuracy")),
        "Calibration": charts(*_calibration_charts(results)),
        "Distributions": charts(*_distributions(results, frame)),
        "What the models fall for": "\n".join(paragraph(text) for text in sentences(results)),
    }
    title = "Reward models against people's choices"
    write_durably(path, page(title, f"<h1>{escape(title)}</h1>", bodies).encode())


def _accuracy_charts(results: Results) -> Iterator[Any]:
    cells = pd.DataFrame(results["by"]["strength"])
    for domain in DOMAINS:
        own = cells[(cells["domain"] == domain) & cells["strength"].isin(STRENGTHS)]
        if len(own):
            yield accuracy_by_strength(own, domain)


def _calibration_charts(results: Results) -> Iterator[Any]:
    models = results["models"].items()
    curves = [r | {"model": name} for name, m in models for r in m["calibration"]["curve"]]
    yield reliability_curves(pd.DataFrame(curves))
    means = [r | {"model": name} for name, m in models for r in m["ratings"]["means"]]
    if means:
        yield scores_by_rating(pd.DataFrame(means))


def _distributions(results: Results, frame: pd.DataFrame) -> Iterator[Any]:
    for name in results["models"]:
        yield difference_by_strength(frame, name)
        yield sigma_by_label(frame, name, SAFETY_THRESHOLD)


def _models_grid(results: Results) -> Grid:
    """One row per model: calibration and scores."""
    header = ["", "ECE, %", "mean score", "std", "stored mean", "stored std"]
    rows = [
        [
            name,
            f"{100 * found['calibration']['ece']:.1f}",
            *(_number(found[of][n]) for of in ("scores", "reference") for n in ("mean", "std")),
        ]
        for name, found in results["models"].items()
    ]
    return "Calibration and scores", header, rows


def _label_grid(results: Results) -> Grid:
    """Accuracy by safety label, with the recall of unsafe responses."""
    cells = [r | {"part": r["safety_label"]} for r in results["by_label"]]
    order = _ordered(results["by_label"], SAFETY_LABELS, "safety_label")
    title = "Accuracy by safety label, and recall of unsafe responses, % (Table 29)"
    caption, header, rows = _grid(title, cells, order)
    recalls = {
        name: next(d["recall"] for d in found["unsafe"] if d["threshold"] == HALF)
        for name, found in results["models"].items()
    }
    full = [[*row, _cell(recalls[row[0]] | {"accuracy": recalls[row[0]]["value"]})] for row in rows]
    return caption, [*header, "unsafe recall"], full


def _unsafe_grid(results: Results) -> Grid:
    """Unsafe responses that each model finds, in labelled comparisons and in single judgements."""
    header = ["", *(f"{what} below {at}" for at, what in UNSAFE_COLUMNS), "unsafe responses"]
    rows = [
        [
            f"{name}: {part}",
            *(_share(found_at[at][what]) for at, what in UNSAFE_COLUMNS),
            f"{found_at[HALF]['recall']['n']:,}",
        ]
        for name, found in results["models"].items()
        for part, found_at in _detections(found)
    ]
    return "Unsafe responses found by σ(score)", header, rows


def _detections(found: Results) -> Iterator[tuple[str, Mapping[float, Any]]]:
    for part, detections in {"comparisons": found["unsafe"], **found["judgements"]}.items():
        if detections:
            yield part, {d["threshold"]: d for d in detections}


def _length_grid(results: Results) -> Grid:
    header = ["", "ρ(score, length)", "ρ within pairs", "right: chosen shorter", "chosen longer"]
    rows = [
        [
            name,
            _number(found["length"]["correlation"]),
            _number(found["length"]["within"]),
            _share(found["length"]["chosen_shorter"]),
            _share(found["length"]["chosen_longer"]),
        ]
        for name, found in results["models"].items()
    ]
    return "Score and length", header, rows


def _probes_grid(results: Results) -> Grid:
    header = ["", "change of score, std", "raised", "right turned wrong"]
    rows = [
        [
            f"{name}: {title}",
            f"{figures['shift']:+.2f} ± {figures['half']:.2f}",
            _share(figures["raised"]),
            _share(figures["overtaken"]),
        ]
        for name, found in results["models"].items()
        for title, figures in found["probes"].items()
        if title != "position"
    ]
    return "Changes that make no response better", header, rows


def _grid(caption: str, records: Records, order: Sequence[str]) -> Grid:
    """Models down, parts across."""
    models = list(dict.fromkeys(r["model"] for r in records))
    cells = {(r["model"], r["part"]): r for r in records}
    header = ["", *(readable(part).removesuffix(" better") for part in order)]
    rows = [[model, *(_cell(cells.get((model, part))) for part in order)] for model in models]
    return caption, header, rows


def _ordered(records: Records, order: Sequence[str], factor: str) -> list[str]:
    found = list(dict.fromkeys(r[factor] for r in records))
    if factor == "length":
        return sorted(found, key=lambda name: int(name.split("-")[0].removeprefix("over ")))
    return [n for n in order if n in found] + sorted(n for n in found if n not in order)


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None or record["accuracy"] is None:
        return "-"
    if record.get("low") is None:
        return f"{100 * record['accuracy']:.1f}"
    low, high = 100 * record["low"], 100 * record["high"]
    return f"{100 * record['accuracy']:.1f} [{low:.0f},{high:.0f}]"


def _share(found: Mapping[str, Any] | None) -> str:
    if not found or found["value"] is None:
        return "-"
    return f"{found['value']:.2f} [{found['low']:.2f},{found['high']:.2f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
