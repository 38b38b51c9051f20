"""Fresh weights: their scale, their seed, their ties."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rlhf.model.config import ModelConfig
from rlhf.model.init import init_language_model, init_scalar_head, scalar_model_from
from tests.tiny_models import SMALL, random_tokens, small_language_model

WIDE = ModelConfig(
    vocab_size=500, dim=128, num_layers=8, num_heads=4, num_kv_heads=2, ffn_dim=320, context=64
)


@pytest.mark.parametrize(
    ("name", "shape", "std"),
    [
        # 1/√fan_in; into the residual stream also 1/√(2 · 8) = ¼
        ("model.embed_tokens.weight", (500, 128), 0.088388),
        ("lm_head.weight", (500, 128), 0.088388),
        ("model.layers.3.self_attn.q_proj.weight", (128, 128), 0.088388),
        ("model.layers.3.self_attn.k_proj.weight", (64, 128), 0.088388),
        ("model.layers.3.self_attn.v_proj.weight", (64, 128), 0.088388),
        ("model.layers.3.self_attn.o_proj.weight", (128, 128), 0.088388 / 4),
        ("model.layers.3.mlp.gate_proj.weight", (320, 128), 0.088388),
        ("model.layers.3.mlp.up_proj.weight", (320, 128), 0.088388),
        ("model.layers.3.mlp.down_proj.weight", (128, 320), 0.055902 / 4),
    ],
)
def test_shapes_and_scales(name: str, shape: tuple[int, int], std: float) -> None:
    weight = init_language_model(WIDE, seed=0).state_dict()[name]
    assert weight.shape == shape
    # the deviation of n normal numbers is known to 1/√(2n): below 0.8 % here; four of it
    assert float(weight.std()) == pytest.approx(std, rel=0.032)
    assert abs(float(weight.mean())) < 4 * std / math.sqrt(weight.numel())


def test_norms_begin_with_one_and_nothing_else_is_a_vector() -> None:
    model = init_language_model(WIDE, seed=0)
    vectors = {n: p for n, p in model.named_parameters() if p.dim() == 1}
    assert len(vectors) == 2 * 8 + 1
    assert all((p == 1).all() for p in vectors.values())


def test_the_seed_fixes_the_weights() -> None:
    torch.manual_seed(1)
    first = init_language_model(SMALL, seed=3).state_dict()
    torch.manual_seed(2)
    second = init_language_model(SMALL, seed=3).state_dict()
    assert_close(first, second, atol=0, rtol=0)
    other = init_language_model(SMALL, seed=4).state_dict()
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_tied_embeddings_are_one_tensor() -> None:
    tied = init_language_model(replace(SMALL, tie_embeddings=True), seed=0)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    untied = init_language_model(SMALL, seed=0)
    count = sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters())
    assert count == SMALL.vocab_size * SMALL.dim


@torch.no_grad()
def test_a_fresh_model_is_nearly_uniform() -> None:
    """Its loss is about log V: nothing explodes on the way through the layers."""
    model = init_language_model(WIDE, seed=0)
    tokens = random_tokens(8, 32, vocab_size=500)
    mask = torch.ones(8, 32, dtype=torch.bool)
    mask[:, 0] = False
    loss = -model(tokens, mask).logprobs.sum() / mask.sum()
    # logits of variance 1 add half a nat to log 500 = 6.21
    assert float(loss) == pytest.approx(math.log(500) + 0.5, abs=0.25)


def test_a_scalar_model_takes_the_transformer_over() -> None:
    language = small_language_model()
    scalar = scalar_model_from(language, seed=5)
    assert scalar.model is language.model
    assert scalar.score.weight.shape == (1, SMALL.dim)
    assert scalar.score.bias is None


def test_the_head_is_drawn_with_one_over_root_d_plus_one() -> None:
    head = torch.nn.Linear(9_999, 1, bias=False)
    init_scalar_head(head, seed=0)
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.03)  # 1/√10000
    before = head.weight.clone()
    init_scalar_head(head, seed=0)
    assert torch.equal(head.weight, before)
    init_scalar_head(head, seed=None)
    assert not head.weight.any()
