"""What `rlhf rounds` shows of its progress: rounds.json, a table and progress.svg."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from data.durable import write_durably
from data.schemas import DOMAINS
from policy.evaluation.progress import RoundResult, policy_records
from policy.samples import SAMPLES_FILE, read_samples
from reward.evaluate import ALL
from rlhf.cli.evaluating import win_rate_cell
from rlhf.cli.reward_train import accuracy_cell
from rlhf.cli.rounds_comparisons import read_counts
from rlhf.run import console, read_json, write_json

RESULTS_FILE = "rounds.json"
CHART_FILE = "progress.svg"
JUDGES = {"by_gold": "judged by gold", "by_rewards": "judged by reward models"}

EVEN = dict.fromkeys(("win_rate", "win_rate_low", "win_rate_high"), 0.5)


def write_progress(out: Path, rounds: int, made_in: Mapping[str, int]) -> None:
    """rounds.json and progress.svg, from what the stages of so many rounds have left.

    Args:
        out: run directory of `rlhf rounds`.
        rounds: how many; the last one's evaluation has every policy, judged by its reward models.
        made_in: policy → round that made it, 0 for the chat model, in order.
    """
    evaluation = out / f"round_{rounds}" / "evaluation"
    gold = evaluation / "gold.json"
    records = policy_records(
        made_in,
        read_samples(evaluation / SAMPLES_FILE),
        read_json(gold) if gold.exists() else {},
    )
    results = [_round_result(out / f"round_{n}", n).to_record() for n in range(1, rounds + 1)]
    judge = f"round_{rounds}/reward"
    content = {"rounds": results, "policies": records, "reward_models": judge}
    write_json(out / RESULTS_FILE, content)
    points = pd.DataFrame(_points(records))
    if not points.empty:
        _write_chart(out / CHART_FILE, points)


def show_progress(out: Path) -> None:
    """rounds.json on the terminal: a table of the rounds and one of the policies."""
    content = read_json(out / RESULTS_FILE)
    models = [f"{domain} model" for domain in DOMAINS]
    view = _table(
        "Rounds: comparisons, accuracy on the test split, % [95 % interval]",
        ("round", "new", "so far", *models),
    )
    for result in content["rounds"]:
        counts = (result["round"], result["comparisons"], result["comparisons_so_far"])
        cells = (accuracy_cell(result["reward_accuracy"][domain]) for domain in DOMAINS)
        view.add_row(*(f"{count:,}" for count in counts), *cells)
    console.print(view)
    view = _table(
        f"Policies: gold, and win rates against SFT [95 %]; models: {content['reward_models']}",
        ("policy", "helpful", "violations", "wins by gold", "wins by reward models"),
    )
    for record in content["policies"]:
        view.add_row(policy_title(record["policy"]), *_cells(record))
    console.print(view)
    if (out / CHART_FILE).exists():
        console.print(f"open {out / CHART_FILE}", highlight=False, soft_wrap=True)


def policy_title(name: str) -> str:
    """As the paper calls it: SFT, V1, V5 + PPO."""
    return name.upper().replace("_", " + ")


def _round_result(directory: Path, number: int) -> RoundResult:
    counts = read_counts(directory)
    return RoundResult(
        number=number,
        comparisons=counts.comparisons,
        comparisons_so_far=counts.so_far,
        accuracy=read_json(directory / "reward" / "accuracy.json"),
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    view = Table(title=title, box=SIMPLE_HEAD, min_width=len(title))
    for column in columns:
        view.add_column(column, justify="left" if column == columns[0] else "right")
    return view


def _cells(record: Mapping[str, Any]) -> Iterator[str]:
    """What is known of a policy; the chat model is compared with nobody."""
    yield _shown(record.get("gold_helpfulness"), ".3f")
    yield _shown(record.get("violation_rate"), ".1%")
    for judge in JUDGES:
        yield win_rate_cell(record.get(judge, {}).get(ALL, {}))


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _points(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A point per judge and policy with a rate on both axes; the chat model is at even odds."""
    for judge, title in JUDGES.items():
        judged = [record for record in records if judge in record]
        for record in (records[0], *judged) if judged else ():
            point: dict[str, Any] = {"judge": title, "policy": policy_title(record["policy"])}
            for domain in DOMAINS:
                cell = record[judge][domain] if judge in record else EVEN
                ends = {f"{domain}_{end}": cell[f"win_rate_{end}"] for end in ("low", "high")}
                point |= {domain: cell["win_rate"], **ends}
            if None not in point.values():
                yield point


def _write_chart(path: Path, points: pd.DataFrame) -> None:
    import vl_convert

    from rlhf.progress_plots import progress_over_rounds

    svg = vl_convert.vegalite_to_svg(progress_over_rounds(points).to_json())
    write_durably(path, svg.encode())
