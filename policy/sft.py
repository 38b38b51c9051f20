"""Supervised fine-tuning (Llama 2, section 3.1).

Prompts and answers are concatenated so that rows are full, a special token stands between prompt
and answer, and only answer tokens (their EOS included) are learned:

    L = − Σ_{t ∈ answers} log π(y_t | y_<t) / |answers|

Where we differ: a document mask keeps the dialogues of one row from seeing each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.chat_format import ChatFormat
from data.errors import DataError, require_not_negative, require_positive
from data.mixing import sample_without_replacement
from data.packing import PackedRows, pack
from data.schemas import Demonstration, Prompt
from data.tokenizer import Tokenizer
from policy.language_task import LanguageTask, steps_for
from policy.prompts import PromptSet, context_of
from policy.samples import read_samples, sample_records, write_samples
from rlhf.actors.group import WorkerGroup
from rlhf.actors.placement import Placement
from rlhf.actors.workers import share_out
from rlhf.engine.base import EngineConfig
from rlhf.engine.optim import OptimConfig
from rlhf.generation.sampling import SamplingConfig
from rlhf.run import Run
from rlhf.training import LoopConfig, TrainWorker, Watch, train

ANSWERS_FILE = "validation_samples.parquet"
"""What the model answered at each validation, beside what it should have."""


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """One fine-tuning run. Defaults follow Llama 2 section 3.1 unless a field says otherwise."""

    row_length: int = 4096
    """Tokens per packed row; a dialogue may be as long, or as the model's context if that is
    shorter."""
    batch_rows: int = 64
    """Rows per optimizer step over all workers."""
    micro_batch_rows: int = 1
    """Rows per forward pass on one worker; memory, not results, depends on it."""
    epochs: float = 2.0
    """Passes over the demonstrations."""
    seed: int = 0
    """Draws the order of the rows."""
    optim: OptimConfig = OptimConfig(lr=2e-5)
    """Cosine from 2e-5, weight decay 0.1."""
    loop: LoopConfig = LoopConfig()
    """Logging, validation, checkpoints."""
    sample_dialogues: int = 8
    """Validation dialogues whose last answer the model gives at each validation; 0 for none."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=256)
    """How it gives them."""

    def __post_init__(self) -> None:
        require_positive(self, "row_length", "batch_rows", "micro_batch_rows", "epochs")
        require_not_negative(self, "seed", "sample_dialogues")


def longest_dialogue(config: SftConfig, model: Path) -> int:
    """Tokens of the longest dialogue that a model can learn from a row."""
    return min(config.row_length, context_of(model))


def fine_tune(
    demonstrations: Sequence[Demonstration],
    validation: Sequence[Demonstration],
    config: SftConfig,
    run: Run,
    *,
    model: Path,
    engine: EngineConfig,
    placement: Placement,
    name: str = "sft",
) -> dict[str, float]:
    """Trains a model on dialogues; model and answers to some of the validation land in the run.

    Args:
        demonstrations: each says which of its answers are learned.
        validation: for the loss that is reported, and the answers that are kept.
        model: directory of the model to start from, its tokenizer included.
        name: of the stage, for messages.

    Returns:
        Final validation metrics: `validation/loss` in nats per answer token.

    Raises:
        DataError: a dialogue is longer than a row or the model's context.
    """
    tokenizer, context = Tokenizer.load(model), context_of(model)
    rows = pack_demonstrations(demonstrations, tokenizer, config.row_length, context)
    task = LanguageTask(
        start=model,
        tokenizer=model,
        train=rows,
        validation=pack_demonstrations(validation, tokenizer, config.row_length, context),
        batch_rows=config.batch_rows,
        micro_batch_rows=config.micro_batch_rows,
        num_steps=steps_for(len(rows), config.batch_rows, config.epochs),
        seed=config.seed,
    )
    return train(
        task,
        run,
        optim=config.optim,
        engine=engine,
        loop=config.loop,
        placement=placement,
        name=name,
        watch=_answers(validation, config, run, model),
    )


def _answers(
    validation: Sequence[Demonstration], config: SftConfig, run: Run, model: Path
) -> Watch | None:
    """Keeps the model's answers to some of the dialogues; None where there are none to answer.

    Answers of earlier validations stay in the file, those of later ones (of a session that was
    killed) go.
    """
    chat = ChatFormat(Tokenizer.load(model))
    chosen = sample_without_replacement(validation, config.sample_dialogues, seed=config.seed)
    if not chosen:
        return None
    prompts = PromptSet.encode([_prompt_of(d) for d in chosen], chat)
    path, eos_id = run.directory / ANSWERS_FILE, chat.tokenizer.eos_id

    def keep(workers: WorkerGroup[TrainWorker], step: int) -> None:
        requests = share_out(
            prompts.ids, workers.size, config.sampling, eos_id=eos_id, seed=config.seed
        )
        parts = workers.scatter(TrainWorker.generate, requests)
        rollouts = [rollout for part in parts for rollout in part]
        records = sample_records(prompts, rollouts, chat, step=step)
        for record, demonstration in zip(records, chosen, strict=True):
            record["demonstration"] = demonstration.messages[-1].content
        earlier = [r for r in read_samples(path) if r["step"] < step]
        write_samples(path, [*earlier, *records])

    return keep


def _prompt_of(demonstration: Demonstration) -> Prompt:
    """All of a dialogue but its last answer."""
    return Prompt(
        prompt_id=demonstration.demonstration_id,
        prompt=demonstration.messages[:-1],
        domain=demonstration.domain,
        kind=demonstration.source,
        source=demonstration.source,
    )


def pack_demonstrations(
    demonstrations: Sequence[Demonstration], tokenizer: Tokenizer, row_length: int, context: int
) -> PackedRows:
    """Dialogues as packed rows with the answers marked.

    Raises:
        DataError: a dialogue is longer than a row or the model's context.
    """
    chat = ChatFormat(tokenizer)
    encoded = [chat.encode_dialogue(d.messages, loss_on=d.loss_on) for d in demonstrations]
    for demonstration, dialogue in zip(demonstrations, encoded, strict=True):
        if len(dialogue.ids) > min(row_length, context):
            raise DataError(
                f"dialogue {demonstration.demonstration_id!r} has {len(dialogue.ids)} tokens; a "
                f"row holds {row_length} and the model's context is {context}: shorten or drop it"
                + (", or raise row_length" if row_length < context else "")
            )
    return pack(
        [dialogue.ids for dialogue in encoded],
        [dialogue.loss_mask for dialogue in encoded],
        length=row_length,
        pad_id=tokenizer.pad_id,
    )
