"""Meta's checkpoints: params.json and consolidated.00.pth … one file per model-parallel rank.

Every rank holds a slice of every matrix: rows of those that read the residual stream and of the
output, columns of those that write into it and of the embeddings. Norms stand in every file.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import ConfigError, DataError
from data.tokenizer import Tokenizer
from rlhf.convert.checkpoint import Checkpoint, expected_shapes, permuted, unpermuted
from rlhf.model.config import Kind, ModelConfig, check_entries
from rlhf.model.stored_tensors import StoredTensor, check_shapes, tensors_of_file

BLOCK = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
ENDS = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
ROWS = ("wq", "wk", "wv", "w1", "w3", "output")
COLUMNS = ("wo", "w2", "tok_embeddings")
DEFAULT_MULTIPLES = ((256, None), (4096, 1.3), (1024, 1.3))
"""multiple_of and ffn_dim_multiplier of published models."""
SIZES = ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of")
KINDS: dict[str, Kind] = {
    **dict.fromkeys(SIZES, "a whole number above 0"),
    **dict.fromkeys(("ffn_dim_multiplier", "norm_eps", "rope_theta"), "a number above 0"),
}


def read_meta(directory: Path, *, context: int) -> Checkpoint:
    """A language model of Llama 1 or 2.

    Args:
        context: longest sequence in tokens, which the files do not tell.

    Raises:
        DataError: damaged files, shards that do not fit together or to params.json.
    """
    params = _read_params(directory)
    files = sorted(directory.glob("consolidated.*.pth"))
    if not files:
        raise DataError(f"{str(directory)!r} holds no consolidated.*.pth; check the path")
    shards = [tensors_of_file(file) for file in files]
    try:
        config = _config(params, shards, context, directory)
    except ConfigError as error:
        raise DataError(f"the model in {str(directory)!r} cannot be used: {error}") from error
    expected = expected_shapes(config)
    axes = {name: _axis(name) for name in map(meta_name, expected)}
    if _embeddings_are_cut_by_rows(shards, config):
        axes["tok_embeddings.weight"] = 0
    for file, shard in zip(files, shards, strict=True):
        shapes = {
            meta_name(name): _cut(shape, axes[meta_name(name)], len(files))
            for name, shape in expected.items()
        }
        check_shapes({name: t.shape for name, t in shard.items()}, shapes, file)
    tensors = {
        name: _joined(name, shape, shards, axes[meta_name(name)], config)
        for name, shape in expected.items()
    }
    return Checkpoint(config=config, tensors=tensors, tokenizer=_tokenizer(directory))


def write_meta(checkpoint: Checkpoint, directory: Path, num_shards: int) -> None:
    """params.json, one consolidated.*.pth per rank, tokenizer.model.

    Raises:
        ConfigError: a model that the format cannot hold, or a number of ranks that does not divide
            its heads, its feed-forward width and its vocabulary.
    """
    config = checkpoint.config
    if checkpoint.scalar or config.rope_scaling is not None:
        what = "a reward model" if checkpoint.scalar else "a stretched rotary embedding"
        raise ConfigError(f"Meta's format has no place for {what}; convert to 'hf' instead")
    # What is cut by rows or columns; readers expect equal parts.
    cut = (config.num_kv_heads, config.ffn_dim, config.vocab_size)
    if num_shards < 1 or any(size % num_shards for size in cut):
        raise ConfigError(
            f"shards is {num_shards}; it must divide the {config.num_kv_heads} key and value "
            f"heads, the feed-forward width {config.ffn_dim} and the vocabulary of "
            f"{config.vocab_size} ids; 1 always does"
        )
    params = json.dumps(_to_params(config)) + "\n"
    (directory / "params.json").write_text(params, encoding="utf-8")
    for rank in range(num_shards):
        # No name for it: the next one is only made when this one is gone.
        torch.save(
            dict(_slices(checkpoint, rank, num_shards)), directory / f"consolidated.{rank:02}.pth"
        )
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(directory)


def meta_name(name: str) -> str:
    """Hugging Face's name of a tensor → Meta's."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if match is None:
        return {f"{ours}.weight": f"{theirs}.weight" for theirs, ours in ENDS.items()}[name]
    back = {ours: theirs for theirs, ours in BLOCK.items()}
    return f"layers.{match[1]}.{back[match[2]]}.weight"


def _axis(name: str) -> int | None:
    """Along which a tensor of Meta's is cut; None for those that every rank holds."""
    part = name.split(".")[-2]
    return 0 if part in ROWS else 1 if part in COLUMNS else None


