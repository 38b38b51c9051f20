"""The distributed engine. The only file that imports deepspeed."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data.errors import ConfigError
from rlhf.engine.base import LossFn
from rlhf.engine.optim import OptimConfig, build_adamw, set_learning_rate
from rlhf.types import Mean, Stats, merge_stats

TAG = "state"


class DeepSpeedEngine:
    """A `TrainEngine` for one rank of several; the process group must exist."""

    def __init__(self, module: nn.Module, optim: OptimConfig, zero_stage: int) -> None:
        deepspeed = _import_deepspeed()
        self._world_size = dist.get_world_size()
        self.sharded = zero_stage == 3
        deepspeed.init_distributed(dist_backend=dist.get_backend())
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=build_adamw(module, optim),
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": optim.clip_norm,
                "zero_optimization": {"stage": zero_stage},
                # torch's AdamW, so that no C++ op has to be compiled before the first step
                "zero_force_ds_cpu_optimizer": False,
                "zero_allow_untested_optimizer": True,
            },
        )
        self.module: nn.Module = self._engine

    def train_step(
        self, micro_batches: Sequence[Any], loss_fn: LossFn[Any], learning_rate: float
    ) -> Stats:
        """See `TrainEngine`."""
        set_learning_rate(self._optimizer, learning_rate)
        parts = []
        for index, batch in enumerate(micro_batches):
            self._engine.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
            loss, stats = loss_fn(self._engine, batch)
            # DeepSpeed averages gradients over ranks; our losses are shares that add up.
            self._engine.backward(loss * self._world_size)
            self._engine.step()
            parts.append(stats)
        norm = self._engine.get_global_grad_norm()
        # Only rank 0 counts it: the norm is global, and statistics of ranks are added up.
        count = 1.0 if dist.get_rank() == 0 and norm is not None else 0.0
        return merge_stats(parts) | {"grad_norm": Mean(float(norm or 0.0) * count, count)}

    def gather_weights(self) -> dict[str, Tensor]:
        """See `TrainEngine`."""
        state = (
            self._engine._zero3_consolidated_16bit_state_dict()
            if self.sharded
            else self._engine.module.state_dict()
        )
        if dist.get_rank() != 0:
            return {}
        return {name: tensor.detach().cpu() for name, tensor in state.items()}

    def copy_weights_to(self, target: nn.Module) -> None:
        """See `TrainEngine`."""
        deepspeed = _import_deepspeed()
        sources = dict(self._engine.module.named_parameters())
        with torch.no_grad():
            for name, parameter in target.named_parameters():
                with deepspeed.zero.GatheredParameters([sources[name]], enabled=self.sharded):
                    parameter.copy_(sources[name])

    def save(self, directory: Path) -> None:
        """See `TrainEngine`."""
        self._engine.save_checkpoint(str(directory), tag=TAG, save_latest=False)

    def load(self, directory: Path) -> None:
        """See `TrainEngine`."""
        self._engine.load_checkpoint(str(directory), tag=TAG)


def _import_deepspeed() -> Any:
    """DeepSpeed, quiet, and without its shared-memory op, which takes a minute to compile."""
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(
            "several workers train with DeepSpeed, which is not installed here; "
            "install it (Linux only) or train with one worker"
        ) from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
