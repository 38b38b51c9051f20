"""A chat tokenizer and random models of some ten thousand weights: real, and loaded at once."""

from functools import cache
from pathlib import Path

from data.chat_format import ChatFormat
from data.tokenizer import Tokenizer, train_tokenizer
from rlhf.engine.base import EngineConfig
from rlhf.model.config import ModelConfig
from rlhf.model.init import init_language_model, scalar_model_from
from rlhf.model.weights import save_model

TORCH = EngineConfig(kind="torch")
VOCAB_SIZE = 352


@cache
def tiny_tokenizer() -> Tokenizer:
    """Bytes, the chat tags and some thirty pieces."""
    return train_tokenizer(
        ["the quick brown fox jumps over the lazy dog", "please, now"], VOCAB_SIZE
    )


@cache
def tiny_chat() -> ChatFormat:
    return ChatFormat(tiny_tokenizer())


def tiny_shape(vocab_size: int = VOCAB_SIZE) -> ModelConfig:
    """Two layers with grouped-query attention and tied embeddings."""
    return ModelConfig(
        vocab_size=vocab_size,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        ffn_dim=48,
        context=192,
        tie_embeddings=True,
    )


def write_language_model(directory: Path, *, seed: int = 0) -> Path:
    """A random chat model with its tokenizer."""
    tokenizer = tiny_tokenizer()
    save_model(init_language_model(tiny_shape(), seed), directory, tokenizer.special_ids)
    tokenizer.save(directory)
    return directory


def write_reward_model(directory: Path, *, seed: int = 0) -> Path:
    """A random scalar model with its tokenizer."""
    tokenizer = tiny_tokenizer()
    model = scalar_model_from(init_language_model(tiny_shape(), seed), seed)
    save_model(model, directory, tokenizer.special_ids)
    tokenizer.save(directory)
    return directory
