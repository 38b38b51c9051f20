"""`rlhf reward train`: the helpfulness and the safety reward model, and how good they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from data.chat_format import ChatFormat
from data.dataset import latest_revisions, read_table
from data.errors import ConfigError, DataError
from data.mixing import sample_without_replacement
from data.schemas import DOMAINS, SPLITS, STRENGTHS, Comparison, Domain, Split, from_table
from data.texts import read_texts
from data.tokenizer import Tokenizer, train_tokenizer
from policy.prompts import chat_format_of
from reward.baselines import BagOfWords, length_scores
from reward.combine import SAFETY_THRESHOLD as RULE
from reward.evaluate import (
    ALL,
    AccuracyTable,
    PairScores,
    accuracy_table,
    score_comparisons,
    write_scores,
)
from reward.mixture import Mixture, check_nothing_leaks, mix, weighted
from reward.score import ScoreWorker, model_directory
from reward.threshold import Detection, unsafe_found
from reward.train import RewardConfig, RewardTask, encode_pairs, reward_extras
from rlhf.actors.group import start_workers
from rlhf.actors.placement import Placement
from rlhf.cli.parsing import dump, parse
from rlhf.cli.runs import Restarts, begin, report_line, session
from rlhf.engine.base import EngineConfig
from rlhf.model.config import ModelConfig, named_size
from rlhf.model.weights import update_hf_config
from rlhf.run import Run, console, write_json
from rlhf.training import train

REFERENCE_SPLITS: tuple[Split, ...] = ("validation", "test", "train")
"""Where a model's mean score and deviation are taken, the first that has its domain."""
MOST_REFERENCES = 2048
"""Comparisons, drawn at random; a mean of so many is within 2 % of a standard deviation."""


@dataclass(frozen=True, kw_only=True)
class RewardTrainCommand:
    """Train reward models on comparisons and report their accuracy on the test split."""

    data: Path
    """Dataset of comparisons with training, validation and test splits."""
    model: Path | None = None
    """Chat model to start from; without one, a fresh model of `size` with its own tokenizer."""
    out: Path = Path("runs/reward")
    """The run directory; the models go to helpfulness/model and safety/model in it."""
    domains: tuple[Domain, ...] = DOMAINS
    """Which models to train."""
    size: str = "tiny"
    """Named size of a fresh model."""
    vocab_size: int = 2048
    """Pieces of a fresh tokenizer."""
    mixture: Mixture = Mixture()
    """What each model is trained on."""
    open_data: dict[str, float] = field(default_factory=dict)
    """Further datasets, as the paper's open-source ones: directory → weight, where 1 takes every
    training comparison once, 0.5 a random half and 2 each twice."""
    train: RewardConfig = RewardConfig()
    """Loss, batches and schedule of both models."""
    engine: EngineConfig = EngineConfig()
    """What runs the optimizer steps."""
    placement: Placement = Placement()
    """Where the workers of each model run."""
    max_restarts: int = 0
    """How often new workers take over from the last checkpoint where some died or hung."""

    def __post_init__(self) -> None:
        if not self.domains:
            raise ConfigError("domains is empty; name helpfulness, safety or both")
        for path, weight in self.open_data.items():
            if weight <= 0:
                raise ConfigError(f"open_data.{path} is {weight}; a weight must be above 0")


def main(argv: Sequence[str]) -> None:
    """Trains and evaluates the models, or finds them finished."""
    config = parse(RewardTrainCommand, argv, prog="rlhf reward train")
    comparisons = {split: _read(config.data, split) for split in SPLITS}
    _check_domains(config, comparisons["train"])
    open_data = _read_open_data(config, comparisons)
    if config.model is None:
        named_size(config.size, config.vocab_size)
    else:
        chat_format_of(config.model)
    restarts = Restarts(config.max_restarts)
    run = begin("reward train", config)
    if run is None:
        return
    start, tokenizer = _start(config, run)
    chat = ChatFormat(Tokenizer.load(tokenizer))
    tokens = 0.0
    with session(config.placement):
        for domain in config.domains:
            mixed = mix(
                comparisons["train"],
                domain,
                config.mixture,
                seed=config.train.seed,
                open_data=open_data,
            )
            held_out = [c for c in comparisons["validation"] if c.domain == domain]
            data = mixed, held_out
            tokens += _train_one(config, run, domain, data, start, tokenizer, restarts)
        scores = restarts.around(lambda: _score(config, run, comparisons, chat), run)
    tables = {name: accuracy_table(s, comparisons["test"]) for name, s in scores.items()}
    tables |= _baselines(comparisons)
    write_json(run.directory / "accuracy.json", tables)
    write_scores(run.directory / "scores.parquet", comparisons["test"], scores)
    found = {name: unsafe_found(s, comparisons["test"]) for name, s in scores.items()}
    write_json(run.directory / "unsafe.json", {n: [asdict(d) for d in f] for n, f in found.items()})
    for view in (*accuracy_views(tables), *unsafe_views(found)):
        console.print(view)
    run.finish(tokens=tokens)
    report_line("reward train", run, comparisons=len(comparisons["train"]))


