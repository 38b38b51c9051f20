"""What every format is read into and written from: a Llama with Hugging Face's names.

Tensors are read one by one when they are written, so that no conversion holds more of a model in
memory than one tensor, or one shard where the target is a pickle.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.durable import (
    full_disk_is_told,
    removed_on_failure,
    replace_directory,
    temporary_of,
)
from data.errors import ConfigError
from data.tokenizer import Tokenizer
from rlhf.model.config import ModelConfig
from rlhf.model.heads import LanguageModel, ScalarModel
from rlhf.model.stored_tensors import StoredTensor
from rlhf.model.weights import stored_shapes


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model whose tensors are still in its files."""

    config: ModelConfig
    tensors: dict[str, StoredTensor]
    """By Hugging Face's names, in the order in which they are best read."""
    scalar: bool = False
    """Whether it is a reward model (LlamaForSequenceClassification, one label)."""
    tokenizer: Tokenizer | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of config.json that say nothing about the architecture."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights; where they differ, of the first."""
        return next(iter(self.tensors.values())).dtype

    def empty_model(self) -> LanguageModel | ScalarModel:
        """The module on the meta device: shapes without memory."""
        return empty_model(self.config, scalar=self.scalar)


def empty_model(config: ModelConfig, *, scalar: bool = False) -> LanguageModel | ScalarModel:
    """A module on the meta device."""
    with torch.device("meta"):
        return ScalarModel(config) if scalar else LanguageModel(config)


def expected_shapes(config: ModelConfig, *, scalar: bool = False) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint of this config holds."""
    return stored_shapes(empty_model(config, scalar=scalar))


def write_directory(out: Path, write: Callable[[Path], None]) -> None:
    """Prepares a directory under a hidden name; it is complete or absent.

    Raises:
        ConfigError: there is something at `out` already.
        OSError: it cannot be written; a full disk is ENOSPC.
    """
    if out.exists():
        raise ConfigError(f"{str(out)!r} exists already; choose another place or remove it")
    temporary = temporary_of(out)
    with removed_on_failure(temporary):
        temporary.mkdir(parents=True, exist_ok=True)
        with full_disk_is_told(temporary):
            write(temporary)
        replace_directory(temporary, out)


def permuted(weight: Tensor, heads: int) -> Tensor:
    """Query or key rows from Meta's rotary layout to Hugging Face's.

    Meta turns neighbours (2i, 2i + 1) of a head, Hugging Face i and i + head_dim / 2.
    """
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def unpermuted(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `permuted`."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
