"""llama2.c's legacy .bin: seven integers, then float32 weights in a fixed order."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.errors import DataError, UserError
from data.sentencepiece_file import Piece, PieceKind, build_model
from data.tokenizer import Tokenizer
from rlhf.convert.checkpoint import Checkpoint, permuted
from rlhf.model.config import ModelConfig
from rlhf.model.stored_tensors import StoredTensor

HEADER = struct.Struct("<7i")
"""dim, ffn_dim, layers, heads, kv heads, vocabulary, context.

A negative vocabulary says that the output has weights of its own.
"""
VERSIONED = 0x616B3432
"""First integer of llama2.c's later formats."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def read_llama2c(path: Path) -> Checkpoint:
    """A language model; its output shares the embeddings unless the header says otherwise.

    Raises:
        DataError: another format, or a file whose size does not fit its header.
    """
    config = _read_config(path)
    places = _places(config)
    end = HEADER.size + 4 * (places.pop("end")[0])
    size = path.stat().st_size
    if size != end:
        last = next(
            (n for n, (at, _) in reversed(places.items()) if HEADER.size + 4 * at < size), ""
        )
        where = f", it ends within {last!r} {places[last][1]}" if last and size < end else ""
        raise DataError(f"{str(path)!r} has {size} bytes, its header asks for {end}{where}")
    tensors = {name: _stored(path, config, name, at, shape) for name, (at, shape) in places.items()}
    return Checkpoint(config=config, tensors=tensors)


def _read_config(path: Path) -> ModelConfig:
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a directory; name the .bin file of llama2.c in it")
    if not path.is_file():
        raise DataError(f"no file at {str(path)!r}; check the path")
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise DataError(f"{str(path)!r} is too short for a header of llama2.c")
    dim, ffn_dim, layers, heads, kv_heads, vocab_size, context = HEADER.unpack(header)
    if dim == VERSIONED:
        raise DataError(
            f"{str(path)!r} is of a later format of llama2.c; export it with --version 0 (legacy)"
        )
    if min(dim, ffn_dim, layers, heads, kv_heads, abs(vocab_size), context) < 1:
        raise DataError(f"{str(path)!r} is no legacy model of llama2.c: a size in its header is 0")
    try:
        return ModelConfig(
            vocab_size=abs(vocab_size),
            dim=dim,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            ffn_dim=ffn_dim,
            context=context,
            tie_embeddings=vocab_size > 0,
        )
    except UserError as error:
        raise DataError(f"{str(path)!r} is no legacy model of llama2.c: {error}") from error


def _places(config: ModelConfig) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Name → place in float32 numbers behind the header, and shape; "end" is behind the last."""
    d, f, kv = config.dim, config.ffn_dim, config.num_kv_heads * config.head_dim
    per_layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (d,),
        "self_attn.q_proj": (d, d),
        "self_attn.k_proj": (kv, d),
        "self_attn.v_proj": (kv, d),
        "self_attn.o_proj": (d, d),
        "post_attention_layernorm": (d,),
        "mlp.gate_proj": (f, d),
        "mlp.down_proj": (d, f),
        "mlp.up_proj": (f, d),
    }
    order: list[tuple[str, tuple[int, ...]]] = [
        ("model.embed_tokens.weight", (config.vocab_size, d))
    ]
    for part, shape in per_layer.items():
        order += [(f"model.layers.{i}.{part}.weight", shape) for i in range(config.num_layers)]
    order.append(("model.norm.weight", (d,)))
    order.append(("rotary tables", (2, config.context, config.head_dim // 2)))
    if not config.tie_embeddings:
        order.append(("lm_head.weight", (config.vocab_size, d)))
    places, at = {}, 0
    for name, shape in order:
        places[name] = (at, shape)
        at += torch.Size(shape).numel()
    del places["rotary tables"]  # they follow from the config
    return places | {"end": (at, ())}


def _stored(
    path: Path, config: ModelConfig, name: str, at: int, shape: tuple[int, ...]
) -> StoredTensor:
    def read() -> Tensor:
        count = torch.Size(shape).numel()
        numbers = np.fromfile(path, dtype="<f4", count=count, offset=HEADER.size + 4 * at)
        weight = torch.from_numpy(numbers).view(shape)
        if name.endswith("q_proj.weight"):
            return permuted(weight, config.num_heads)
        return permuted(weight, config.num_kv_heads) if name.endswith("k_proj.weight") else weight

    return StoredTensor(shape, torch.float32, read)


def read_llama2c_tokenizer(path: Path) -> Tokenizer:
    """llama2.c's tokenizer.bin: a SentencePiece vocabulary with scores, blanks written as blanks.

    Its models end a text with <s>, where the next one begins; they never learned </s>.

    Raises:
        DataError: another format.
    """
    if not path.is_file():
        raise DataError(f"no tokenizer at {str(path)!r}; check the path")
    try:
        return Tokenizer(build_model(list(_pieces(path.read_bytes())), eos="<s>"))
    except (struct.error, UnicodeDecodeError, RuntimeError) as error:
        raise DataError(f"{str(path)!r} is no tokenizer of llama2.c, or cut short") from error


def _pieces(content: bytes) -> Iterator[Piece]:
    """Behind the longest length: score, length and text of each piece; the first three special."""
    special = [
        Piece("<unk>", 0.0, PieceKind.UNKNOWN),
        Piece("<s>", 0.0, PieceKind.CONTROL),
        Piece("</s>", 0.0, PieceKind.CONTROL),
    ]
    at, index = 4, 0
    while at < len(content):
        score, length = struct.unpack_from("<fi", content, at)
        raw = content[at + 8 : at + 8 + length]
        if length < 0 or len(raw) < length:
            raise struct.error
        at += 8 + length
        if index < len(special):
            yield special[index]
        else:
            text = raw.decode().replace(" ", "▁")
            kind = PieceKind.BYTE if _BYTE.fullmatch(text) else PieceKind.NORMAL
            yield Piece(text, score, kind)
        index += 1
