"""Chooses the engine for a rank."""

from torch import nn

from data.errors import ConfigError
from rlhf.engine.base import EngineConfig, TrainEngine
from rlhf.engine.distributed import Rank
from rlhf.engine.optim import OptimConfig


def build_engine(
    module: nn.Module, engine: EngineConfig, optim: OptimConfig, rank: Rank
) -> TrainEngine:
    """The engine that the config names; "auto" is DeepSpeed for several ranks, torch for one.

    Raises:
        ConfigError: the plain engine with several ranks, or with what only DeepSpeed can do.
    """
    if engine.recompute_activations:
        for part in module.modules():
            if hasattr(part, "recompute_activations"):
                part.recompute_activations = True  # type: ignore[assignment]
    several = rank.world_size > 1
    if engine.kind == "deepspeed" or (engine.kind == "auto" and several):
        from rlhf.engine.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(module, optim, engine)
    if several:
        raise ConfigError("the torch engine runs one worker; set engine.kind to deepspeed")
    if engine.offload_optimizer:
        raise ConfigError(
            "offload_optimizer is for DeepSpeed, and one worker trains with plain torch; set "
            "engine.kind to deepspeed, or leave it off"
        )
    from rlhf.engine.torch_engine import TorchEngine

    return TorchEngine(module, optim, engine.precision)
