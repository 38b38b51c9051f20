"""Texts of models and people are data: they are cut into parts and shown, never interpreted. Pure.

No part is rendered as Markdown or HTML, so a text cannot bring links, images or scripts with it.
"""

import re
from dataclasses import dataclass
from typing import Literal

MAX_SHOWN = 20_000
"""Characters shown at first: a browser becomes slow over much longer texts."""

_BLOCK = re.compile(
    r"^[ \t]*```[^\n`]*\n(?P<code>.*?)(?:^[ \t]*```[ \t]*$|\Z)|\$\$(?P<maths>.+?)\$\$",
    re.DOTALL | re.MULTILINE,
)
# Control characters but tab and line feed: they would be invisible, or disturb the terminal; and
# those that turn the order of letters around, by which a text can read otherwise than it is.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e]")


@dataclass(frozen=True)
class Part:
    """A stretch of a text."""

    kind: Literal["prose", "code", "maths"]
    text: str


def parts_of(text: str) -> list[Part]:
    """Prose, fenced code and display mathematics ($$…$$), in the order of the text."""
    parts: list[Part] = []
    start = 0
    for block in _BLOCK.finditer(text):
        parts.append(Part("prose", text[start : block.start()]))
        if block["code"] is not None:
            parts.append(Part("code", block["code"].rstrip("\n")))
        else:
            parts.append(Part("maths", block["maths"].strip()))
        start = block.end()
    parts.append(Part("prose", text[start:]))
    kept = [Part(part.kind, part.text.strip("\n")) for part in parts]
    return [part for part in kept if part.text.strip()]


def visible(text: str) -> str:
    """The text with control characters replaced by a sign that shows them."""
    return _CONTROL.sub("�", text.replace("\r\n", "\n"))


def shortened(text: str) -> tuple[str, int]:
    """What is shown at first, and how many characters are not."""
    return text[:MAX_SHOWN], max(0, len(text) - MAX_SHOWN)


def literal(text: str) -> str:
    """A text as Markdown that shows it and nothing else: one span of code."""
    one_line = " ".join(visible(text).split())
    longest = max(map(len, re.findall("`+", one_line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {one_line} {fence}" if longest else f"`{one_line}`"
