r"""Anthropic's HH transcripts (Bai et al. 2022, github.com/anthropics/hh-rlhf) → comparisons.

A line is {"chosen": transcript, "rejected": transcript}, and a transcript is turns, each begun by a
label: "\n\nHuman: …\n\nAssistant: …". The two share all turns but the last reply. What the real
files hold beyond that, and what becomes of it:

* The label has no escape. Only "\n\nHuman:" and "\n\nAssistant:" begin a turn; "Human:" within a
  line, which models of that time wrote when they spoke for the person as well (about 3 % of the
  lines), stays in the text as it is.
* Two Assistant turns in a row within the shared turns come from a reply in which the model wrote
  the label itself. The person saw it as one answer, so the turns are joined by an empty line.
* Where that happened in one last reply only, the shared turns differ in number. Which part of the
  long reply was judged cannot be told: dropped as "prefixes differ".
* Replies that are equal, or empty, carry no preference: dropped, each under its own reason.
* Anything else that is no dialogue from Human to Assistant without empty turns is "malformed".

Space around a turn belongs to the file format and is stripped. The source asks for no strength and
names no annotator.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from data.counting import TokenCounter, count_messages
from data.dataset import Batch, file_name, open_manifest, publish_many, split_of
from data.durable import LOCK, temporary_of, write_durably
from data.errors import DataError
from data.manifest import MANIFEST, Manifest
from data.schemas import SPLITS, Comparison, Domain, Message, Role, Split

DROPPED = "dropped.jsonl"
"""Beside the dataset: file, line, reason and text of every line that was left out."""

Reason = Literal["identical", "prefixes differ", "empty reply", "malformed", "duplicate"]
REASONS: tuple[Reason, ...] = get_args(Reason)

_LABEL = re.compile(r"\n\n(Human|Assistant):")
_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
_DOMAINS: dict[str, Domain] = {"harmless": "safety", "helpful": "helpfulness"}


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A line that became no comparison."""

    file: str
    """Its path, as it was given."""
    line: int
    """Counted from 1."""
    reason: Reason
    text: str
    """The line as it was."""


@dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """What one file held; kept and dropped add up to its lines."""

    path: Path
    rows: tuple[Comparison, ...]
    dropped: tuple[Dropped, ...]

    def num_dropped(self, reason: Reason) -> int:
        """Lines dropped for one reason."""
        return sum(line.reason == reason for line in self.dropped)


class _Unusable(Exception):
    """Why a line is dropped."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def read_files(
    paths: Sequence[Path], counter: TokenCounter, *, domain: Domain | None = None
) -> list[ImportedFile]:
    """The comparisons of HH files, in the order of their lines.

    A comparison that occurs twice, in one file or in two of the same source, is kept once.

    Args:
        paths: JSON lines, plain or .gz.
        counter: counts the tokens of prompts and responses.
        domain: of all files; None takes it from each name ("harmless", "helpful").

    Raises:
        DataError: a file cannot be read, holds not one comparison, or its name tells no domain.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(f"{str(path)!r} is no file; check the path")
    seen: set[str] = set()
    return [_read_file(path, counter, domain or domain_of(path), seen) for path in paths]


def publish_files(
    out: Path, files: Sequence[ImportedFile], *, validation: float, test: float, seed: int
) -> Manifest:
    """Publishes the rows of all files, split by prompt, in one step; dropped lines go beside them.

    The same import once more changes nothing, and repairs one that was killed.

    Args:
        out: a directory that is new, empty, or holds this very import.
        files: from `read_files`.
        validation: share of the first messages, 0 to 1.
        test: share of the first messages, 0 to 1.
        seed: of the partition into splits.

    Raises:
        DataError: `out` holds something else.
    """
    splits: dict[Split, list[Comparison]] = {split: [] for split in SPLITS}
    digest = hashlib.blake2b(digest_size=6)
    for row in (row for file in files for row in file.rows):
        split = split_of(first_message(row), validation=validation, test=test, seed=seed)
        splits[split].append(row)
        digest.update(f"{row.comparison_id} {row.domain} {row.tokenizer_hash} {split}\n".encode())
    key = f"hh-rlhf-{digest.hexdigest()}"
    batches = [Batch(split=split, key=key, rows=rows) for split, rows in splits.items() if rows]
    _check_fit(out, batches)
    manifest = publish_many(out, batches, Comparison)
    lines = [json.dumps(asdict(line), ensure_ascii=False) for f in files for line in f.dropped]
    write_durably(out / DROPPED, "".join(f"{line}\n" for line in lines).encode())
    return manifest


def source_of(path: Path) -> str:
    """Names where rows came from: "hh-rlhf/helpful-base" for helpful-base.test.jsonl.gz.

    The publisher's own layout, helpful-base/test.jsonl.gz, gives the same name.
    """
    stem = re.sub(r"\.(gz|jsonl|json)\b", "", path.name)
    stem = re.sub(r"(^|[._-])(train|test)$", "", stem)
    return f"hh-rlhf/{stem or path.absolute().parent.name}"


