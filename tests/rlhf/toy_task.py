"""A training task of a few milliseconds. In a module of its own: Ray's workers import it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf.types import Mean, Stats
from tests.tiny_models import random_tokens, small_language_model

NUM_STEPS, TOKENS_PER_STEP = 10, 2 * 3 * 7


class PowerCut(Exception):
    """The machine stops."""


@dataclass(frozen=True)
class Toy:
    """Next-token prediction on random ids: two micro-batches of 3 × 7 tokens per step."""

    num_steps: int = NUM_STEPS
    stop_before: int = NUM_STEPS

    def build(self) -> nn.Module:
        return small_language_model()

    def micro_batches(self, step: int, rank: int, world_size: int) -> Sequence[Tensor]:
        if step == self.stop_before:
            raise PowerCut
        return list(random_tokens(2, 3, 7, seed=step))[rank::world_size]

    def loss(self, module: nn.Module, batch: Tensor) -> tuple[Tensor, Stats]:
        mask = torch.ones_like(batch, dtype=torch.bool)
        mask[:, 0] = False
        total = -module(batch, mask).logprobs.sum()
        stats = {"loss": Mean(float(total.detach()), 18), "tokens": Mean(21, 0)}
        return total / 36, stats

    def evaluate(self, module: nn.Module, rank: int, world_size: int) -> Stats:
        assert not torch.is_grad_enabled()
        loss, _ = self.loss(module, random_tokens(3, 7, seed=1000))
        return {"validation/loss": Mean(float(loss), 1)}

    def save(self, module: nn.Module, weights: dict[str, Tensor], directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(weights, directory / "model.safetensors")
