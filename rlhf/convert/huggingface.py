"""Hugging Face directories, which are ours too: read as they come, written as safetensors."""

import json
import re
from pathlib import Path

import torch

from data.errors import DataError
from data.tokenizer import Tokenizer
from rlhf.convert.checkpoint import Checkpoint, expected_shapes
from rlhf.model.stored_tensors import (
    SAFETENSORS_DTYPES,
    StoredTensor,
    check_shapes,
    stored_tensors,
)
from rlhf.model.weights import (
    CAUSAL_LM,
    SEQUENCE_CLASSIFICATION,
    from_hf_config,
    read_hf_config,
    to_hf_config,
)

_CARRIED = re.compile(r"score_\w+|(bos|eos|pad)_token_id")
"""Keys of config.json that are taken over: a reward model's scale, and special ids."""
ALIGNMENT = 8
"""The header of a safetensors file is filled up to a multiple of this many bytes."""


def read_huggingface(directory: Path) -> Checkpoint:
    """A language model or a reward model.

    Raises:
        DataError: not a Llama, or weights that are damaged or do not fit its config.json.
    """
    raw = read_hf_config(directory)
    architecture = (raw.get("architectures") or [CAUSAL_LM])[0]
    if architecture not in (CAUSAL_LM, SEQUENCE_CLASSIFICATION):
        raise DataError(
            f"{str(directory)!r} holds a {architecture}; "
            f"{CAUSAL_LM} and {SEQUENCE_CLASSIFICATION} can be converted"
        )
    scalar = architecture == SEQUENCE_CLASSIFICATION
    config = from_hf_config(raw)
    tensors = stored_tensors(directory)
    if config.tie_embeddings:
        tensors.pop("lm_head.weight", None)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    check_shapes(found, expected_shapes(config, scalar=scalar), directory)
    has_tokenizer = (directory / "tokenizer.model").is_file()
    return Checkpoint(
        config=config,
        tensors=tensors,
        scalar=scalar,
        tokenizer=Tokenizer.load(directory) if has_tokenizer else None,
        extra={name: value for name, value in raw.items() if _CARRIED.fullmatch(name)},
    )


def write_huggingface(checkpoint: Checkpoint, directory: Path, shard_bytes: int) -> None:
    """config.json, safetensors files of at most `shard_bytes`, the tokenizer.

    A tensor that is larger than that has a file of its own.
    """
    special = {} if checkpoint.tokenizer is None else checkpoint.tokenizer.special_ids
    carried = {name: value for name, value in checkpoint.extra.items() if value is not None}
    config = to_hf_config(checkpoint.empty_model(), special) | carried
    dtype = str(checkpoint.dtype).removeprefix("torch.")
    _write_json(directory / "config.json", config | {"torch_dtype": dtype})
    shards = _shards(checkpoint.tensors, shard_bytes)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        file = "model.safetensors" if len(shards) == 1 else file
        write_safetensors(directory / file, {name: checkpoint.tensors[name] for name in names})
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(_num_bytes(tensor) for tensor in checkpoint.tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        _write_json(directory / "model.safetensors.index.json", index)
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(directory)


def write_safetensors(path: Path, tensors: dict[str, StoredTensor]) -> None:
    """One file, a tensor in memory at a time (the library's own writer needs all of them)."""
    names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + _num_bytes(tensor)
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            flat = tensor.read().to(tensor.dtype).contiguous().view(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def _shards(tensors: dict[str, StoredTensor], shard_bytes: int) -> list[list[str]]:
    """Names in their order, cut where a file would grow too large."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        num_bytes = _num_bytes(tensor)
        if shards[-1] and size + num_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += num_bytes
    return shards


def _num_bytes(tensor: StoredTensor) -> int:
    return torch.Size(tensor.shape).numel() * tensor.dtype.itemsize


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
