"""Models in the formats of others, and what becomes of them; for the tests of `rlhf convert`."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from rlhf.cli.convert import main
from tests.reward.tiny import VOCAB_SIZE, tiny_tokenizer

SHARDED = "0.00003"  # gigabytes: 30 kB


def convert(source: Path, out: Path, form: str, to: str, *options: str) -> Path:
    main([str(source), "--from", form, "--to", to, "--out", str(out), *options])
    return out


def write_theirs(
    directory: Path, *, dtype: torch.dtype = torch.float32, shard: str = "30KB", **changes: Any
) -> Path:
    """A random Llama as transformers writes it, in several shards, with our tokenizer."""
    values: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
        "rms_norm_eps": 3e-6,
        "initializer_range": 0.1,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    kind = LlamaForSequenceClassification if "num_labels" in changes else LlamaForCausalLM
    model: Any = kind(LlamaConfig(**values | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # norms and heads too: no two tensors alike
    model.to(dtype).save_pretrained(directory, max_shard_size=shard)
    tiny_tokenizer().save(directory)
    return directory


def tensors_of(directory: Path) -> dict[str, Tensor]:
    return {k: v for f in sorted(directory.glob("*.safetensors")) for k, v in load_file(f).items()}


def check_equal(found: Path, expected: Path) -> None:
    """Every tensor bit for bit, and its type."""
    ours, theirs = tensors_of(found), tensors_of(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


def write_meta_files(directory: Path, *, embeddings_by_rows: bool) -> Path:
    """Two ranks of a model of width 16 with 4 heads of 4, 2 of them for keys."""
    dim, kv_dim, ffn, vocab = 16, 8, 256, 32
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).bfloat16()

    norms = {"norm.weight": draw(dim), "rope.freqs": torch.ones(2)}
    for name in ("attention_norm", "ffn_norm"):
        norms[f"layers.0.{name}.weight"] = draw(dim)
    directory.mkdir()
    for rank in range(2):
        embeddings = (vocab // 2, dim) if embeddings_by_rows else (vocab, dim // 2)
        shapes = {
            "tok_embeddings": embeddings,
            "output": (vocab // 2, dim),
            "layers.0.attention.wq": (dim // 2, dim),
            "layers.0.attention.wk": (kv_dim // 2, dim),
            "layers.0.attention.wv": (kv_dim // 2, dim),
            "layers.0.attention.wo": (dim, dim // 2),
            "layers.0.feed_forward.w1": (ffn // 2, dim),
            "layers.0.feed_forward.w2": (dim, ffn // 2),
            "layers.0.feed_forward.w3": (ffn // 2, dim),
        }
        weights = {f"{name}.weight": draw(*shape) for name, shape in shapes.items()}
        torch.save(weights | norms, directory / f"consolidated.{rank:02}.pth")
    params: dict[str, Any] = {
        "dim": dim,
        "n_layers": 1,
        "n_heads": 4,
        "n_kv_heads": 2,
        "vocab_size": -1,
    }
    params |= {"multiple_of": 256, "norm_eps": 1e-5}
    (directory / "params.json").write_text(json.dumps(params))
    return directory
