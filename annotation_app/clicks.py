"""That no click gets lost between the browser and its callback."""

from typing import Any

from streamlit.runtime.state.safe_session_state import SafeSessionState


def keep_every_click() -> None:
    """Lets every run of the script take its clicks before the next click may end it.

    Streamlit (1.67) looks for a next click first. A choice and Submit that arrive together, as
    after a stall of the network, would then be Submit alone: with the choice of before. There is no
    setting for it; `tests/annotation_app/test_clicks.py` says when a new version needs another way.
    """
    SafeSessionState.on_script_will_rerun = _take_clicks  # type: ignore[method-assign]


def _take_clicks(self: SafeSessionState, *args: Any, **named: Any) -> None:
    with self._lock:
        self._state.on_script_will_rerun(*args, **named)
