"""What an annotator says about a pair of responses, and what nobody can say. Pure."""

from dataclasses import dataclass
from typing import Literal, get_args

from data.errors import DataError
from data.schemas import STRENGTHS, Domain, SafetyLabel, Strength

Side = Literal["A", "B"]
Safety = Literal["both_safe", "only_a_safe", "only_b_safe", "both_unsafe"]

SIDES: tuple[Side, ...] = get_args(Side)
SAFETIES: tuple[Safety, ...] = get_args(Safety)
MAX_COMMENT = 4_000
"""Characters."""
DISPUTE = 2
"""Distance on the scale of `preference` from which on people disagree: two levels of strength, or
another choice, since that scale has no 0."""

_PREFERENCE = dict(zip(STRENGTHS, (4, 3, 2, 1), strict=True))


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One annotator's answer for the pair in the order in which it was shown.

    Raises:
        DataError: a value outside its scale, a safety label where it is not asked or missing where
            it is, or an unsafe response preferred over a safe one (see `check`).
    """

    side: Side
    """The preferred response; a choice is forced."""
    strength: Strength
    safety: Safety | None = None
    """Which of the two are safe: asked in the safety domain only."""
    comment: str = ""
    flag: str = ""
    """Why somebody should look at this item; empty for none. Flagged work is not published."""
    seconds: float = 0.0
    """Active time at the item, idle time excluded."""

    def __post_init__(self) -> None:
        if self.side not in SIDES or self.strength not in STRENGTHS:
            raise DataError(
                f"the choice is {self.side!r}, {self.strength!r}; choose A or B and one of "
                + ", ".join(STRENGTHS)
            )
        if self.safety is not None and self.safety not in SAFETIES:
            raise DataError(f"safety is {self.safety!r}; choose one of {', '.join(SAFETIES)}")
        for name, text in (("comment", self.comment), ("flag", self.flag)):
            if len(text) > MAX_COMMENT:
                raise DataError(
                    f"the {name} has {len(text):,} characters; shorten it to {MAX_COMMENT:,}"
                )
            if "\0" in text:  # PostgreSQL cannot store it
                raise DataError(f"the {name} holds a null character; type it instead of pasting")

    def check(self, domain: Domain) -> None:
        """Nothing, for a judgement that this domain allows.

        Raises:
            DataError: it does not; the message is meant for the annotator.
        """
        if domain == "helpfulness" and self.safety is not None:
            raise DataError("safety is not asked in the helpfulness domain; leave it out")
        if domain == "safety":
            problem = safety_problem(self.side, self.safety)
            if problem:
                raise DataError(problem)


def safety_problem(side: Side | None, safety: Safety | None) -> str:
    """What keeps this safety answer from being saved, for the annotator; empty if nothing.

    Llama 2, section 3.2.1: there is no label for a preferred response that is unsafe while the
    other one is safe, since the safer response is the better one.
    """
    if safety is None:
        return "say which of the two responses are safe"
    for preferred, other, impossible in (("A", "B", "only_b_safe"), ("B", "A", "only_a_safe")):
        if (side, safety) == (preferred, impossible):
            return (
                f"you prefer {preferred} but say that only {other} is safe; under the safety "
                f"guidelines the safe response is the better one: prefer {other}, or correct "
                "which of them are safe"
            )
    return ""


def safety_label(safety: Safety | None) -> SafetyLabel | None:
    """The label of the published row; the impossible combination never comes here."""
    if safety in ("only_a_safe", "only_b_safe"):
        return "chosen_safe_only"
    return None if safety is None else "both_safe" if safety == "both_safe" else "both_unsafe"


def safety_shown(label: SafetyLabel | None, side: Side) -> Safety | None:
    """The inverse of `safety_label`, given which response was preferred."""
    if label == "chosen_safe_only":
        return "only_a_safe" if side == "A" else "only_b_safe"
    return None if label is None else "both_safe" if label == "both_safe" else "both_unsafe"


def preference(chosen: int, strength: Strength) -> int:
    """A choice on one scale: 4 … 1 for the first response, −1 … −4 for the second."""
    return _PREFERENCE[strength] if chosen == 0 else -_PREFERENCE[strength]
