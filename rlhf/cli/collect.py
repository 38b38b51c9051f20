"""`rlhf collect`: pairs of responses, judged by the built-in world's annotators or by people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.chat_format import ChatFormat
from data.dataset import Batch, publish_many, read_rows
from data.errors import ConfigError, DataError, require_not_negative, require_positive
from data.mixing import epoch_order
from data.records import write_records
from data.schemas import DOMAINS, Comparison, Prompt, Split
from data.simulation.annotators import draw_annotators
from policy.collect import CollectionConfig, Variant, pairs_to_compare, simulate_comparisons
from policy.evaluation.gold import check_gold_facts
from policy.prompts import PromptSet, chat_format_of, check_room, check_same_tokenizer
from rlhf.actors.group import start_workers
from rlhf.actors.placement import Placement
from rlhf.actors.workers import GenerateWorker, generate_with
from rlhf.cli.parsing import parse
from rlhf.cli.runs import begin, report_line, session
from rlhf.generation.sampling import SamplingConfig
from rlhf.run import console
from rlhf.types import Rollout

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Pair = tuple[Sequence[Rollout], Sequence[Rollout]]
"""One response per prompt from each variant."""


@dataclass(frozen=True, kw_only=True)
class CollectCommand:
    """Sample two responses per prompt from two model variants and have them compared."""

    model: Path
    """Directory of the first variant."""
    other_model: Path
    """Directory of the second variant, trained from the same chat model; may be the same."""
    temperatures: tuple[float, float] = (0.8, 1.0)
    """Sampling temperature of each variant."""
    prompts: Path
    """Dataset of prompts; of the built-in world's, each split becomes a split of comparisons."""
    num_prompts: int | None = None
    """Of each split at most so many prompts, in an order drawn by judge.seed; all unless given."""
    part: int = 0
    """Which ones: part 0 takes the first num_prompts of that order, part 1 the next, and so on."""
    names: tuple[str, str] | None = None
    """What the comparisons call the variants; unless given, as their run directories are called."""
    out: Path = Path("runs/collect")
    """The run directory; the comparisons are published to its comparisons/."""
    max_new_tokens: int = 64
    """Responses are cut at this many tokens."""
    annotators_seed: int = 0
    """Draws the team of annotators."""
    judge: CollectionConfig = CollectionConfig()
    """How the pairs are judged."""
    judged: bool = True
    """false leaves the pairs of the training split to people: pairs-helpfulness.parquet and
    pairs-safety.parquet are batches for the annotation app."""
    placement: Placement = Placement()
    """Where the samplers run."""

    @property
    def models(self) -> tuple[Path, Path]:
        """Both variants."""
        return self.model, self.other_model

    def __post_init__(self) -> None:
        require_positive(self, "max_new_tokens")
        require_not_negative(self, "annotators_seed", "part")
        if self.num_prompts is not None:
            require_positive(self, "num_prompts")
        elif self.part:
            raise ConfigError(f"part is {self.part}; say how many prompts a part has: num_prompts")
        if min(self.temperatures) < 0:
            raise ConfigError(f"temperatures are {self.temperatures}; they must be 0 or more")


def main(argv: Sequence[str]) -> None:
    """Samples, judges and publishes, or finds it done."""
    config = parse(CollectCommand, argv, prog="rlhf collect")
    chat = chat_format_of(config.model)
    check_same_tokenizer(config.model, config.other_model)
    prompts = _read_prompts(config, chat)
    run = begin("collect", config)
    if run is None:
        return
    with session(config.placement):
        first, second = (_sample(config, prompts, chat, index) for index in (0, 1))
    pairs = {split: (first[split], second[split]) for split in prompts}
    if config.judged:
        counts = _publish(config, run.directory, prompts, pairs, chat)
    else:
        counts = _write_pairs(config, run.directory, prompts["train"], pairs["train"], chat)
    tokens = sum(len(r.response_ids) for pair in pairs.values() for side in pair for r in side)
    run.finish(comparisons=counts, tokens=tokens)
    report_line("collect", run, **counts)


def _publish(
    config: CollectCommand,
    directory: Path,
    prompts: Mapping[Split, PromptSet],
    pairs: Mapping[Split, Pair],
    chat: ChatFormat,
) -> dict[str, int]:
    """Comparisons by the built-in annotators; returns how many of each split."""
    annotators = draw_annotators(config.annotators_seed)
    batches: list[Batch[Comparison]] = []
    for split, rows in prompts.items():
        judged = simulate_comparisons(
            rows, pairs[split], _variants(config), annotators, chat, config.judge
        )
        batches.append(Batch(split=split, key=f"batch-{config.judge.batch}", rows=list(judged)))
    publish_many(directory / "comparisons", batches, Comparison)
    return {batch.split: len(batch.rows) for batch in batches}


def _write_pairs(
    config: CollectCommand, directory: Path, prompts: PromptSet, pair: Pair, chat: ChatFormat
) -> dict[str, int]:
    """Pairs for people to compare; returns how many of each domain."""
    items = list(pairs_to_compare(prompts, pair, _variants(config), chat))
    counts: dict[str, int] = {}
    for domain in DOMAINS:
        rows = [item for guidelines, item in items if guidelines == domain]
        if rows:
            write_records(directory / f"pairs-{domain}.parquet", rows)
        counts[domain] = len(rows)
    return counts


def _read_prompts(config: CollectCommand, chat: ChatFormat) -> dict[Split, PromptSet]:
    """The prompts of every split that has some, or the part of them that is asked for."""
    prompts: dict[Split, PromptSet] = {}
    for split in SPLITS if config.judged else ("train",):
        rows = read_rows(config.prompts, Prompt, split)
        if not rows:
            continue
        if config.judged:
            check_gold_facts(rows)
        prompts[split] = PromptSet.encode(_part(config, rows), chat)
        for model in config.models:
            check_room(prompts[split], model)
    if not prompts:
        raise DataError(f"{str(config.prompts)!r} has no prompts; name a dataset that has some")
    return prompts


def _part(config: CollectCommand, rows: Sequence[Prompt]) -> Sequence[Prompt]:
    """The prompts of this part, none twice; after the last part another order begins."""
    if config.num_prompts is None:
        return rows
    size = min(config.num_prompts, len(rows))
    epoch, place = divmod(config.part, len(rows) // size)
    order = epoch_order(len(rows), seed=config.judge.seed, epoch=epoch)
    return [rows[int(i)] for i in order[place * size : (place + 1) * size]]


def _sample(
    config: CollectCommand, prompts: dict[Split, PromptSet], chat: ChatFormat, index: int
) -> dict[Split, list[Rollout]]:
    """One response per prompt from one of the variants."""
    sampling = SamplingConfig(
        temperature=config.temperatures[index], max_new_tokens=config.max_new_tokens
    )
    model = config.models[index]
    with (
        console.status(f"sampling from {model}"),
        start_workers(GenerateWorker, config.placement, model, name="generator") as workers,
    ):
        return {
            split: generate_with(
                workers,
                split_prompts.ids,
                sampling,
                eos_id=chat.tokenizer.eos_id,
                seed=2 * config.judge.seed + index,
            )
            for split, split_prompts in prompts.items()
        }


def _variants(config: CollectCommand) -> tuple[Variant, Variant]:
    """By their names, or those of their run directories."""
    first, second = config.names or (
        model.parent.name if model.name == "model" else model.name for model in config.models
    )
    return (
        Variant(name=first, temperature=config.temperatures[0]),
        Variant(name=second, temperature=config.temperatures[1]),
    )
