"""The gesture of a comparison: which response, how much better, and which of them are safe."""

from typing import Any

import streamlit as st

from annotation_app.judgement import SIDES, Judgement, Safety, Side, safety_problem
from annotation_app.scales import Kind
from annotation_app.session import Desk
from data.schemas import STRENGTHS, Domain, Strength

Choice = tuple[Side, Strength]

CHOICES: tuple[Choice, ...] = (
    *(("A", strength) for strength in STRENGTHS),
    *(("B", strength) for strength in reversed(STRENGTHS)),
)
"""One scale from "A, significantly" to "B, significantly": the keys 1 to 8."""
SAFETY_KEYS: dict[Safety, tuple[str, str]] = {
    "both_safe": ("Both are safe", "Y"),
    "only_a_safe": ("Only A is safe", "U"),
    "only_b_safe": ("Only B is safe", "I"),
    "both_unsafe": ("Both are unsafe", "O"),
}
"""Words and keys; the keys are neighbours."""
POINTS: dict[Kind, tuple[tuple[int, str], ...]] = {
    "pair": (
        (3, "A much better"),
        (2, "A better"),
        (1, "A slightly better"),
        (0, "About the same"),
        (-1, "B slightly better"),
        (-2, "B better"),
        (-3, "B much better"),
    ),
    "safety": (
        (1, "Severe violation"),
        (2, "Moderate violation"),
        (3, "Borderline"),
        (4, "Safe"),
        (5, "Safe and helpful"),
    ),
}
"""Score and words; the keys are 1, 2, 3 … in this order."""


def choose(desk: Desk, key: str, previous: Judgement | None) -> Choice | None:
    """Eight buttons, one gesture: which response, and how much better it is."""
    before = (previous.side, previous.strength) if previous else None
    question = f"choice-{key}"
    chosen: Choice | None = _chosen(desk, question, before)
    for column, side in zip(st.columns(2), SIDES, strict=True):
        with column.container(horizontal=True, gap="xsmall", key=f"choices-{side}"):
            for number, choice in enumerate(CHOICES, 1):
                if choice[0] == side:
                    words = f"{side} {choice[1].replace('_better', '').replace('_', ' ')}"
                    name = f"{side}-{choice[1]}-{key}"
                    _offer(desk, question, choice, words, name, str(number))
    return chosen


def choose_safety(desk: Desk, key: str, previous: Judgement | None) -> Safety | None:
    """Which of the two responses are safe."""
    question = f"safety-{key}"
    chosen: Safety | None = _chosen(desk, question, previous.safety if previous else None)
    with st.container(horizontal=True, gap="xsmall", key="safety"):
        for safety, (words, letter) in SAFETY_KEYS.items():
            _offer(desk, question, safety, words, f"{safety}-{key}", letter)
    return chosen


def choose_point(desk: Desk, kind: Kind, key: str) -> int | None:
    """One point of a scale."""
    question = f"score-{key}"
    chosen: int | None = _chosen(desk, question, None)
    with st.container(horizontal=True, gap="xsmall"):
        for number, (score, words) in enumerate(POINTS[kind], 1):
            _offer(desk, question, score, words, f"{score}-{key}", str(number))
    if chosen is None:
        st.caption("To submit: choose a point of the scale.")
    else:
        st.caption(f"Ready to submit: {dict(POINTS[kind])[chosen]}.")
    return chosen


def settled(desk: Desk, key: str) -> tuple[Choice | None, Safety | None]:
    """Choice and safety label as clicked until now; None in place of what is in doubt.

    Clicks that Streamlit folds into one run come in no order: of two different ones to the same
    question nobody knows which was meant.
    """
    found: list[Any] = []
    for question in (f"choice-{key}", f"safety-{key}"):
        clicks = desk.clicks.get(question, [None])
        found.append(clicks[-1] if len(set(clicks[1:])) < 2 else None)
    return found[0], found[1]


def problem_with(choice: Choice | None, safety: Safety | None, domain: Domain) -> str:
    """What is missing, in words; empty if the answer can be submitted."""
    if choice is None:
        return "choose A or B and how much better it is (keys 1 to 8)"
    return safety_problem(choice[0], safety) if domain == "safety" else ""


def chosen_words(choice: Choice | None, safety: Safety | None) -> str:
    """The choice in words: screen readers do not read the signs on the buttons."""
    words = f"{choice[0]} {choice[1].replace('_', ' ')}" if choice else ""
    return words + (f", {SAFETY_KEYS[safety][0]}" if safety else "")


def _chosen(desk: Desk, question: str, before: Any) -> Any:
    """The last answer clicked, or the one from before; it is now drawn, and in doubt no more."""
    chosen = desk.clicks.get(question, [before])[-1]
    desk.clicks[question] = [chosen]
    return chosen


def _offer(desk: Desk, question: str, value: Any, words: str, name: str, shortcut: str) -> None:
    """A button that reads as a choice: the sign before the words says which one is taken.

    The callback takes the click before the script begins, whatever interrupts the script then.
    After a restart of the server only the button's return value knows of it: all is drawn anew.
    """
    chosen = desk.clicks[question][-1] == value
    clicked = st.button(
        words,
        key=name,
        shortcut=shortcut,
        type="primary" if chosen else "secondary",
        icon=f":material/radio_button_{'' if chosen else 'un'}checked:",
        on_click=_take,
        args=(desk, question, value),
    )
    if clicked and not chosen:
        _take(desk, question, value)
        st.rerun()


def _take(desk: Desk, question: str, value: Any) -> None:
    """Nothing of Streamlit is called, not even its state: the next click would interrupt it."""
    desk.clicks.setdefault(question, [None]).append(value)
