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
from data.errors import require_not_negative, require_positive
from data.packing import PackedRows, pack
from data.schemas import Demonstration
from data.tokenizer import Tokenizer
from policy.language_task import LanguageTask, steps_for
from rlhf.actors.placement import Placement
from rlhf.engine.base import EngineConfig
from rlhf.engine.optim import OptimConfig
from rlhf.run import Run
from rlhf.training import LoopConfig, train


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """One fine-tuning run. Defaults follow Llama 2 section 3.1 unless a field says otherwise."""

    row_length: int = 4096
    """Tokens per packed row."""
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

    def __post_init__(self) -> None:
        require_positive(self, "row_length", "batch_rows", "micro_batch_rows", "epochs")
        require_not_negative(self, "seed")


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
    """Trains a model on dialogues; the result lands in the run directory.

    Args:
        demonstrations: each says which of its answers are learned.
        validation: for the loss that is reported.
        model: directory of the model to start from, its tokenizer included.
        name: of the stage, for messages.

    Returns:
        Final validation metrics: `validation/loss` in nats per answer token.
    """
    tokenizer = Tokenizer.load(model)
    rows = pack_demonstrations(demonstrations, tokenizer, config.row_length)
    task = LanguageTask(
        start=model,
        tokenizer=model,
        train=rows,
        validation=pack_demonstrations(validation, tokenizer, config.row_length),
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
    )


def pack_demonstrations(
    demonstrations: Sequence[Demonstration], tokenizer: Tokenizer, row_length: int
) -> PackedRows:
    """Dialogues as packed rows with the answers marked."""
    chat = ChatFormat(tokenizer)
    encoded = [chat.encode_dialogue(d.messages, loss_on=d.loss_on) for d in demonstrations]
    return pack(
        [dialogue.ids for dialogue in encoded],
        [dialogue.loss_mask for dialogue in encoded],
        length=row_length,
        pad_id=tokenizer.pad_id,
    )
