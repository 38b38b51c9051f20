"""A reward that anyone can check: the share of happy words. For demonstrations and tests."""

import re

HAPPY = frozenset(
    "happy happier happiest happily happiness glad joy joyful cheerful cheered delighted excited "
    "proud smile smiled smiles smiling laugh laughed laughs laughing laughter giggle giggled fun "
    "funny love loved loves loving hug hugged hugs hugging kiss kissed friend friends friendly "
    "wonderful enjoy enjoyed yay".split()
)
_WORD = re.compile(r"[a-z]+")


def share(prompts: list[str], responses: list[str]) -> list[float]:
    """Happy words among 100 words of each response; 0 where it has no word."""
    return [_percent(_WORD.findall(response.lower())) for response in responses]


def _percent(words: list[str]) -> float:
    return 100 * sum(word in HAPPY for word in words) / max(1, len(words))