def _cut(shape: tuple[int, ...], axis: int | None, num_shards: int) -> tuple[int, ...]:
    return tuple(size // num_shards if i == axis else size for i, size in enumerate(shape))


def _joined(
    name: str,
    shape: tuple[int, ...],
    shards: list[dict[str, StoredTensor]],
    axis: int | None,
    config: ModelConfig,
) -> StoredTensor:
    parts = [shard[meta_name(name)] for shard in shards]

    def read() -> Tensor:
        if axis is None:
            return parts[0].read()
        whole = torch.cat([part.read() for part in parts], dim=axis)
        heads = _rotary_heads(name, config)
        return permuted(whole, heads) if heads else whole

    return StoredTensor(shape, parts[0].dtype, read)


def _rotary_heads(name: str, config: ModelConfig) -> int:
    """Heads of a tensor whose rows are permuted; 0 for all others."""
    if name.endswith("q_proj.weight"):
        return config.num_heads
    return config.num_kv_heads if name.endswith("k_proj.weight") else 0


def _slices(checkpoint: Checkpoint, rank: int, num_shards: int) -> Iterator[tuple[str, Tensor]]:
    """What one rank holds; a whole tensor is in memory only while its slice is taken."""
    tensors = dict(checkpoint.tensors)
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    for name, tensor in tensors.items():
        whole = tensor.read()
        heads = _rotary_heads(name, checkpoint.config)
        whole = unpermuted(whole, heads) if heads else whole
        axis = _axis(meta_name(name))
        if axis is not None:
            whole = whole.chunk(num_shards, dim=axis)[rank]
        yield meta_name(name), whole.clone(memory_format=torch.contiguous_format)


def _read_params(directory: Path) -> dict[str, Any]:
    """Entries of params.json; null is as good as absent."""
    path = directory / "params.json"
    if not path.is_file():
        raise DataError(f"no model of Meta's at {str(directory)!r}: it has no params.json")
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        params = {name: value for name, value in stored.items() if value is not None}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{str(path)!r} holds no JSON object; copy the model again") from error
    if params.get("vocab_size") == -1:  # so Meta writes it: as many as there are
        del params["vocab_size"]
    check_entries(params, KINDS, repr(str(path)))
    missing = {"dim", "n_layers", "n_heads"} - params.keys()
    if missing:
        raise DataError(f"{str(path)!r} lacks {min(missing)!r}; copy the model again")
    if params.get("use_scaled_rope"):
        raise DataError(
            f"{str(path)!r} is of Llama 3.1 or later (use_scaled_rope), whose scaling it does not "
            "tell; convert from the model's Hugging Face directory"
        )
    return params


def _config(
    params: dict[str, Any], shards: list[dict[str, StoredTensor]], context: int, directory: Path
) -> ModelConfig:
    """Dimensions; what params.json leaves open is read off the shapes."""
    try:
        output = shards[0]["output.weight"]
        gate = shards[0]["layers.0.feed_forward.w1.weight"]
    except KeyError as error:
        raise DataError(f"{str(directory)!r} lacks the tensor {error}") from error
    ffn_dim = gate.shape[0] * len(shards)
    if "multiple_of" in params:
        multiplier = params.get("ffn_dim_multiplier")
        ffn_dim = _ffn_dim(params["dim"], params["multiple_of"], multiplier)
    return ModelConfig(
        vocab_size=params.get("vocab_size", output.shape[0] * len(shards)),
        dim=params["dim"],
        num_layers=params["n_layers"],
        num_heads=params["n_heads"],
        num_kv_heads=params.get("n_kv_heads", params["n_heads"]),
        ffn_dim=ffn_dim,
        context=context,
        norm_eps=params.get("norm_eps", 1e-5),
        rope_base=params.get("rope_theta", 10_000.0),
    )


def _embeddings_are_cut_by_rows(shards: list[dict[str, StoredTensor]], config: ModelConfig) -> bool:
    """As in later checkpoints of Meta's; a single shard is whole either way."""
    found = shards[0].get("tok_embeddings.weight")
    return found is not None and found.shape == (config.vocab_size // len(shards), config.dim)


def _to_params(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `_config`, with the published multiples where they give the width."""
    multiples: list[tuple[int, float | None]] = [*DEFAULT_MULTIPLES]
    # Half an id above, so that rounding down always ends at the width itself.
    multiples.append((1, (config.ffn_dim + 0.5) / (8 * config.dim // 3)))
    multiple_of, multiplier = next(
        pair for pair in multiples if _ffn_dim(config.dim, *pair) == config.ffn_dim
    )
    return {
        "dim": config.dim,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "vocab_size": config.vocab_size,
        "multiple_of": multiple_of,
        **({} if multiplier is None else {"ffn_dim_multiplier": multiplier}),
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
    }


def _ffn_dim(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Two thirds of four widths, times a factor, rounded up to a multiple."""
    hidden = 8 * dim // 3
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return math.ceil(hidden / multiple_of) * multiple_of


def _tokenizer(directory: Path) -> Tokenizer | None:
    """Meta puts tokenizer.model beside the folders of its models."""
    for place in (directory, directory.parent):
        if (place / "tokenizer.model").is_file():
            return Tokenizer.load(place)
    return None
