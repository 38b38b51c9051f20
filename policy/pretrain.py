"""Pretraining on plain text (Llama 2, section 2.2): packed documents, every token learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import ConfigError, require_not_negative, require_positive
from data.packing import PackedRows, pack
from data.tokenizer import Tokenizer
from policy.language_task import LanguageTask, steps_for
from rlhf.actors.placement import Placement
from rlhf.engine.base import EngineConfig
from rlhf.engine.optim import OptimConfig
from rlhf.model.config import named_size
from rlhf.run import Run
from rlhf.training import LoopConfig, train


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run. Defaults follow Llama 2 section 2.2 unless a field says otherwise."""

    size: str = "7b"
    """Named size of the model; its vocabulary is the tokenizer's."""
    row_length: int = 4096
    """Tokens per packed row."""
    batch_rows: int = 1024
    """Rows per optimizer step over all workers; 1024 × 4096 is the paper's 4M tokens."""
    micro_batch_rows: int = 1
    """Rows per forward pass on one worker; memory, not results, depends on it."""
    epochs: float = 1.0
    """Passes over the corpus."""
    validation_share: float = 0.02
    """Share of the documents that are held out."""
    seed: int = 0
    """Draws the initial weights and the order of the rows."""
    optim: OptimConfig = OptimConfig(lr=3e-4, warmup_ratio=0.004)
    """Peak rate of the 7B model; 2000 of about 500,000 steps warm up."""
    loop: LoopConfig = LoopConfig()
    """Logging, validation, checkpoints."""

    def __post_init__(self) -> None:
        require_positive(self, "row_length", "batch_rows", "micro_batch_rows", "epochs")
        require_not_negative(self, "seed")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"validation_share is {self.validation_share}; it must be in [0, 1), "
                "0 for no validation"
            )


def pretrain(
    texts: Sequence[str],
    config: PretrainConfig,
    run: Run,
    *,
    tokenizer: Path,
    engine: EngineConfig,
    placement: Placement,
) -> dict[str, float]:
    """Trains a fresh model on documents; the model lands in the run directory.

    Returns:
        Final validation metrics: `validation/loss` in nats per token.
    """
    rows, held_out = _pack(texts, config, Tokenizer.load(tokenizer))
    task = LanguageTask(
        start=named_size(config.size, Tokenizer.load(tokenizer).vocab_size),
        tokenizer=tokenizer,
        train=rows,
        validation=held_out,
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
        name="pretrain",
    )


def _pack(
    texts: Sequence[str], config: PretrainConfig, tokenizer: Tokenizer
) -> tuple[PackedRows, PackedRows]:
    """Training and held-out rows; documents longer than a row are cut into pieces."""
    pieces: list[list[list[int]]] = [[], []]
    every = max(2, round(1 / config.validation_share)) if config.validation_share else 0
    for index, ids in enumerate(tokenizer.encode_batch(list(texts))):
        document = [tokenizer.bos_id, *ids, tokenizer.eos_id]
        held_out = bool(every) and index % every == 0
        for start in range(0, len(document), config.row_length):
            pieces[held_out].append(document[start : start + config.row_length])
    train_rows, validation_rows = (
        pack(part, None, length=config.row_length, pad_id=tokenizer.pad_id) for part in pieces
    )
    return train_rows, validation_rows
