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

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from data.counting import TokenCounter
from data.errors import DataError
from data.importers.imported import ImportedFile, Record, Unusable, counts, import_records
from data.importers.records import lines_of
from data.schemas import Comparison, Domain, Message, Role

Reason = Literal["identical", "prefixes differ", "empty reply", "malformed", "duplicate"]
REASONS: tuple[Reason, ...] = get_args(Reason)

_LABEL = re.compile(r"\n\n(Human|Assistant):")
_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
_DOMAINS: dict[str, Domain] = {"harmless": "safety", "helpful": "helpfulness"}


def read_files(
    paths: Sequence[Path],
    counter: TokenCounter,
    *,
    domain: Domain | None = None,
    strict: bool = False,
) -> list[ImportedFile[Comparison]]:
    """The comparisons of HH files, in the order of their lines.

    A comparison that occurs twice, in one file or in two of the same source, is kept once.

    Args:
        paths: JSON lines, plain or .gz.
        counter: counts the tokens of prompts and responses.
        domain: of all files; None takes it from each name ("harmless", "helpful").
        strict: raise at the first malformed line.

    Raises:
        DataError: a file cannot be read, holds not one comparison, or its name tells no domain;
            under `strict`, at the first malformed line.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(f"{str(path)!r} is no file; check the path")
    seen: set[str] = set()
    return [_read_file(path, counter, domain or domain_of(path), seen, strict) for path in paths]


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


def _read_file(
    path: Path, counter: TokenCounter, domain: Domain, seen: set[str], strict: bool
) -> ImportedFile[Comparison]:
    source = source_of(path)

    def rows_of(line: Any) -> Iterator[Comparison]:
        yield _comparison(line, source, domain, counter)

    return import_records(path, _records(path), rows_of, Comparison, seen=seen, strict=strict)


def _records(path: Path) -> Iterator[Record]:
    for number, line in enumerate(lines_of(path), start=1):
        text = line.decode("utf-8", errors="replace").rstrip("\n")
        yield Record(number, text, lambda line=line: line)  # type: ignore[misc]


def _comparison(line: bytes, source: str, domain: Domain, counter: TokenCounter) -> Comparison:
    chosen_text, rejected_text = _transcripts(line)
    if chosen_text == rejected_text:
        raise Unusable("identical")
    chosen, rejected = _turns(chosen_text), _turns(rejected_text)
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("prefixes differ")
    if not chosen[-1].content or not rejected[-1].content:
        raise Unusable("empty reply")
    if chosen == rejected:  # equal but for space around a turn
        raise Unusable("identical")
    prompt = _joined(chosen[:-1])
    if not prompt or prompt[-1].role != "user" or not all(m.content for m in prompt):
        raise Unusable("malformed")
    return Comparison(
        comparison_id=_identity(source, prompt, chosen[-1], rejected[-1]),
        prompt=prompt,
        chosen=(chosen[-1],),
        rejected=(rejected[-1],),
        domain=domain,
        source=source,
        **counts(counter, prompt, chosen[-1:], rejected[-1:]),  # type: ignore[arg-type]
    )


def _transcripts(line: bytes) -> tuple[str, str]:
    try:
        record = json.loads(line)
        chosen, rejected = record["chosen"], record["rejected"]
        (chosen + rejected).encode()  # JSON can escape lone surrogates, Parquet cannot hold them
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable("malformed") from error
    return chosen, rejected


def _turns(transcript: str) -> list[Message]:
    """One message per label, from Human to Assistant."""
    before, *parts = _LABEL.split(transcript)
    labels, texts = parts[::2], parts[1::2]
    if before or not labels or labels[0] != "Human" or labels[-1] != "Assistant":
        raise Unusable("malformed")
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
