"""Logits of every architecture variant beside transformers' LlamaForCausalLM, random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.generation.generator import generate
from rlhf.generation.sampling import SamplingConfig
from rlhf.model.heads import LanguageModel
from rlhf.model.weights import load_language_model
from rlhf.types import PromptIds
from tests.tiny_models import random_tokens

VOCAB = 61
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,  # so that all three kinds of waves are among the 8
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 3.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "multi-head": {"num_key_value_heads": 4},
    "multi-query": {"num_key_value_heads": 1},
    "wide": {"hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 688},
    "narrow": {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1},
    "base 500": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "base 1e6": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "linear": {"rope_parameters": LINEAR},
    "llama3": {"rope_parameters": LLAMA3},
    "tied": {"tie_word_embeddings": True},
}


def pair(tmp_path: Path, **changes: Any) -> tuple[LanguageModel, LlamaForCausalLM]:
    """Their random model, and ours from the files that they wrote."""
    values: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 256,
        "rms_norm_eps": 3e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "initializer_range": 0.1,  # large enough that a wrong scale shows in the logits
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**values | changes)).eval()
    theirs.save_pretrained(tmp_path / "model")
    return load_language_model(tmp_path / "model").eval(), theirs


def logits_of(model: LanguageModel, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
    return model.lm_head(model.model(tokens, documents))


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference beside the largest logit."""
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_logits_in_float32(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours, theirs = pair(tmp_path, **changes)
    for length in (1, 2, 31, 256):  # up to the context
        tokens = random_tokens(2, length, vocab_size=VOCAB)
        expected = theirs(tokens).logits
        assert expected.std() > 0.1
        assert relative(logits_of(ours, tokens), expected) < 1e-5  # measured: 2e-6 at most


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_logits_in_bfloat16(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Two programs that round at other places differ from each other, and from float32, alike.

    Measured, relative to the largest logit, worst of the variants ("wide", initialised far larger
    than a real model): ours to theirs 0.027, ours to float32 0.037, theirs to float32 0.041.
    """
    ours, theirs = pair(tmp_path, **changes)
    tokens = random_tokens(2, 256, vocab_size=VOCAB)
    exact = theirs(tokens).logits
    found = logits_of(ours.to(torch.bfloat16), tokens)
    assert found.dtype == torch.bfloat16
    theirs = theirs.to(torch.bfloat16)  # type: ignore[arg-type]
    theirs.model.rotary_emb.inv_freq = ours.model.frequencies  # `to` has rounded it
    expected = theirs(tokens).logits
    assert relative(found, expected) < 0.05
    assert relative(found, exact) < min(0.05, 1.5 * relative(expected, exact))


@torch.no_grad()
def test_rounding_the_model_leaves_the_rotary_frequencies(tmp_path: Path) -> None:
    ours, _ = pair(tmp_path, rope_parameters=LLAMA3)
    before = ours.model.frequencies.clone()
    ours = ours.to(torch.bfloat16)
    assert torch.equal(ours.model.frequencies, before)
    assert ours.model.norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("changes", [{}, {"rope_parameters": LLAMA3}], ids=["plain", "llama3"])
@torch.no_grad()
def test_padding_on_either_side(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours, theirs = pair(tmp_path, **changes)
    lengths = [5, 12, 1, 9]
    for side in ("left", "right"):
        tokens = torch.zeros(4, 12, dtype=torch.long)
        real = torch.zeros(4, 12, dtype=torch.bool)
        for row, length in enumerate(lengths):
            part = slice(12 - length, 12) if side == "left" else slice(0, length)
            tokens[row, part] = random_tokens(1, length, seed=row, vocab_size=VOCAB)[0]
            real[row, part] = True
        expected = theirs(
            tokens,
            attention_mask=real.long(),
            position_ids=(real.long().cumsum(dim=1) - 1).clamp(min=0),
        ).logits
        documents = torch.where(real, 0, -1)
        assert relative(logits_of(ours, tokens, documents)[real], expected[real]) < 1e-5
    assert relative(logits_of(ours, tokens)[real], expected[real]) < 1e-5  # right needs no mask


@pytest.mark.parametrize("changes", [{}, {"rope_parameters": LINEAR}], ids=["plain", "linear"])
@torch.no_grad()
def test_packed_documents_are_as_alone(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours, theirs = pair(tmp_path, **changes)
    parts = [random_tokens(1, length, seed=length, vocab_size=VOCAB) for length in (7, 1, 20, 4)]
    documents = torch.cat([torch.full_like(part, index) for index, part in enumerate(parts)], dim=1)
    found = logits_of(ours, torch.cat(parts, dim=1), documents)
    expected = torch.cat([theirs(part).logits for part in parts], dim=1)
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_with_a_key_value_cache(tmp_path: Path, changes: dict[str, Any]) -> None:
    """What the sampler says of its tokens, against one forward pass of theirs over the whole."""
    ours, theirs = pair(tmp_path, **changes)
    prompts = [
        PromptIds(str(n), random_tokens(n, seed=n, vocab_size=VOCAB).tolist()) for n in (3, 17)
    ]
    sampling = SamplingConfig(temperature=1.0, max_new_tokens=40)
    for rollout in generate(ours, prompts, sampling, eos_id=2, seed=0):
        tokens = torch.tensor([rollout.ids])
        with torch.no_grad():
            log_probs = theirs(tokens).logits[0, :-1].log_softmax(dim=-1)
        chosen = log_probs.gather(1, tokens[0, 1:, None]).squeeze(1)
        expected = chosen[-len(rollout.response_ids) :]
        assert_close(torch.tensor(rollout.response_logprobs), expected, atol=1e-4, rtol=0)
