"""How dialogues and responses are drawn; the only place where texts of others meet Streamlit."""

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from annotation_app.content import parts_of, shortened, visible
from annotation_app.session import Session
from data.schemas import Message

_STYLE = """
<style>
[data-testid="stText"] > span { unicode-bidi: plaintext; text-align: start; flex: 1;
  white-space: pre-wrap; overflow-wrap: anywhere; min-width: 0; }
textarea, input[type="text"], [data-testid="stCode"] code { unicode-bidi: plaintext; }
/* Streamlit's greys, and its primary colour as text, are too faint to read (WCAG AA: 4.5 to 1). */
[data-testid="stCaptionContainer"], .stApp button kbd { opacity: 0.9; color: inherit; }
[data-testid="stButtonGroup"] button * { color: var(--st-text-color, CanvasText); }
[data-testid="stChatMessage"] { padding: 0.5rem 0.75rem; }
.st-key-actions { padding: 0.75rem 0; border-top: 1px solid #8888; }
@media (min-width: 641px) {
  /* Always at the bottom of the window, so that a second click meets the same button. */
  .stMainBlockContainer > .stVerticalBlock:has(.st-key-actions) {
    min-height: calc(100vh - 3.6rem); }
  .stMainBlockContainer:has(.st-key-actions) { padding-bottom: 0; }
  [data-testid="stLayoutWrapper"]:has(> .st-key-actions) { position: sticky; bottom: 0;
    margin-top: auto; z-index: 10; background: var(--st-background-color, Canvas); }
}
.stMainBlockContainer { padding: 3.5rem clamp(1rem, 3vw, 5rem) 2rem; max-width: 84rem; }
.stMainBlockContainer h1 { font-size: 1.6rem; padding: 0.5rem 0; }
</style>
"""

_AVATARS = {
    "system": ":material/settings:",
    "user": ":material/person:",
    "assistant": ":material/forum:",
}


def apply_style() -> None:
    """Right-to-left texts, long words, contrast, and the bar of actions that stays in sight."""
    st.html(_STYLE)


def acknowledge(session: Session, more: str = "") -> None:
    """What was saved: as a toast, and in a line that stays in sight for those who missed it."""
    desk = session.desk
    if desk.said:
        st.caption(f":material/check: {desk.said}{more}")
    announce(session)


def announce(session: Session) -> None:
    """As a toast alone, which may come before anything else is drawn; each time it is said once."""
    desk = session.desk
    if not desk.announced:
        st.toast(desk.said, icon=":material/check:")
        desk.announced = True


def show_dialogue(messages: Sequence[Message], raw: bool, key: str) -> None:
    """The turns so far, oldest first; the key says of what: nothing stays unfolded for the next."""
    with st.container(gap="xsmall"):
        for number, message in enumerate(messages):
            show_message(message, raw=raw, key=f"{key}-{number}")


def show_message(message: Message, *, raw: bool, key: str, title: str = "") -> None:
    """One turn, under a title of ours if it has one."""
    with st.chat_message(message.role, avatar=_AVATARS[message.role]):
        if title:
            st.caption(title)
        show_text(message.content, raw=raw, key=key)


def show_text(text: str, *, raw: bool, key: str | None) -> None:
    """A text as data: prose, code and mathematics, or exactly as it is.

    Args:
        raw: every character as it stands, in a fixed-width font.
        key: names the button that shows the rest of a very long text; None shows all of it.
    """
    shown, hidden = shortened(text) if key else (text, 0)
    if hidden and st.toggle(f"Show {hidden:,} more characters", key=f"all-{key}"):
        shown = text
    if raw:
        st.code(shown, language=None, wrap_lines=True)
        return
    for part in parts_of(visible(shown)):
        match part.kind:
            case "prose":
                st.text(part.text, width="stretch")  # else right-to-left begins at the left
            case "code":
                st.code(part.text, language=None, wrap_lines=True)
            case "maths":
                st.latex(part.text)


def show_pair(response_a: str, response_b: str, *, raw: bool, key: str) -> None:
    """Both responses side by side, in panes of equal height."""
    for side, place, text in zip("AB", panes(), (response_a, response_b), strict=True):
        with place:
            show_text(text, raw=raw, key=f"{key}-{side}")


def panes() -> list[DeltaGenerator]:
    """Where responses A and B stand."""
    places = [column.container(border=True, height="stretch") for column in st.columns(2)]
    for side, place in zip("AB", places, strict=True):
        place.markdown(f"##### Response {side}", anchors=False)
    return places
