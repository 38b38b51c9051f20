"""The gesture of a comparison: which response, how much better, and which of them are safe."""

from collections.abc import Mapping

import streamlit as st

from annotation_app.judgement import SIDES, Judgement, Safety, Side, safety_problem
from annotation_app.scales import Kind
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


def choose(key: str, previous: Judgement | None) -> Choice | None:
    """Eight buttons, one gesture: which response, and how much better it is."""
    state = f"choice-{key}"
    _note_click(state, {f"{side}-{strength}-{key}": (side, strength) for side, strength in CHOICES})
    if previous is not None:
        st.session_state.setdefault(state, (previous.side, previous.strength))
    chosen: Choice | None = st.session_state.get(state)
    for column, side in zip(st.columns(2), SIDES, strict=True):
        with column.container(horizontal=True, gap="xsmall", key=f"choices-{side}"):
            for number, choice in enumerate(CHOICES, 1):
                if choice[0] == side:
                    words = f"{side} {choice[1].replace('_better', '').replace('_', ' ')}"
                    name = f"{side}-{choice[1]}-{key}"
                    if _option(words, name, str(number), chosen=chosen == choice):
                        _take(state, choice)
    return chosen


def choose_safety(key: str, previous: Judgement | None) -> Safety | None:
    """Which of the two responses are safe."""
    state = f"safety-{key}"
    _note_click(state, {f"{safety}-{key}": safety for safety in SAFETY_KEYS})
    if previous is not None:
        st.session_state.setdefault(state, previous.safety)
    chosen: Safety | None = st.session_state.get(state)
    with st.container(horizontal=True, gap="xsmall", key="safety"):
        for safety, (words, letter) in SAFETY_KEYS.items():
            if _option(words, f"{safety}-{key}", letter, chosen=chosen == safety):
                _take(state, safety)
    return chosen


def choose_point(kind: Kind, key: str) -> int | None:
    """One point of a scale."""
    state = f"score-{key}"
    _note_click(state, {f"{score}-{key}": score for score, _ in POINTS[kind]})
    chosen: int | None = st.session_state.get(state)
    with st.container(horizontal=True, gap="xsmall"):
        for number, (score, words) in enumerate(POINTS[kind], 1):
            if _option(words, f"{score}-{key}", str(number), chosen=chosen == score):
                _take(state, score)
    if chosen is None:
        st.caption("To submit: choose a point of the scale.")
    else:
        st.caption(f"Ready to submit: {dict(POINTS[kind])[chosen]}.")
    return chosen


def problem_with(choice: Choice | None, safety: Safety | None, domain: Domain) -> str:
    """What is missing, in words; empty if the answer can be submitted."""
    if choice is None:
        return "choose A or B and how much better it is (keys 1 to 8)"
    return safety_problem(choice[0], safety) if domain == "safety" else ""


def chosen_words(choice: Choice | None, safety: Safety | None) -> str:
    """The choice in words: screen readers do not read the signs on the buttons."""
    words = f"{choice[0]} {choice[1].replace('_', ' ')}" if choice else ""
    return words + (f", {SAFETY_KEYS[safety][0]}" if safety else "")


def _option(words: str, name: str, shortcut: str, *, chosen: bool) -> bool:
    """A button that reads as a choice: the sign before the words says which one is taken.

    Returns:
        Whether it was clicked and is not taken yet.
    """
    clicked = st.button(
        words,
        key=name,
        shortcut=shortcut,
        type="primary" if chosen else "secondary",
        icon=f":material/radio_button_{'' if chosen else 'un'}checked:",
    )
    return clicked and not chosen


def _note_click(state: str, named: Mapping[str, Choice | Safety | int]) -> None:
    """Takes what was clicked before it is drawn, so that it need not be drawn twice."""
    for name, value in named.items():
        if st.session_state.get(name):
            st.session_state[state] = value


def _take(state: str, value: Choice | Safety | int) -> None:
    """Draws anew: after a restart only the button's return value knows of its click."""
    st.session_state[state] = value
    st.rerun()
