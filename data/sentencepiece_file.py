"""What a SentencePiece model file says: a protocol buffer, read and written by hand.

The library tells ids but not how text is prepared for them, and the module that could read its
files cannot be loaded beside transformers' own copy of it. Field numbers are those of
sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from data.errors import DataError

BPE = 2
"""model_type of the trainer's part."""


class PieceKind(IntEnum):
    """What a piece is for."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(NamedTuple):
    """One entry of the vocabulary; its place in the list is its id."""

    text: str
    score: float
    kind: PieceKind


@dataclass(frozen=True)
class SentencePieceFile:
    """The parts that other programs need in order to make the same ids."""

    pieces: list[Piece]
    is_bpe: bool
    rewrites_text: bool
    """Whether characters are normalised or blanks removed, as Llama's model does not."""
    adds_prefix: bool
    """Whether a text begins as if a blank stood before it."""


def parse_model(content: bytes) -> SentencePieceFile:
    """The parts of a `tokenizer.model` that SentencePiece itself has accepted."""
    pieces, is_bpe, rewrites, prefix = [], False, True, True
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(dict(_fields(value))))
        elif number == 2 and isinstance(value, bytes):
            is_bpe = dict(_fields(value)).get(3) == BPE
        elif number == 3 and isinstance(value, bytes):
            spec = dict(_fields(value))
            rewrites = bool(spec.get(2)) or bool(spec.get(4, 1))
            prefix = bool(spec.get(3, 1))
    return SentencePieceFile(pieces, is_bpe, rewrites, prefix)


def build_model(pieces: Sequence[Piece], eos: str = "</s>") -> bytes:
    """A BPE model with byte fallback that leaves text as it is, like Llama's.

    Args:
        pieces: in the order of their ids.
        eos: the control piece that ends a text.
    """
    content = b""
    for piece in pieces:
        content += _bytes_field(
            1,
            _bytes_field(1, piece.text.encode())
            + _varint(2 << 3 | 5)
            + struct.pack("<f", piece.score)
            + _number_field(3, piece.kind),
        )
    trainer = (
        _number_field(3, BPE)
        + _number_field(4, len(pieces))
        + _number_field(35, 1)  # byte fallback
        + _bytes_field(47, eos.encode())
    )
    normalizer = _bytes_field(1, b"identity") + _number_field(3, 1) + _number_field(4, 0)
    return content + _bytes_field(2, trainer) + _bytes_field(3, normalizer)


def _piece(fields: dict[int, bytes | int]) -> Piece:
    text, score = fields[1], fields.get(2, b"\0\0\0\0")
    assert isinstance(text, bytes) and isinstance(score, bytes)
    kind = PieceKind(int(fields.get(3, PieceKind.NORMAL)))
    return Piece(text.decode(), struct.unpack("<f", score)[0], kind)


def _fields(content: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of every field; strings, messages and floats as bytes."""
    at = 0
    while at < len(content):
        key, at = _read_varint(content, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _read_varint(content, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire_type)
        if wire_type == 2:
            size, at = _read_varint(content, at)
        if size is None:
            raise DataError("the SentencePiece model is damaged; copy it again")
        yield number, content[at : at + size]
        at += size


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    content = b""
    while value > 0x7F:
        content += bytes([value & 0x7F | 0x80])
        value >>= 7
    return content + bytes([value])


def _number_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value
