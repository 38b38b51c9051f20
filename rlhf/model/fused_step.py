"""A decoding step of a small model in one call: decoding.c takes it through all layers.

Torch needs some microseconds to begin an operation, and a step of a small model is a hundred of
them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.model import kernels
from rlhf.model.config import ModelConfig
from rlhf.model.heads import LanguageModel
from rlhf.model.kv_cache import KVCache
from rlhf.model.transformer import Block

WIDEST = 256
"""Of wider models the weights leave the caches, and oneDNN is faster."""


class FusedStep:
    """The layers of a model, copied in the order in which they are read."""

    def __init__(self, model: LanguageModel, cache: KVCache) -> None:
        config = model.config
        ffn = -(-config.ffn_dim // kernels.WIDTH) * kernels.WIDTH
        self._eps = config.norm_eps
        self._sizes = kernels.StepSizes(
            config.num_layers,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            cache.keys.shape[3],
            ffn,
        )
        self._cache = cache  # kept, as are the copies, because what follows holds addresses alone
        self._weights = [_strips_of(block, ffn) for block in model.model.layers]
        self._addresses = torch.tensor(
            [
                [*(x.data_ptr() for x in weights), keys.data_ptr(), values.data_ptr()]
                for weights, keys, values in zip(
                    self._weights, cache.keys, cache.values, strict=True
                )
            ]
        )

    def __call__(self, x: Tensor, tables: tuple[Tensor, Tensor], positions: Tensor) -> Tensor:
        """[S, dim] embedded tokens → what comes out of the last layer, in the same place."""
        kernels.decode_step(x, self._addresses, tables, positions, self._sizes, self._eps)
        return x


def suits(config: ModelConfig, weight: Tensor) -> bool:
    """Whether a model with weights like this one can and should be decoded so."""
    width, qkv = config.head_dim, (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    fits = (
        width % kernels.STEP_WIDTH == 0 and config.dim % kernels.WIDTH == qkv % kernels.WIDTH == 0
    )
    return fits and config.dim <= WIDEST and kernels.usable(weight)


def _strips_of(block: torch.nn.Module, ffn: int) -> list[Tensor]:
    assert isinstance(block, Block)
    attention, mlp = block.self_attn, block.mlp
    missing = ffn - mlp.down_proj.in_features
    gate, up = (F.pad(m.weight.detach(), (0, 0, 0, missing)) for m in (mlp.gate_proj, mlp.up_proj))
    return [
        block.input_layernorm.weight,
        kernels.in_strips(attention.qkv_weight),
        kernels.in_strips(attention.o_proj.weight),
        block.post_attention_layernorm.weight,
        kernels.in_strips(torch.cat((gate, up))),
        kernels.in_strips(F.pad(mlp.down_proj.weight.detach(), (0, missing))),
    ]
