"""The distributed engine. The only file that imports deepspeed."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import ConfigError
from rlhf.engine.base import EngineConfig, LossFn, check_finite, gathered
from rlhf.engine.checkpoint import ParameterState, read_states, write_states
from rlhf.engine.distributed import Rank, free_address, join
from rlhf.engine.optim import (
    OptimConfig,
    build_adamw,
    create_moments,
    set_learning_rate,
    set_steps_taken,
    steps_taken,
)
from rlhf.engine.weight_sync import checksum
from rlhf.types import Mean, Stats, merge_stats

SECONDS_TO_MEET = 60.0

BUCKET = 50_000_000
"""Numbers that ZeRO sends at a time and makes room for; DeepSpeed's 500 million are 2 GB."""


class DeepSpeedEngine:
    """A `TrainEngine` for one rank of the process group, which may be the only one."""

    def __init__(self, module: nn.Module, optim: OptimConfig, config: EngineConfig) -> None:
        self._deepspeed = _start_deepspeed()
        self._rank = Rank(index=dist.get_rank(), world_size=dist.get_world_size())
        self._stage, self.sharded = config.zero_stage, config.zero_stage == 3
        self._plain = module
        self._weights: dict[str, Any] = dict(module.named_parameters())
        self._shapes = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        exact = {}
        if config.precision == "bf16":
            exact = {name: weight.detach() for name, weight in self._weights.items()}
        settings = _deepspeed_config(config, optim)
        adamw = build_adamw(list(module.parameters()), optim)  # it looks at shapes, now all there
        if self.sharded:
            _share_out(module, settings, config.dtype)
        self._engine, self._optimizer, _, _ = self._deepspeed.initialize(
            model=module, optimizer=adamw, config=settings
        )
        self.module: nn.Module = self._engine
        self._adamw = getattr(self._optimizer, "optimizer", self._optimizer)
        self._masters = self._whole_masters()
        self._create_moments()
        for name, weight in exact.items():  # DeepSpeed made the masters of rounded weights
            self._write(name, weight)

    def train_step(
        self, micro_batches: Sequence[Any], loss_fn: LossFn[Any], learning_rate: float
    ) -> Stats:
        """See `TrainEngine`."""
        set_learning_rate(self._optimizer, learning_rate)
        taken = steps_taken(self._adamw)
        parts, losses = [], []
        for index, batch in enumerate(micro_batches):
            self._engine.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
            loss, stats = loss_fn(self._engine, batch)
            # DeepSpeed averages gradients over ranks; our losses are shares that add up.
            self._engine.backward(loss * self._rank.world_size)
            self._engine.step()
            parts.append(stats)
            losses.append(loss.detach())
        norm = self._engine.get_global_grad_norm()
        check_finite(float(sum(losses)), norm, step=taken, learning_rate=learning_rate)
        # Only rank 0 counts it: the norm is global, and statistics of ranks are added up.
        count = 1.0 if self._rank.index == 0 and norm is not None else 0.0
        return merge_stats(parts) | {"grad_norm": Mean(float(norm or 0.0) * count, count)}

    def gather_weights(self) -> dict[str, Tensor]:
        """See `TrainEngine`."""
        weights = {}
        for name in self._weights:
            weight = self._read(name)
            if self._rank.index == 0:
                weights[name] = weight.detach().cpu()
        return gathered(self._plain, weights) if self._rank.index == 0 else {}

    def copy_weights_to(self, target: nn.Module) -> dict[str, int]:
        """See `TrainEngine`."""
        sent = {}
        with torch.no_grad():
            for name, parameter in target.named_parameters():
                with self._gathered(self._weights[name]):
                    parameter.copy_(self._weights[name])
                    sent[name] = checksum(self._weights[name])
        return sent

    def save(self, directory: Path) -> None:
        """See `TrainEngine`."""
        write_states(directory, self._states(), steps_taken(self._adamw), self._rank)

    def load(self, directory: Path) -> None:
        """See `TrainEngine`."""
        for name, state, step in read_states(directory, self._shapes):
            weight = self._weights[name]
            with torch.no_grad(), self._gathered(weight, modifier_rank=0):
                weight.copy_(state.weight)
            self._write(name, state.weight)
            self._write(name, state.exp_avg, "exp_avg")
            self._write(name, state.exp_avg_sq, "exp_avg_sq")
            set_steps_taken(self._adamw, step)

    def _states(self) -> Iterator[tuple[str, ParameterState]]:
        """Every rank goes through all of them: gathering one needs all ranks."""
        for name in self._weights:
            moments = self._read(name, "exp_avg"), self._read(name, "exp_avg_sq")
            yield name, ParameterState(self._read(name), *moments)

    def _read(self, name: str, moment: str | None = None) -> Tensor:
        """A master weight or one of its moments, whole, in float32. Every rank calls."""
        utils, weight = self._deepspeed.utils, self._weights[name]
        if self._stage == 0:
            master = self._masters[name]
            return master if moment is None else self._adamw.state[master][moment]
        if moment is None:
            return utils.safe_get_full_fp32_param(weight)
        return utils.safe_get_full_optimizer_state(weight, moment)

    def _write(self, name: str, value: Tensor, moment: str | None = None) -> None:
        """Sets what `_read` gives; every rank passes the whole tensor and keeps its part."""
        utils, weight = self._deepspeed.utils, self._weights[name]
        if self._stage == 0:
            with torch.no_grad():
                self._read(name, moment).copy_(value)
            return
        kind = "full"
        if self.sharded:  # the setters of whole tensors fail where a weight has no equal parts
            kind, size = "local", weight.ds_tensor.numel()
            padding = size * self._rank.world_size - value.numel()
            value = F.pad(value.flatten(), (0, padding)).narrow(0, size * self._rank.index, size)
        if moment is None:
            getattr(utils, f"safe_set_{kind}_fp32_param")(weight, value)
        else:
            getattr(utils, f"safe_set_{kind}_optimizer_state")(weight, value, moment)

    def _whole_masters(self) -> dict[str, Tensor]:
        """What stage 0 updates, by name: the weights, or in bf16 DeepSpeed's copies of them."""
        if self._stage > 0:
            return {}
        if self._optimizer is self._adamw:
            return dict(self._weights)
        groups = zip(self._optimizer.fp16_groups, self._optimizer.fp32_groups, strict=True)
        masters = {
            id(weight): master
            for weights, copies in groups
            for weight, master in zip(weights, copies, strict=True)
        }
        return {name: masters[id(weight)] for name, weight in self._weights.items()}

    def _create_moments(self) -> None:
        if self.sharded:
            create_moments(self._adamw, self._optimizer.fp32_partitioned_groups_flat)
            return
        create_moments(self._adamw, [p for g in self._adamw.param_groups for p in g["params"]])
        if self._stage > 0:
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def _gathered(self, weight: Tensor, modifier_rank: int | None = None) -> Any:
        """A context in which a weight that ZeRO-3 has shared out is whole."""
        return self._deepspeed.zero.GatheredParameters(
            weight, modifier_rank=modifier_rank, enabled=self.sharded
        )


