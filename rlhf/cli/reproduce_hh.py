"""`rlhf reproduce hh`: reward models on what real people preferred (Bai et al. 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from data.errors import ConfigError, require_positive
from data.importers.hh_rlhf import domain_of
from data.intervals import proportion
from data.schemas import DOMAINS
from reward.evaluate import ALL
from rlhf.actors.placement import Placement
from rlhf.claims import over_seeds
from rlhf.cli.parsing import parse
from rlhf.cli.quickstart import configs_directory
from rlhf.cli.reproduce_page import RESULTS_FILE
from rlhf.cli.runs import report_line
from rlhf.cli.stages import placed, placement_of, run_stages
from rlhf.run import Run, console, read_json, write_json

BOTH = "both"
STAGES = {
    "data": "data import hh-rlhf --test 0.2",
    "tokenizer": "tokenizer train --input {out}/data --vocab_size 2048",
    "pretrain": "pretrain --config {configs}/pretrain.yaml --corpus {out}/data "
    "--tokenizer {out}/tokenizer --train.epochs 4",
}
"""What the seeds share; of the dialogues, only those of the training split are read."""
REWARD = (
    "reward train --config {configs}/reward_hh.yaml --model {out}/pretrain/model "
    "--data {out}/data --train.seed {seed}"
)


@dataclass(frozen=True, kw_only=True)
class ReproduceHhCommand:
    """Train reward models on Anthropic's HH, several seeds, and set them beside two baselines."""

    files: tuple[Path, ...]
    """Transcripts of the publisher: helpful and harmless ones."""
    out: Path = Path("runs/reproduce_hh")
    """Run directory; each stage has its own in it. Started again, finished stages are kept."""
    seeds: int = 3
    """How many; each draws the heads and the order of the comparisons."""
    workers: int = 2
    """Data-parallel workers of every stage; with one, neither Ray nor DeepSpeed is used."""

    def __post_init__(self) -> None:
        require_positive(self, "seeds", "workers")
        missing = set(DOMAINS) - {domain_of(path) for path in self.files}
        if missing:
            raise ConfigError(f"no file has {missing.pop()} comparisons; name helpful and harmless")

    @property
    def placement(self) -> Placement:
        """Of every stage that has workers."""
        return placement_of(self.workers)


def main(argv: Sequence[str]) -> None:
    """Imports, pretrains, trains every seed, and writes reproduce.json."""
    config = parse(ReproduceHhCommand, argv, prog="rlhf reproduce hh", positionals={"files": "+"})
    settings = {
        "out": str(config.out),
        "seeds": config.seeds,
        "files": list(map(str, config.files)),
    }
    run = Run(config.out, "reproduce hh", settings)
    if not run.finished:
        run_stages(config.out, list_stages(config), config.placement)
        tables = [
            read_json(config.out / f"seed-{seed}" / "accuracy.json") for seed in range(config.seeds)
        ]
        write_json(config.out / RESULTS_FILE, {"seeds": config.seeds, "rows": rows_of(tables)})
        run.finish()
        report_line("reproduce hh", run, seeds=config.seeds)
    console.print(accuracy_view(read_json(config.out / RESULTS_FILE)))


def list_stages(config: ReproduceHhCommand) -> dict[str, list[str]]:
    """Directory → the words of its command, in order."""
    places = {"out": config.out, "configs": configs_directory()}
    stages = {name: [w.format(**places) for w in text.split()] for name, text in STAGES.items()}
    stages["data"] += [str(path) for path in config.files]
    stages["pretrain"] = placed(stages["pretrain"], config.placement)
    for seed in range(config.seeds):
        words = [word.format(**places, seed=seed) for word in REWARD.split()]
        stages[f"seed-{seed}"] = placed(words, config.placement)
    return stages


def rows_of(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy of the reward models and of the baselines by domain and on both.

    Args:
        tables: accuracy.json of each seed. The test split is the same, and so are the baselines.

    Returns:
        scorer, domain, n, the mean over seeds with its interval by Student's t (`seeds_low`,
        `seeds_high`; none for baselines), and Wilson's interval of that mean on n comparisons.
    """
    baselines = [name for name in tables[0] if name not in DOMAINS]
    rows = []
    for scorer in ("reward models", *baselines):
        by_seed = [_accuracies(table, scorer) for table in tables]
        for domain, (_, n) in by_seed[0].items():
            values = [seed[domain][0] for seed in by_seed]
            found = over_seeds(values if scorer not in baselines else values[:1])
            wilson = proportion(found.mean * n, n)
            rows.append(
                {"scorer": scorer, "domain": domain, "n": n, "mean": found.mean}
                | {"seeds_low": found.low, "seeds_high": found.high}
                | {"low": wilson.low, "high": wilson.high}
            )
    return rows


def accuracy_view(results: Mapping[str, Any]) -> Table:
    """Rows of `rows_of` on the terminal."""
    title = f"Accuracy on HH's test split, % (means over {results['seeds']} seeds)"
    view = Table(title=title, box=SIMPLE_HEAD)
    for column in ("", "data", "mean", "over seeds", "on this test split", "comparisons"):
        view.add_column(column, justify="right" if column not in ("", "data") else "left")
    for row in results["rows"]:
        seeds = _ends(row["seeds_low"], row["seeds_high"])
        test = _ends(row["low"], row["high"])
        cells = (f"{100 * row['mean']:.1f}", seeds, test, f"{row['n']:,}")
        view.add_row(row["scorer"], row["domain"], *cells)
    return view


def _accuracies(table: Mapping[str, Any], scorer: str) -> dict[str, tuple[float, int]]:
    """Domain → accuracy and comparisons; each domain is judged by its own reward model."""
    found: dict[str, tuple[float, int]] = {}
    for domain in DOMAINS:
        cell = table[domain if scorer == "reward models" else scorer][domain][ALL]
        found[domain] = (cell["accuracy"], cell["n"])
    total = sum(n for _, n in found.values())
    found[BOTH] = (sum(value * n for value, n in found.values()) / total, total)
    return found


def _ends(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"
