"""Standing instructions in a file: what a user asks once and means for a whole dialogue."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError


@dataclass(frozen=True, kw_only=True)
class StandingInstruction:
    """An instruction, and how to see that an answer obeys it."""

    text: str
    marker: str | None = None
    """The word that every obedient answer contains; None where no single word shows it."""

    def obeyed_by(self, answer: str) -> bool | None:
        """Whether the answer contains the marker as a word; None where there is no marker."""
        if self.marker is None:
            return None
        return self.marker.lower() in re.findall(r"\w+", answer.lower())


def read_instructions(path: Path) -> list[StandingInstruction]:
    """A JSON-lines file with `instruction` and, where recall is measured, `marker`.

    Raises:
        DataError: no such file, no UTF-8, a line that is no such object, or nothing in it.
    """
    if not path.is_file():
        raise DataError(
            f"no instructions at {str(path)!r}; give a file of JSON lines with 'instruction'"
        )
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold other line ends
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r} is not UTF-8 ({error}); save it as UTF-8") from error
    found = [
        _parse(line, f"{str(path)!r} line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise DataError(f"{str(path)!r} is empty; give a JSON object with 'instruction' per line")
    return found


def _parse(line: str, place: str) -> StandingInstruction:
    try:
        record = json.loads(line)
        found = StandingInstruction(text=record["instruction"], marker=record.get("marker"))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{place} is {line[:60]!r}; it must be a JSON object with 'instruction'"
        ) from error
    if not isinstance(found.text, str):
        raise DataError(f"{place}: the instruction is {found.text!r}; it must be a text")
    if found.marker is not None and not _is_word(found.marker):
        raise DataError(
            f"{place}: the marker is {found.marker!r}; it must be one word, or answers that "
            "contain it would not be seen to obey"
        )
    return found


def _is_word(marker: object) -> bool:
    return isinstance(marker, str) and re.fullmatch(r"\w+", marker) is not None