def share_out_frozen(module: nn.Module, config: EngineConfig) -> nn.Module:
    """What to call for forward passes alone: ZeRO-3 keeps a part of each weight on every rank.

    Args:
        module: in the host's memory, whole, the same on every rank; its parts leave it.
        config: of the trainers beside it.
    """
    deepspeed, settings = _start_deepspeed(), _deepspeed_config(config, OptimConfig())
    _share_out(module.requires_grad_(False).eval(), settings, config.dtype)
    engine, _, _, _ = deepspeed.initialize(model=module, config=settings)
    engine.eval()
    return cast(nn.Module, engine)


def _share_out(module: nn.Module, settings: dict[str, Any], dtype: torch.dtype) -> None:
    """Leaves each rank its part of the weights; only one layer's are whole on the device."""
    deepspeed = _import_deepspeed()
    device = deepspeed.get_accelerator().current_device_name()
    for part in module.modules():
        for weight in part.parameters(recurse=False):
            if not hasattr(weight, "ds_id"):  # tied weights have two places
                weight.data = weight.data.to(dtype)
        if next(part.parameters(recurse=False), None) is not None:
            deepspeed.zero.Init(module=part, config_dict_or_path=settings, dtype=dtype)
        for buffer in part.buffers(recurse=False):
            buffer.data = buffer.data.to(device)


def _deepspeed_config(config: EngineConfig, optim: OptimConfig) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optim.clip_norm,
        "zero_optimization": zero,
        "communication_data_type": "fp32",
        # torch's AdamW, so that no C++ op has to be compiled before the first step
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
    }
    if config.precision == "bf16":
        settings["bf16"] = {"enabled": True}
        if config.zero_stage > 0:  # at stage 0 DeepSpeed adds micro-batches up in bf16
            settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings


def _start_deepspeed() -> Any:
    """DeepSpeed, in the process group of this rank, which may be the only one in it."""
    deepspeed = _import_deepspeed()
    join(Rank(address=free_address()), SECONDS_TO_MEET)  # alone, where nobody has joined yet
    deepspeed.init_distributed(dist_backend=dist.get_backend())
    return deepspeed


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
