"""Sampling from a really trained model, stories260K: against transformers, and against itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlhf.generation.generator import generate
from rlhf.generation.sampling import SamplingConfig
from rlhf.model.config import ModelConfig
from rlhf.model.heads import LanguageModel
from rlhf.model.weights import save_model
from rlhf.types import Experience, PromptIds, Rollout

PAD, BOS, EOS = 0, 1, 2
NEW_TOKENS = 48


def read_llama2c(path: Path) -> LanguageModel:
    """The legacy format of llama2.c: seven int32, then float32 matrices kind by kind.

    Its rotary pairs are neighbours; ours stand half a head apart.
    """
    dim, ffn_dim, layers, heads, kv_heads, vocab_size, context = np.fromfile(path, "<i4", 7)
    config = ModelConfig(
        dim=int(dim), ffn_dim=int(ffn_dim), num_layers=int(layers), num_heads=int(heads),
        num_kv_heads=int(kv_heads), vocab_size=int(vocab_size), context=int(context),
        tie_embeddings=True,
    )  # fmt: skip
    flat = torch.from_numpy(np.fromfile(path, "<f4", offset=28))
    model = LanguageModel(config).eval()

    def take(weight: Tensor, rotary: bool = False) -> None:
        nonlocal flat
        values, flat = flat[: weight.numel()].view_as(weight), flat[weight.numel() :]
        if rotary:
            pairs = values.view(-1, config.head_dim // 2, 2, config.dim)
            values = pairs.transpose(1, 2).reshape(weight.shape)
        weight.data.copy_(values)

    blocks = model.model.layers
    take(model.model.embed_tokens.weight)
    for name in (
        *("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        *("self_attn.o_proj", "post_attention_layernorm"),
        *("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"),
    ):
        for block in blocks:
            take(block.get_parameter(f"{name}.weight"), rotary=name.endswith(("q_proj", "k_proj")))
    take(model.model.norm.weight)
    assert flat.numel() == config.context * config.head_dim  # rotary tables, which we compute
    return model


@pytest.fixture(scope="module")
def model(shared_data: Path) -> LanguageModel:
    return read_llama2c(shared_data / "stories260K" / "stories260K.bin")


@pytest.fixture(scope="module")
def prompts(model: LanguageModel) -> list[PromptIds]:
    """200 beginnings of 1 to 60 tokens of stories that the model tells."""
    config = SamplingConfig(max_new_tokens=60)
    stories = generate(model, [PromptIds("", [BOS])] * 200, config, eos_id=EOS, seed=5)
    lengths = np.random.default_rng(0).integers(1, 61, size=200).tolist()
    return [
        PromptIds(str(n), story.ids[:length])
        for n, (story, length) in enumerate(zip(stories, lengths, strict=True))
    ]


def close_call(model: LanguageModel, ids: list[int]) -> bool:
    """Whether the two likeliest continuations differ by less than 1e-4 in their logits."""
    best = model.lm_head(model.model(torch.tensor([ids])))[0, -1].topk(2).values
    return bool(best[0] - best[1] < 1e-4)


@torch.no_grad()
def test_greedy_is_that_of_transformers(
    model: LanguageModel, prompts: list[PromptIds], tmp_path: Path
) -> None:
    special = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    save_model(model, tmp_path / "model", special)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    longest = max(len(prompt.ids) for prompt in prompts)
    tokens = torch.tensor([[PAD] * (longest - len(p.ids)) + p.ids for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in prompts])
    expected = theirs.generate(
        tokens, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False
    )[:, longest:].tolist()

    greedy = SamplingConfig(temperature=0.0, max_new_tokens=NEW_TOKENS)
    found = generate(model, prompts, greedy, eos_id=EOS, seed=0, slots=64)
    close_calls = 0
    for rollout, reference in zip(found, expected, strict=True):
        ours = rollout.response_ids
        differ = [n for n, token in enumerate(ours) if token != reference[n]]
        if differ:
            assert close_call(model, rollout.prompt_ids + ours[: differ[0]]), rollout.prompt_id
            close_calls += 1
    assert close_calls <= 2  # of 9,600 tokens
    assert len({tuple(rollout.response_ids) for rollout in found}) > 150


def sampled(model: LanguageModel, prompts: list[PromptIds]) -> list[Rollout]:
    config = SamplingConfig(temperature=0.9, max_new_tokens=NEW_TOKENS)
    return generate(model, prompts, config, eos_id=EOS, seed=1, slots=64)


@torch.no_grad()
def test_log_probabilities_are_those_of_a_full_pass(
    model: LanguageModel, prompts: list[PromptIds]
) -> None:
    batch = Experience.from_rollouts(sampled(model, prompts), PAD)
    whole = model(batch.tokens, batch.response_mask, temperature=0.9).logprobs
    assert (batch.logprobs - whole).abs().max() < 1e-4


@torch.no_grad()
def test_in_half_precision_probabilities_are_those_of_a_full_pass(
    shared_data: Path, prompts: list[PromptIds]
) -> None:
    model = read_llama2c(shared_data / "stories260K" / "stories260K.bin").bfloat16()
    batch = Experience.from_rollouts(sampled(model, prompts), PAD)
    whole = model(batch.tokens, batch.response_mask, temperature=0.9).logprobs
    difference = (batch.logprobs.exp() - whole.exp()).abs()[batch.response_mask]
    assert difference.mean() < 0.005
    assert difference.max() > 1e-5  # two ways to round; else this would compare a thing with itself
