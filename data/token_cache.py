"""A corpus as packed rows of token ids on disk: made once, then trained from."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

from data.durable import removed_on_failure, replace_directory, temporary_of, write_durably
from data.errors import DataError
from data.packed_file import PackedFile, PackedWriter
from data.texts import Corpus
from data.tokenizer import Tokenizer

KEY_FILE = "made_of.json"
BATCH_TEXTS = 256
"""Texts that are tokenised at a time, in native threads."""
SHARES = 1_000_000
"""How fine the share of held-out documents is told."""


def packed_corpus(
    corpus: Corpus,
    tokenizer: Tokenizer,
    directory: Path,
    *,
    row_length: int,
    context: int,
    validation_share: float,
) -> tuple[PackedFile, PackedFile]:
    """Training and held-out rows; made in the directory unless they are there.

    Of lines and table rows, the held-out ones are spread evenly; of whole files they are the end of
    the corpus.

    Args:
        corpus: its documents get BOS and EOS around them.
        tokenizer: makes the ids.
        directory: complete or absent; without its key file it counts as absent.
        row_length: tokens per row.
        context: tokens of the longest sequence that the model may see; longer documents are cut.
        validation_share: of the documents, or of the rows of whole files; at most ½.

    Raises:
        DataError: bad texts, or rows that were made of other texts or another vocabulary.
    """
    key = {"corpus": corpus.hash, "tokenizer": tokenizer.hash}
    if not (directory / KEY_FILE).exists():
        _make(corpus, tokenizer, directory, key, row_length, context, validation_share)
    made_of = json.loads((directory / KEY_FILE).read_text(encoding="utf-8"))
    for name, value in key.items():
        if made_of[name] != value:
            raise DataError(
                f"the {name} is no longer the one that {str(directory)!r} was made of; restore "
                "it to continue, or choose another --out"
            )
    train = PackedFile(directory / "train")
    if corpus.documents == "files":
        return train.split(len(train) - round(len(train) * validation_share))
    return train, PackedFile(directory / "validation")


def delete_packed(directory: Path) -> None:
    """Deletes what `packed_corpus` made: a process killed meanwhile leaves no half directory."""
    temporary = temporary_of(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    os.rename(directory, temporary)
    shutil.rmtree(temporary)


def _make(
    corpus: Corpus,
    tokenizer: Tokenizer,
    directory: Path,
    key: dict[str, str],
    row_length: int,
    context: int,
    validation_share: float,
) -> None:
    held_out = Fraction(validation_share if corpus.documents == "lines" else 0.0)
    held_out = held_out.limit_denominator(SHARES)
    piece = context if context < row_length else sys.maxsize  # else the end of a row cuts
    temporary = temporary_of(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    with removed_on_failure(temporary):
        train, validation = (
            PackedWriter(
                temporary / part,
                length=row_length,
                pad_id=tokenizer.pad_id,
                vocab_size=tokenizer.vocab_size,
                in_order=corpus.documents == "files",  # whose end is held out
            )
            for part in ("train", "validation")
        )
        for index, ids in enumerate(_encoded(corpus, tokenizer)):
            part = validation if _is_due(index, held_out) else train
            for start in range(0, len(ids), piece):
                part.add(ids[start : start + piece])
        train.close()
        validation.close()
        write_durably(temporary / KEY_FILE, json.dumps(key).encode())
        replace_directory(temporary, directory)


def _is_due(index: int, share: Fraction) -> bool:
    """Whether the index-th of many is among those that keep up with the share; the first one is."""
    n, d = share.numerator, share.denominator
    return index * n // d > (index - 1) * n // d


def _encoded(corpus: Corpus, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The ids of each text, with BOS where a document begins and EOS where it ends."""
    texts, bos, eos = corpus.texts(), [tokenizer.bos_id], [tokenizer.eos_id]
    while batch := list(islice(texts, BATCH_TEXTS)):
        for text, ids in zip(batch, tokenizer.encode_batch([t.text for t in batch]), strict=True):
            yield (bos if text.begins else []) + ids + (eos if text.ends else [])