def accuracy_views(
    tables: Mapping[str, AccuracyTable],
) -> Iterator[Table]:
    """Accuracy by model and strength, a table per domain of the data (Llama 2, Tables 7 and 8)."""
    for domain in DOMAINS:
        rows = {name: table[domain] for name, table in tables.items() if domain in table}
        columns = [c for c in (*STRENGTHS, ALL) if any(c in row for row in rows.values())]
        if not columns:
            continue
        title = f"Accuracy on {domain} comparisons of the test split, % [95 % interval]"
        view = Table(title=title, box=SIMPLE_HEAD, min_width=len(title))
        view.add_column("")
        for column in columns:
            view.add_column(column.removesuffix("_better").replace("_", " "), justify="right")
        for name, row in rows.items():
            view.add_row(name, *(accuracy_cell(row.get(column)) for column in columns))
        yield view


def unsafe_views(found: Mapping[str, Sequence[Detection]]) -> Iterator[Table]:
    """Unsafe responses that each model gives away, by threshold (Llama 2, Table 29)."""
    rows = {name: {d.threshold: d for d in detections} for name, detections in found.items()}
    if not any(rows.values()):
        return
    title = "Unsafe responses of the test split found by σ(score) [95 % interval]"
    view = Table(title=title, box=SIMPLE_HEAD, min_width=len(title))
    view.add_column("")
    for column in ("recall below 0.5", f"recall below {RULE}", f"precision below {RULE}"):
        view.add_column(column, justify="right")
    for name, at in rows.items():
        cells = (at[0.5].recall, at[RULE].recall, at[RULE].precision) if at else ("-",) * 3
        view.add_row(name, *map(str, cells))
    yield view


def accuracy_cell(cell: Mapping[str, Any] | None) -> str:
    """An accuracy of `accuracy_table` in percent with its interval; a dash where there is none."""
    if cell is None:
        return "-"
    return f"{100 * cell['accuracy']:.0f} [{100 * cell['low']:.0f},{100 * cell['high']:.0f}]"


def _check_domains(config: RewardTrainCommand, comparisons: Sequence[Comparison]) -> None:
    """Every model needs comparisons of its own domain."""
    found = {comparison.domain for comparison in comparisons}
    if not found:
        raise DataError(f"{str(config.data)!r} has no training split; nothing to learn from")
    missing = [domain for domain in config.domains if domain not in found]
    if missing:
        raise DataError(
            f"the training split of {str(config.data)!r} has no {missing[0]} comparisons; give "
            f"--domains '[{', '.join(sorted(found))}]'"
        )


def _read(directory: Path, split: Split) -> list[Comparison]:
    return from_table(latest_revisions(read_table(directory, Comparison, split=split)), Comparison)


def _read_open_data(
    config: RewardTrainCommand, comparisons: Mapping[Split, list[Comparison]]
) -> list[Comparison]:
    """The training splits of the further datasets by their weights, once nothing leaks."""
    name = str(config.data)
    open_train = {path: _read(Path(path), "train") for path in config.open_data}
    open_test = {path: _read(Path(path), "test") for path in config.open_data}
    learned = {name: comparisons["train"] + comparisons["validation"]} | open_train
    check_nothing_leaks(learned, {name: comparisons["test"]} | open_test)
    seed = config.train.seed
    parts = (weighted(open_train[p], w, seed=seed) for p, w in config.open_data.items())
    return [comparison for part in parts for comparison in part]


