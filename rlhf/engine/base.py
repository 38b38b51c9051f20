"""What trains a module: one optimizer step over micro-batches, weights out, state in and out.

The contract on losses: a loss function returns this micro-batch's share of the loss of the GLOBAL
batch, that is a sum over its tokens or pairs divided by their number over all ranks and
micro-batches. The engine adds the gradients of all shares; it alone undoes the averaging that a
backend does. So gradient accumulation and data parallelism change nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from data.errors import ConfigError, UserError
from rlhf.types import Stats

B = TypeVar("B")
LossFn = Callable[[nn.Module, B], tuple[Tensor, Stats]]
"""(module, micro-batch) → (share of the global loss, statistics of this micro-batch)."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What runs the optimizer steps."""

    kind: Literal["auto", "torch", "deepspeed"] = "auto"
    """auto: DeepSpeed for several workers, plain torch for one."""
    zero_stage: int = 1
    """DeepSpeed's ZeRO stage: 1 shards optimizer state, 2 gradients too, 3 weights too."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of weights and activations; bf16 keeps float32 master weights and moments beside them, and
    it is the masters that are updated and saved."""
    offload_optimizer: bool = False
    """Keep master weights and moments in the host's memory and update them there; DeepSpeed only,
    from ZeRO stage 1 on."""
    recompute_activations: bool = False
    """Keep only the input of each block and compute the rest again in the backward pass: less
    memory, a third more time, the same gradients."""

    def __post_init__(self) -> None:
        if self.zero_stage not in (0, 1, 2, 3):
            raise ConfigError(f"zero_stage is {self.zero_stage}; ZeRO has stages 0 to 3")
        if self.offload_optimizer and self.kind == "torch":
            raise ConfigError(
                "offload_optimizer is for DeepSpeed; set engine.kind to deepspeed, or leave it off"
            )
        if self.offload_optimizer and self.zero_stage == 0:
            raise ConfigError("offload_optimizer needs a zero_stage of 1, 2 or 3; it is 0")

    def needs_deepspeed(self, workers: int) -> bool:
        """Whether so many workers train with DeepSpeed."""
        return self.kind == "deepspeed" or (self.kind == "auto" and workers > 1)

    def shares_weights(self, workers: int) -> bool:
        """Whether each of so many workers keeps only a part of the weights: ZeRO-3."""
        return self.zero_stage == 3 and self.needs_deepspeed(workers)

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and activations."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


class TrainEngine(Protocol):
    """A module with its optimizer, on one rank."""

    module: nn.Module
    """Call it for forward passes without gradient."""
    sharded: bool
    """Whether a rank holds only part of each weight, so that sampling needs a whole copy."""

    def train_step(
        self, micro_batches: Sequence[Any], loss_fn: LossFn[Any], learning_rate: float
    ) -> Stats:
        """One optimizer step; every rank passes the same number of micro-batches.

        Raises:
            Diverged: the loss or the gradient is no finite number.
        """
        ...

    def gather_weights(self) -> dict[str, Tensor]:
        """The full state dict in float32 on the CPU. Every rank calls; only rank 0 receives it."""
        ...

    def copy_weights_to(self, target: nn.Module) -> dict[str, int]:
        """Writes the full weights into a plain module of the same shape. Every rank calls.

        Returns:
            The checksum of each as it was sent; see rlhf/engine/weight_sync.py.
        """
        ...

    def save(self, directory: Path) -> None:
        """Writes weights and optimizer state; see rlhf/engine/checkpoint.py. Every rank calls."""
        ...

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote, under any engine. Every rank calls."""
        ...


class Diverged(UserError):
    """Training whose loss or gradient is no finite number any more."""


def check_finite(loss: float, norm: float | None, *, step: int, learning_rate: float) -> None:
    """What every step of training must hold.

    Args:
        loss: of this rank.
        norm: of the gradient; DeepSpeed gives -1 where it overflows, and None where it takes none.
        step: optimizer steps taken before this one.
        learning_rate: of this step.

    Raises:
        Diverged: one of them is no finite number.
    """
    if math.isfinite(loss) and (norm is None or 0 <= norm < math.inf):
        return
    what = f"loss is {loss}" if not math.isfinite(loss) else "gradient's norm is no finite number"
    raise Diverged(
        f"training diverged in optimizer step {step + 1}: the {what}; begin again, elsewhere "
        f"(--out), with a lower learning rate (lr; {learning_rate:.3g} in this step) or a longer "
        "warm-up; checkpoints are from before and stay"
    )


def gathered(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of float32 weights on the CPU, with every name of a weight that is shared.

    Args:
        module: the plain module.
        weights: by the first name of each parameter.
    """
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        name: weights[first[id(parameter)]].detach().cpu()
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }
