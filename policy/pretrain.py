"""Pretraining on plain text (Llama 2, section 2.2): packed documents, every token learned."""

from dataclasses import dataclass
from pathlib import Path

from data.errors import ConfigError, require_not_negative, require_positive
from data.texts import Corpus
from data.token_cache import delete_packed, packed_corpus
from data.tokenizer import Tokenizer
from policy.language_task import LanguageTask, steps_for
from rlhf.actors.placement import Placement
from rlhf.engine.base import EngineConfig
from rlhf.engine.optim import OptimConfig
from rlhf.model.config import named_size
from rlhf.run import Run, console
from rlhf.training import LoopConfig, train
from rlhf.training_plots import write_loss_curve

TOKENS = "tokens"
"""Of the run directory: the corpus as packed rows of ids, while the run is not done."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run. Defaults follow Llama 2 section 2.2 unless a field says otherwise."""

    size: str = "7b"
    """Named size of the model; its vocabulary is the tokenizer's."""
    row_length: int = 4096
    """Tokens per packed row; a document is cut where it is longer than this or the context."""
    batch_rows: int = 1024
    """Rows per optimizer step over all workers; 1024 × 4096 is the paper's 4M tokens."""
    micro_batch_rows: int = 1
    """Rows per forward pass on one worker; memory, not results, depends on it."""
    epochs: float = 1.0
    """Passes over the corpus."""
    validation_share: float = 0.02
    """Share that is held out: every so many documents, or the end where whole files are read."""
    seed: int = 0
    """Draws the initial weights and the order of the rows."""
    optim: OptimConfig = OptimConfig(lr=3e-4, warmup_ratio=0.004)
    """Peak rate of the 7B model; 2000 of about 500,000 steps warm up."""
    loop: LoopConfig = LoopConfig()
    """Logging, validation, checkpoints."""

    def __post_init__(self) -> None:
        require_positive(self, "row_length", "batch_rows", "micro_batch_rows", "epochs")
        require_not_negative(self, "seed")
        if not 0 <= self.validation_share <= 0.5:
            raise ConfigError(
                f"validation_share is {self.validation_share}; it must be at least 0, for no "
                "validation, and at most 0.5, every second document"
            )


def pretrain(
    corpus: Corpus,
    config: PretrainConfig,
    run: Run,
    *,
    tokenizer: Path,
    engine: EngineConfig,
    placement: Placement,
) -> dict[str, float]:
    """Trains a fresh model on documents; model and loss curve land in the run directory.

    The corpus is tokenised into the run directory first, and trained from there: memory does not
    grow with it. The tokens go when the run is done.

    Returns:
        Final validation metrics, `validation/loss` in nats per token among them, and `tokens`.
    """
    vocabulary = Tokenizer.load(tokenizer)
    shape = named_size(config.size, vocabulary.vocab_size)
    with console.status("reading the corpus"):
        rows, held_out = packed_corpus(
            corpus,
            vocabulary,
            run.directory / TOKENS,
            row_length=config.row_length,
            context=shape.context,
            validation_share=config.validation_share,
        )
    task = LanguageTask(
        start=shape,
        tokenizer=tokenizer,
        train=rows,
        validation=held_out,
        batch_rows=config.batch_rows,
        micro_batch_rows=config.micro_batch_rows,
        num_steps=steps_for(len(rows), config.batch_rows, config.epochs),
        seed=config.seed,
    )
    figures = train(
        task,
        run,
        optim=config.optim,
        engine=engine,
        loop=config.loop,
        placement=placement,
        name="pretrain",
    )
    write_loss_curve(run.directory)
    delete_packed(run.directory / TOKENS)
    return figures
