"""The plain engine: one process, torch and AdamW."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlhf.engine.base import LossFn, check_finite, gathered
from rlhf.engine.checkpoint import ParameterState, read_states, write_states
from rlhf.engine.distributed import Rank
from rlhf.engine.optim import (
    OptimConfig,
    build_adamw,
    create_moments,
    set_learning_rate,
    set_steps_taken,
    steps_taken,
)
from rlhf.engine.weight_sync import checksums
from rlhf.types import Mean, Stats, merge_stats


class TorchEngine:
    """A `TrainEngine` for a single process.

    The optimizer sees masters: float32 copies of bf16 weights, or the weights themselves in fp32.
    """

    sharded = False

    def __init__(
        self, module: nn.Module, optim: OptimConfig, precision: Literal["fp32", "bf16"] = "fp32"
    ) -> None:
        self.module = module
        self._optim = optim
        self._weights = dict(module.named_parameters())
        self._masters = self._weights
        if precision == "bf16":
            self._masters = {n: nn.Parameter(p.detach().clone()) for n, p in self._weights.items()}
            module.to(torch.bfloat16)
        self._optimizer = build_adamw(list(self._masters.values()), optim)
        create_moments(self._optimizer, self._masters.values())

    def train_step(
        self, micro_batches: Sequence[Any], loss_fn: LossFn[Any], learning_rate: float
    ) -> Stats:
        """See `TrainEngine`."""
        parts, losses = [], []
        for batch in micro_batches:
            loss, stats = loss_fn(self.module, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            self._collect_gradients()
            parts.append(stats)
            losses.append(loss.detach())
        norm = float(nn.utils.clip_grad_norm_(self._masters.values(), self._optim.clip_norm))
        check_finite(
            float(sum(losses)), norm, step=steps_taken(self._optimizer), learning_rate=learning_rate
        )
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._round_masters()
        return merge_stats(parts) | {"grad_norm": Mean(norm, 1)}

    def gather_weights(self) -> dict[str, Tensor]:
        """See `TrainEngine`."""
        return gathered(self.module, dict(self._masters))

    def copy_weights_to(self, target: nn.Module) -> dict[str, int]:
        """See `TrainEngine`."""
        target.load_state_dict(self.module.state_dict())
        return checksums(self.module)

    def save(self, directory: Path) -> None:
        """See `TrainEngine`."""
        states = ((name, self._state_of(master)) for name, master in self._masters.items())
        write_states(directory, states, steps_taken(self._optimizer), Rank())

    def load(self, directory: Path) -> None:
        """See `TrainEngine`."""
        shapes = {name: tuple(master.shape) for name, master in self._masters.items()}
        with torch.no_grad():
            for name, stored, step in read_states(directory, shapes):
                for ours, theirs in zip(self._state_of(self._masters[name]), stored, strict=True):
                    ours.copy_(theirs)
                set_steps_taken(self._optimizer, step)
        self._round_masters()

    def _state_of(self, master: nn.Parameter) -> ParameterState:
        state = self._optimizer.state[master]
        return ParameterState(master, state["exp_avg"], state["exp_avg_sq"])

    def _collect_gradients(self) -> None:
        """Adds gradients of bf16 to those of the masters, in float32."""
        if self._masters is self._weights:
            return
        for name, weight in self._weights.items():
            if weight.grad is not None:
                master, gradient = self._masters[name], weight.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                weight.grad = None

    def _round_masters(self) -> None:
        """Makes the weights of bf16 what the masters are."""
        if self._masters is not self._weights:
            with torch.no_grad():
                for name, weight in self._weights.items():
                    weight.copy_(self._masters[name])
