"""The task behind pretraining and every kind of fine-tuning: next-token loss on packed rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.errors import ConfigError
from data.mixing import epoch_order
from data.packing import Rows
from data.tokenizer import Tokenizer
from rlhf.model.config import ModelConfig
from rlhf.model.heads import LanguageModel
from rlhf.model.init import init_language_model
from rlhf.model.weights import load_language_model, save_model
from rlhf.training import NUM_TOKENS, device_of, on_device
from rlhf.types import Mean, Stats

EMPTY_ROW = -1


@dataclass(frozen=True)
class LanguageBatch:
    """Packed rows as tensors. Shapes: R rows, T tokens."""

    tokens: Tensor
    """[R, T]."""
    documents: Tensor
    """[R, T], −1 for padding."""
    loss_mask: Tensor
    """[R, T]."""
    num_global: int
    """Learned tokens of the whole batch, over all ranks and micro-batches."""


@dataclass(frozen=True, kw_only=True)
class LanguageTask:
    """A `TrainTask`: −log p of the marked tokens, averaged over the global batch."""

    start: Path | ModelConfig
    """A model directory to start from, or the shape of a fresh model."""
    tokenizer: Path
    """Is saved beside the model."""
    train: Rows
    validation: Rows
    batch_rows: int
    """Rows per optimizer step, over all ranks."""
    micro_batch_rows: int
    """Rows per forward pass on one rank."""
    num_steps: int
    seed: int

    def build(self) -> nn.Module:
        """The model to train."""
        if isinstance(self.start, ModelConfig):
            return init_language_model(self.start, self.seed)
        return load_language_model(self.start)

    def micro_batches(self, step: int, rank: int, world_size: int) -> list[LanguageBatch]:
        """Every rank takes every world_size-th row of the step's batch."""
        rows = self.rows_of_step(step)
        num_global = int(self.train.select(rows).loss_mask.sum())
        return [
            _to_batch(self.train, part, num_global) for part in self._parts(rows, rank, world_size)
        ]

    def _parts(
        self, rows: NDArray[np.int64], rank: int, world_size: int
    ) -> Iterator[NDArray[np.int64]]:
        """A rank's rows, a micro-batch at a time; empty rows make the ranks' shares equal."""
        missing = np.full(-len(rows) % world_size, EMPTY_ROW)
        own = np.concatenate([rows, missing])[rank::world_size]
        for start in range(0, len(own), self.micro_batch_rows):
            yield own[start : start + self.micro_batch_rows]

    def rows_of_step(self, step: int) -> NDArray[np.int64]:
        """Row numbers of a step's batch; the stream of rows is reshuffled every epoch."""
        positions = np.arange(step * self.batch_rows, (step + 1) * self.batch_rows)
        epochs, places = np.divmod(positions, len(self.train))
        orders = {e: _order(len(self.train), self.seed, int(e)) for e in set(epochs)}
        return np.array([orders[e][p] for e, p in zip(epochs, places, strict=True)])

    def loss(self, module: nn.Module, batch: LanguageBatch) -> tuple[Tensor, Stats]:
        """Share of the global mean of −log p."""
        batch = on_device(batch, device_of(module))
        logprobs = module(batch.tokens, batch.loss_mask, batch.documents).logprobs
        total = -logprobs.sum()
        count = int(batch.loss_mask.sum())
        stats = {
            "loss": Mean(float(total.detach()), count),
            NUM_TOKENS: Mean(int((batch.documents >= 0).sum()), 0),
        }
        return total / max(1, batch.num_global), stats

    def evaluate(self, module: nn.Module, rank: int, world_size: int) -> Stats:
        """Mean −log p in nats per learned token of the validation rows."""
        total, count = 0.0, 0
        for part in self._parts(np.arange(len(self.validation)), rank, world_size):
            batch = on_device(_to_batch(self.validation, part, 1), device_of(module))
            total -= float(module(batch.tokens, batch.loss_mask, batch.documents).logprobs.sum())
            count += int(batch.loss_mask.sum())
        return {"validation/loss": Mean(total, count)}

    def save(self, module: nn.Module, weights: dict[str, Tensor], directory: Path) -> None:
        """A Hugging Face directory with the tokenizer beside the weights."""
        assert isinstance(module, LanguageModel)
        tokenizer = Tokenizer.load(self.tokenizer)
        save_model(
            module,
            directory,
            tokenizer.special_ids,
            weights=weights,
            save_tokenizer=tokenizer.save,
        )


def steps_for(num_rows: int, batch_rows: int, epochs: float) -> int:
    """Optimizer steps that make so many passes over the rows, at least one.

    Raises:
        ConfigError: there is nothing to train on.
    """
    if not num_rows:
        raise ConfigError("there is nothing to train on: the training split is empty")
    return max(1, round(num_rows * epochs / batch_rows))


@lru_cache(maxsize=2)
def _order(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """As `epoch_order`, drawn once per epoch and not at every step: 8 bytes a row."""
    return epoch_order(num_rows, seed=seed, epoch=epoch)


def _to_batch(source: Rows, rows: NDArray[np.int64], num_global: int) -> LanguageBatch:
    part = source.select(rows)
    return LanguageBatch(
        torch.from_numpy(part.tokens.astype(np.int64)),
        torch.from_numpy(part.documents),
        torch.from_numpy(part.loss_mask),
        num_global,
    )