def domain_of(path: Path) -> Domain:
    """Safety for the harmless files, helpfulness for the helpful ones.

    Raises:
        DataError: the name says neither.
    """
    for word, domain in _DOMAINS.items():
        if word in source_of(path):
            return domain
    raise DataError(
        f"{str(path)!r} names neither 'harmless' nor 'helpful'; say --domain safety or "
        "--domain helpfulness"
    )


def first_message(row: Comparison) -> str:
    """What decides a row's split: dialogues that begin alike belong together.

    Case and the amount of white space do not count.
    """
    return " ".join(row.prompt[0].content.casefold().split())


def _check_fit(out: Path, batches: Sequence[Batch[Comparison]]) -> None:
    """Nothing, when all that `out` holds is this import, whole or begun."""
    if not out.exists():
        return
    if (out / MANIFEST).exists():
        keys = {part.key for file in open_manifest(out).files for part in file.parts}
        if keys <= {batch.key for batch in batches}:
            return
        raise DataError(
            f"{str(out)!r} holds the dataset of another import ({', '.join(sorted(keys))[:80]}); "
            "choose another --out, or remove it to import anew"
        )
    files = [out / file_name(batch.split, batch.key) for batch in batches]
    ours = {out / LOCK, *files, *(temporary_of(path) for path in (*files, out / MANIFEST))}
    foreign = sorted(path.name for path in out.iterdir() if path not in ours)
    if foreign:
        raise DataError(
            f"{str(out)!r} is not empty and no dataset of this import (it holds {foreign[0]!r}); "
            "choose another --out, or empty it"
        )


def _read_file(path: Path, counter: TokenCounter, domain: Domain, seen: set[str]) -> ImportedFile:
    rows: list[Comparison] = []
    dropped: list[Dropped] = []
    source = source_of(path)
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = _comparison(line, source, domain, counter)
            if row.comparison_id in seen:
                raise _Unusable("duplicate")
        except _Unusable as why:
            text = line.decode("utf-8", errors="replace").rstrip("\n")
            dropped.append(Dropped(file=str(path), line=number, reason=why.reason, text=text))
        else:
            seen.add(row.comparison_id)
            rows.append(row)
    if not rows and all(line.reason == "malformed" for line in dropped):
        raise DataError(
            f"{str(path)!r} holds no HH transcript in its {len(dropped)} lines; expected lines of "
            '{"chosen": "\\n\\nHuman: …", "rejected": …}; check that it is the right file'
        )
    return ImportedFile(path=path, rows=tuple(rows), dropped=tuple(dropped))


def _lines(path: Path) -> Iterator[bytes]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            yield from stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{str(path)!r} is no complete gzip file ({error}); download it again"
        ) from error


def _comparison(line: bytes, source: str, domain: Domain, counter: TokenCounter) -> Comparison:
    chosen_text, rejected_text = _transcripts(line)
    if chosen_text == rejected_text:
        raise _Unusable("identical")
    chosen, rejected = _turns(chosen_text), _turns(rejected_text)
    if chosen[:-1] != rejected[:-1]:
        raise _Unusable("prefixes differ")
    if not chosen[-1].content or not rejected[-1].content:
        raise _Unusable("empty reply")
    if chosen == rejected:  # equal but for space around a turn
        raise _Unusable("identical")
    prompt = _joined(chosen[:-1])
    if not prompt or prompt[-1].role != "user" or not all(m.content for m in prompt):
        raise _Unusable("malformed")
    return Comparison(
        comparison_id=_identity(source, prompt, chosen[-1], rejected[-1]),
        prompt=prompt,
        chosen=(chosen[-1],),
        rejected=(rejected[-1],),
        domain=domain,
        source=source,
        turns=sum(message.role == "user" for message in prompt),
        prompt_tokens=count_messages(prompt, counter),
        chosen_tokens=counter.count(chosen[-1].content),
        rejected_tokens=counter.count(rejected[-1].content),
        tokenizer_hash=counter.hash,
    )


def _transcripts(line: bytes) -> tuple[str, str]:
    try:
        record = json.loads(line)
        chosen, rejected = record["chosen"], record["rejected"]
        (chosen + rejected).encode()  # JSON can escape lone surrogates, Parquet cannot hold them
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Unusable("malformed") from error
    return chosen, rejected


def _turns(transcript: str) -> list[Message]:
    """One message per label, from Human to Assistant."""
    before, *parts = _LABEL.split(transcript)
    labels, texts = parts[::2], parts[1::2]
    if before or not labels or labels[0] != "Human" or labels[-1] != "Assistant":
        raise _Unusable("malformed")
    return [Message(_ROLES[a], b.strip()) for a, b in zip(labels, texts, strict=True)]


def _joined(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns with neighbours by the same speaker made one."""
    joined: list[Message] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            turn = Message(turn.role, f"{joined.pop().content}\n\n{turn.content}".strip())
        joined.append(turn)
    return tuple(joined)


def _identity(source: str, prompt: Sequence[Message], chosen: Message, rejected: Message) -> str:
    """The same text has the same id in every import."""
    texts = [source, *(text for m in prompt for text in (m.role, m.content))]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([*texts, chosen.content, rejected.content]).encode())
    return digest.hexdigest()
