"""Fresh weights."""

import math

import torch
from torch import nn

from rlhf.model.config import ModelConfig
from rlhf.model.heads import LanguageModel, ScalarModel


def init_language_model(config: ModelConfig, seed: int) -> LanguageModel:
    """Normal weights of standard deviation 1/√fan_in, embeddings 1/√dim.

    At width 4096 that is the customary 0.02; at width 128, 0.02 for everything drowns the tokens in
    the residual stream and a small model never learns to copy. Projections into the residual stream
    are divided by √(2 · layers), so that its variance does not grow with depth (GPT-2, sec. 2.3).
    """
    generator = torch.Generator().manual_seed(seed)
    model = LanguageModel(config)
    residual_scale = 1 / math.sqrt(2 * config.num_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "layernorm.weight")):
                parameter.fill_(1.0)
                continue
            std = 1 / math.sqrt(parameter.shape[1])
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std *= residual_scale
            parameter.normal_(0.0, std, generator=generator)
    return model


def scalar_model_from(model: LanguageModel, seed: int | None) -> ScalarModel:
    """A scalar model on the transformer of a language model (Llama 2, section 3.2.2).

    Args:
        model: gives its transformer away; do not use it afterwards.
        seed: draws the head with standard deviation 1/√(d+1); None makes it zero.
    """
    scalar = ScalarModel(model.config)
    scalar.model = model.model
    init_scalar_head(scalar.score, seed)
    return scalar


def init_scalar_head(head: nn.Linear, seed: int | None) -> None:
    """Draws the head with standard deviation 1/√(d+1), or makes it zero."""
    with torch.no_grad():
        if seed is None:
            head.weight.zero_()
        else:
            generator = torch.Generator().manual_seed(seed)
            head.weight.normal_(0.0, 1 / math.sqrt(head.in_features + 1), generator=generator)
