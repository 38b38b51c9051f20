"""The plain engine: one process, torch and AdamW."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.engine.base import LossFn
from rlhf.engine.optim import OptimConfig, build_adamw, set_learning_rate
from rlhf.types import Mean, Stats, merge_stats

STATE_FILE = "state.pt"


class TorchEngine:
    """A `TrainEngine` for a single process."""

    sharded = False

    def __init__(self, module: nn.Module, optim: OptimConfig) -> None:
        self.module = module
        self._optim = optim
        self._optimizer = build_adamw(module, optim)

    def train_step(
        self, micro_batches: Sequence[Any], loss_fn: LossFn[Any], learning_rate: float
    ) -> Stats:
        """See `TrainEngine`."""
        parts = []
        for batch in micro_batches:
            loss, stats = loss_fn(self.module, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            parts.append(stats)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self._optim.clip_norm)
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return merge_stats(parts) | {"grad_norm": Mean(float(norm), 1)}

    def gather_weights(self) -> dict[str, Tensor]:
        """See `TrainEngine`."""
        return {name: t.detach().cpu() for name, t in self.module.state_dict().items()}

    def copy_weights_to(self, target: nn.Module) -> None:
        """See `TrainEngine`."""
        target.load_state_dict(self.module.state_dict())

    def save(self, directory: Path) -> None:
        """See `TrainEngine`."""
        state = {"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}
        torch.save(state, directory / STATE_FILE)

    def load(self, directory: Path) -> None:
        """See `TrainEngine`."""
        state = torch.load(directory / STATE_FILE, weights_only=True)
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
