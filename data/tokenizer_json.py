"""tokenizer.json: a SentencePiece BPE model in the words of Hugging Face's tokenizers.

transformers reads it in place of tokenizer.model, which it does not tokenise with any more. Merges
are every way to make a piece of two others, best piece first; text becomes ids as in SentencePiece:
blanks are "▁", one stands before every stretch of text between special pieces, unknown characters
become bytes.
"""

from collections.abc import Sequence
from typing import Any

from data.errors import DataError
from data.sentencepiece_file import Piece, PieceKind, SentencePieceFile

SPECIAL = (PieceKind.CONTROL, PieceKind.UNKNOWN)


def tokenizer_json(model: SentencePieceFile, bos: str) -> dict[str, Any]:
    """The content of tokenizer.json.

    Args:
        model: the vocabulary.
        bos: is put before a text where special pieces are asked for.

    Raises:
        DataError: a vocabulary that is not like Llama's.
    """
    if not model.is_bpe or model.rewrites_text or not model.adds_prefix:
        raise DataError(
            "the SentencePiece model is not like Llama's (BPE, text left as it is, a blank put "
            "before it), so no tokenizer.json can say what it does; train one with "
            "`rlhf tokenizer train`"
        )
    vocabulary = {piece.text: index for index, piece in enumerate(model.pieces)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, p) for i, p in enumerate(model.pieces) if p.kind in SPECIAL],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": _begins_with(bos, vocabulary[bos]),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": next(p.text for p in model.pieces if p.kind == PieceKind.UNKNOWN),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges(model.pieces),
        },
    }


def merges(pieces: Sequence[Piece]) -> list[list[str]]:
    """All pairs of pieces that together are a piece, in the order in which they are merged."""
    ranks = {p.text: (-p.score, i) for i, p in enumerate(pieces) if p.kind == PieceKind.NORMAL}
    ids = {text: index for text, (_, index) in ranks.items()}
    found = []
    for text, rank in ranks.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                found.append((rank, ids[left], ids[right], [left, right]))
    return [pair for *_, pair in sorted(found)]


def _added(index: int, piece: Piece) -> dict[str, Any]:
    return {
        "id": index,
        "content": piece.text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _begins_with(bos: str, index: int) -> dict[str, Any]:
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    second = {"SpecialToken": {"id": bos, "type_id": 1}}
    single = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, single],
        "pair": [first, single, second, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [index], "tokens": [bos]}},
    }
