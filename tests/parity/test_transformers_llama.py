"""Our transformer against transformers' Llama, in both directions through files."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from rlhf.generation.generator import generate
from rlhf.generation.sampling import SamplingConfig
from rlhf.model.config import RopeScaling
from rlhf.model.heads import LanguageModel, score_at_last
from rlhf.model.weights import load_language_model, load_scalar_model, read_hf_config, save_model
from rlhf.types import PromptIds
from tests.tiny_models import random_tokens, small_language_model, small_scalar_model

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
close = partial(assert_close, atol=3e-5, rtol=0.0)
PAD = 0


def their_config(**changes: Any) -> LlamaConfig:
    """A grouped-query Llama with no value that is a default on either side."""
    values: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 64,
        "rms_norm_eps": 3e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
        "pad_token_id": PAD,
        "initializer_range": 0.3,  # large enough that a wrong scale shows in the logits
    }
    return LlamaConfig(**values | changes)


def our_logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    return model.lm_head(model.model(tokens))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_they_read_our_language_model(tmp_path: Path, tied: bool) -> None:
    ours = small_language_model(tie_embeddings=tied)
    save_model(ours, tmp_path / "model", SPECIAL)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert isinstance(theirs, LlamaForCausalLM)
    assert theirs.config.pad_token_id == PAD
    tokens = random_tokens(3, 20)
    logits = our_logits(ours, tokens)
    assert logits.std() > 0.5
    close(theirs(tokens).logits, logits)


@pytest.mark.parametrize("known", ["all", "version 4's"])
@pytest.mark.parametrize(
    "scaling",
    [
        None,
        RopeScaling(kind="linear", factor=2.0),
        RopeScaling(kind="llama3", factor=8.0, original_context=32),
    ],
    ids=["plain", "linear", "llama3"],
)
@torch.no_grad()
def test_they_read_our_rotary_embedding(
    tmp_path: Path, scaling: RopeScaling | None, known: str
) -> None:
    """From all keys of config.json, and from those alone that version 4 knows."""
    ours = small_language_model(rope_scaling=scaling)
    save_model(ours, tmp_path / "model", SPECIAL)
    if known != "all":
        raw = read_hf_config(tmp_path / "model")
        del raw["rope_parameters"]
        (tmp_path / "model" / "config.json").write_text(json.dumps(raw))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokens = random_tokens(3, 60)
    close(theirs(tokens).logits, our_logits(ours, tokens))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 6},  # every query head has its own keys
        {"num_key_value_heads": 1},  # all share one
    ],
)
@torch.no_grad()
def test_we_read_their_language_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = LlamaForCausalLM(their_config(**changes)).eval()
    theirs.save_pretrained(tmp_path / "model")
    ours = load_language_model(tmp_path / "model")
    tokens = random_tokens(3, 20)
    close(our_logits(ours, tokens), theirs(tokens).logits)


def test_a_round_trip_through_them_changes_no_bit(tmp_path: Path) -> None:
    ours = small_language_model()
    save_model(ours, tmp_path / "ours", SPECIAL)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_language_model(tmp_path / "theirs")
    assert again.config == ours.config
    assert_close(again.state_dict(), ours.state_dict(), atol=0, rtol=0)


def test_gradients_agree(tmp_path: Path) -> None:
    ours = small_language_model()
    save_model(ours, tmp_path / "model", SPECIAL)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens = random_tokens(2, 12)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    loss = -ours(tokens, mask).logprobs.sum() / mask.sum()
    expected = theirs(tokens, labels=tokens).loss
    assert_close(loss, expected)
    loss.backward()
    expected.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        close(parameter.grad, gradients[name])


def right_padded(lengths: list[int]) -> Tensor:
    tokens = random_tokens(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        tokens[row, length:] = PAD
    return tokens


LENGTHS = [5, 12, 1, 9]
Score = Callable[[Tensor], Tensor]


def check_scores(theirs: LlamaForSequenceClassification, ours: Score) -> None:
    """They find the last real token by the padding id, we by the length."""
    tokens = right_padded(LENGTHS)
    mask = (tokens != PAD).long()
    expected = theirs(tokens, attention_mask=mask).logits.squeeze(1)
    assert expected.std() > 0.1
    close(score_at_last(ours(tokens), torch.tensor(LENGTHS)), expected)


@torch.no_grad()
def test_they_read_our_reward_model(tmp_path: Path) -> None:
    ours = small_scalar_model()
    save_model(ours, tmp_path / "model", SPECIAL, extra={"score_mean": 0.5})
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert isinstance(theirs, LlamaForSequenceClassification)
    assert theirs.config.num_labels == 1
    check_scores(theirs, ours)


@torch.no_grad()
def test_we_read_their_reward_model(tmp_path: Path) -> None:
    theirs = LlamaForSequenceClassification(their_config(num_labels=1)).eval()
    theirs.save_pretrained(tmp_path / "model")
    check_scores(theirs, load_scalar_model(tmp_path / "model"))


@torch.no_grad()
def test_greedy_generation_agrees(tmp_path: Path) -> None:

    ours = small_language_model(seed=3)
    save_model(ours, tmp_path / "model", SPECIAL)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    prompts = [random_tokens(length, seed=length).tolist() for length in (4, 9)]
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=15)
    found = generate(ours, [PromptIds("p", ids) for ids in prompts], greedy, eos_id=2, seed=0)
    for ids, rollout in zip(prompts, found, strict=True):
        tokens = torch.tensor([ids])
        expected = theirs.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=15, do_sample=False
        )
        assert rollout.ids == expected[0].tolist()
