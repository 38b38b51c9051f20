"""AdamW, gradient clipping and learning-rate schedules with the paper's values."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from data.errors import ConfigError, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule. Defaults are Llama 2's where all stages share them (section 2.2)."""

    lr: float = 1e-5
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    eps: float = 1e-5
    """AdamW's ε."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What happens after the warm-up."""
    warmup_ratio: float = 0.03
    """Share of the steps over which the rate rises linearly from 0."""
    warmup_min_steps: int = 5
    """The warm-up takes at least so many steps (section 3.2.2)."""
    final_ratio: float = 0.1
    """The cosine ends at this share of the peak."""

    def __post_init__(self) -> None:
        require_not_negative(self, "lr", "eps", "weight_decay", "warmup_min_steps")
        require_positive(self, "clip_norm")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas is {self.betas}; both must be in [0, 1)")
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"warmup_ratio is {self.warmup_ratio}; it must be in [0, 1)")
        if not 0 <= self.final_ratio <= 1:
            raise ConfigError(f"final_ratio is {self.final_ratio}; it must be in [0, 1]")


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """The rate of optimizer step 0 ≤ step < num_steps."""
    warmup = min(max(round(config.warmup_ratio * num_steps), config.warmup_min_steps), num_steps)
    if config.schedule == "constant" and config.warmup_ratio == 0:
        warmup = 0
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, num_steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.final_ratio + (1 - config.final_ratio) * cosine)


def build_adamw(parameters: Sequence[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and none on norms."""
    matrices = [p for p in parameters if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in parameters if p.requires_grad and p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def create_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """AdamW's state before the first step: what it would make then, to be filled now."""
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }


def steps_taken(optimizer: torch.optim.Optimizer) -> int:
    """Optimizer steps of which the moments are."""
    return int(next(iter(optimizer.state.values()))["step"])


def set_steps_taken(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Sets the step on which the bias correction of every moment depends."""
    for state in optimizer.state.values():
        state["step"].fill_(steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
