"""Chooses the engine for a rank."""

import torch
from torch import nn

from data.errors import ConfigError
from rlhf.engine.base import EngineConfig, TrainEngine
from rlhf.engine.distributed import Rank
from rlhf.engine.optim import OptimConfig


def build_engine(
    module: nn.Module,
    engine: EngineConfig,
    optim: OptimConfig,
    rank: Rank,
    device: torch.device | None = None,
) -> TrainEngine:
    """The engine that the config names; "auto" is DeepSpeed for several ranks, torch for one.

    Args:
        module: the same on every rank; for ZeRO-3 in the host's memory.
        device: where it trains, unless it stays where it is. ZeRO-3 takes only parts of it there.

    Raises:
        ConfigError: the plain engine with several ranks, or with what only DeepSpeed can do.
    """
    if engine.recompute_activations:
        for part in module.modules():
            if hasattr(part, "recompute_activations"):
                part.recompute_activations = True  # type: ignore[assignment]
    check_engine(engine, rank.world_size)
    if not engine.shares_weights(rank.world_size):
        module = module.to(device)
    if engine.needs_deepspeed(rank.world_size):
        from rlhf.engine.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(module, optim, engine)
    from rlhf.engine.torch_engine import TorchEngine

    return TorchEngine(module, optim, engine.precision)


def build_frozen(
    module: nn.Module, engine: EngineConfig, rank: Rank, device: torch.device | None = None
) -> nn.Module:
    """What to call for forward passes of a model that does not learn, in the engine's precision.

    Args:
        module: the same on every rank; for ZeRO-3 in the host's memory.
        engine: of the trainers beside it; with ZeRO-3 each rank holds a part of this model, too,
            and every rank has to call as often.
    """
    if engine.shares_weights(rank.world_size):
        from rlhf.engine.deepspeed_engine import share_out_frozen

        return share_out_frozen(module, engine)
    return module.to(device, engine.dtype).eval()


def check_engine(engine: EngineConfig, workers: int) -> None:
    """Whether so many workers can train with it.

    Raises:
        ConfigError: the plain engine with several ranks, or with what only DeepSpeed can do.
    """
    if engine.needs_deepspeed(workers):
        return
    if workers > 1:
        raise ConfigError("the torch engine runs one worker; set engine.kind to deepspeed")
    if engine.offload_optimizer:
        raise ConfigError(
            "offload_optimizer is for DeepSpeed, and one worker trains with plain torch; set "
            "engine.kind to deepspeed, or leave it off"
        )