def _start(config: RewardTrainCommand, run: Run) -> tuple[Path | ModelConfig, Path]:
    """What the models start from, and where their tokenizer is."""
    if config.model is not None:
        return config.model, config.model
    console.print(
        f"no --model: starting from random weights of size {config.size!r}, "
        "with a tokenizer trained on the training split",
        highlight=False,
    )
    directory = run.directory / "tokenizer"
    if not (directory / "tokenizer.model").is_file():
        train_tokenizer(read_texts(config.data), config.vocab_size).save(directory)
    return named_size(config.size, Tokenizer.load(directory).vocab_size), directory


def _train_one(
    config: RewardTrainCommand,
    parent: Run,
    domain: Domain,
    data: tuple[list[Comparison], list[Comparison]],
    start: Path | ModelConfig,
    tokenizer: Path,
    restarts: Restarts,
) -> float:
    """Trains the model of a domain in its own run directory; returns the tokens it took in.

    `data` is what it learns and what it is validated on.
    """
    run = Run(parent.directory / domain, f"reward train {domain}", dump(config))
    if run.finished:
        return 0.0
    pieces = Tokenizer.load(tokenizer)
    train_config = config.train
    if domain == "helpfulness":  # the auxiliary loss is the safety model's (section 3.2.2)
        train_config = replace(train_config, safety_coef=0.0)
    mixed, held_out = data
    task = RewardTask(
        start=start,
        tokenizer=tokenizer,
        train=encode_pairs(mixed, pieces, train_config),
        validation=encode_pairs(held_out, pieces, train_config),
        config=train_config,
    )
    figures = restarts.around(
        lambda: train(
            task,
            run,
            optim=config.train.optim,
            engine=config.engine,
            loop=config.train.loop,
            placement=config.placement,
            name=f"{domain} reward",
        ),
        run,
    )
    run.finish(**figures)
    report_line(f"reward train {domain}", run, comparisons=len(mixed), **figures)
    return figures["tokens"]


def _score(
    config: RewardTrainCommand,
    run: Run,
    comparisons: Mapping[Split, Sequence[Comparison]],
    chat: ChatFormat,
) -> dict[str, PairScores]:
    """Each model's scores of the test split; those of its reference set go into its config.json."""
    scores: dict[str, PairScores] = {}
    for domain in config.domains:
        model = model_directory(run.directory, domain)
        split, reference = _reference(comparisons, domain, config.train.seed)
        with start_workers(
            ScoreWorker, config.placement, model, name=f"{domain} scorer"
        ) as workers:
            found, known = (
                score_comparisons(workers, rows, chat, config.train.max_length)
                for rows in (comparisons["test"], reference)
            )
        told = f"{split} split, {2 * len(reference)} responses on {domain}"
        update_hf_config(model, reward_extras([*known.chosen, *known.rejected], told))
        scores[domain] = found
    return scores


def _reference(
    comparisons: Mapping[Split, Sequence[Comparison]], domain: Domain, seed: int
) -> tuple[Split, list[Comparison]]:
    """Comparisons of a domain that were not learned from, where there are any, and their split."""
    for split in REFERENCE_SPLITS:
        own = [c for c in comparisons[split] if c.domain == domain]
        if own:
            return split, sample_without_replacement(own, MOST_REFERENCES, seed=seed)
    raise DataError(f"there are no {domain} comparisons")  # `_check_domains` has seen to that


def _baselines(comparisons: Mapping[Split, list[Comparison]]) -> dict[str, AccuracyTable]:
    """Accuracy of what costs nothing, on the same split."""
    test = comparisons["test"]
    if not test:
        return {}
    words: AccuracyTable = {}
    for domain in DOMAINS:
        train_rows = [c for c in comparisons["train"] if c.domain == domain]
        test_rows = [c for c in test if c.domain == domain]
        if len(train_rows) >= 10 and test_rows:
            found = PairScores(*BagOfWords(train_rows).scores(test_rows))
            words |= accuracy_table(found, test_rows)
    longer = accuracy_table(PairScores(*length_scores(test)), test)
    return {"the longer wins": longer, "bag of words": words}
