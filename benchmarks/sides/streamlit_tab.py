"""A browser tab of a Streamlit app without the browser: its web socket and its protocol.

The server sends deltas, each an element at a place of the page; the tab sends which widget was
clicked, together with what the other widgets hold, and the script runs again. Written against the
messages of Streamlit 1.67 (`streamlit.proto`).
"""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

PATIENCE = 60.0
"""Seconds until an answer counts as none."""


class TabError(Exception):
    """What somebody would see as a fault: an error on the page, a lost connection, no answer."""


class Tab:
    """One page that is open in one browser.

    Args:
        url: of the app, as in http://127.0.0.1:8501.
        cookie: what the browser sends along, as in name=value.
    """

    def __init__(self, url: str, cookie: str) -> None:
        self._url, self._cookie = url, cookie
        self._socket: ClientConnection | None = None
        self._page = ""
        self._elements: dict[tuple[int, ...], Any] = {}
        self.runs = 0
        """Script runs that the server has begun for this tab."""
        self.messages = 0

    async def __aenter__(self) -> "Tab":
        self._socket = await connect(
            self._url.replace("http", "ws", 1) + "/_stcore/stream",
            origin=self._url,  # type: ignore[arg-type]
            subprotocols=["streamlit"],  # type: ignore[list-item]
            additional_headers={"Cookie": self._cookie},
            compression=None,
            max_size=None,
            open_timeout=PATIENCE,
            ping_interval=None,  # no browser pings
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            await self._socket.close()

    async def load(self) -> None:
        """What a page does when it is opened; returns when it is drawn."""
        await self._rerun(None, lambda: True)

    async def click(self, key: str, shows: Callable[[], bool]) -> float:
        """Clicks a button; returns when the page is drawn.

        Args:
            key: what the button's key begins with.
            shows: whether the page shows what the click is for, such as a word about it.

        Returns:
            Seconds until it was shown.

        Raises:
            TabError: there is no such button, it is disabled, or nothing of it was ever shown.
        """
        button = self.button(key)
        if button is None or button.disabled:
            raise TabError(f"the button {key!r} is {'disabled' if button else 'not there'}")
        return await self._rerun(button.id, shows)

    def button(self, key: str) -> Any:
        """The button whose key begins like this; None where there is none."""
        for element in self._elements.values():
            if element.WhichOneof("type") == "button" and _key(element.button.id).startswith(key):
                return element.button
        return None

    def key_of(self, key: str) -> str:
        """The rest of the key of the button whose key begins like this.

        Raises:
            TabError: there is no such button.
        """
        button = self.button(key)
        if button is None:
            raise TabError(f"the button {key!r} is not there; the page shows {self.texts()}")
        return _key(button.id).removeprefix(key)

    def toasts(self) -> list[str]:
        """What is said in passing."""
        return [e.toast.body for e in self._elements.values() if e.WhichOneof("type") == "toast"]

    def texts(self) -> list[str]:
        """Alerts and texts of the page, for what went wrong."""
        found = []
        for element in self._elements.values():
            match element.WhichOneof("type"):
                case "alert":
                    found.append(element.alert.body)
                case "markdown" | "text" as kind:
                    found.append(getattr(element, kind).body[:80])
        return found

    async def _rerun(self, clicked: str | None, shows: Callable[[], bool]) -> float:
        assert self._socket is not None
        message = BackMsg()
        state = message.rerun_script
        state.page_script_hash = self._page
        state.widget_states.widgets.extend(self._states())
        if clicked is not None:
            state.widget_states.widgets.append(WidgetState(id=clicked, trigger_value=True))
        began, shown = time.perf_counter(), None
        await self._socket.send(message.SerializeToString())
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    finished = self._take(await self._socket.recv())
                    if shown is None and shows():
                        shown = time.perf_counter() - began
                    if finished:
                        break
        except TimeoutError as error:
            raise TabError(f"no answer within {PATIENCE:.0f} s") from error
        except (OSError, WebSocketException) as error:
            raise TabError(f"the connection is lost ({error})") from error
        if shown is None:
            raise TabError(f"the click did nothing; the page shows {self.texts()}")
        return shown

    def _take(self, data: str | bytes) -> bool:
        """Draws what a message says; returns whether it is the last one of the answer."""
        assert isinstance(data, bytes)
        message = ForwardMsg()
        message.ParseFromString(data)
        self.messages += 1
        match message.WhichOneof("type"):
            case "new_session":
                self.runs += 1
                self._page = message.new_session.page_script_hash
                self._elements = {}
            case "delta" if message.delta.WhichOneof("type") == "new_element":
                self._draw(tuple(message.metadata.delta_path), message.delta.new_element)
            case "session_event":
                raise TabError(f"the server reports {message.session_event}")
            case "script_finished":
                return message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN
        return False

    def _draw(self, place: tuple[int, ...], element: Any) -> None:
        if element.WhichOneof("type") == "exception":
            raise TabError(f"the page shows the error {element.exception.message}")
        self._elements[place] = element

    def _states(self) -> list[WidgetState]:
        """What the widgets hold that a browser sends with every click."""
        states = []
        for element in self._elements.values():
            match element.WhichOneof("type"):
                case "checkbox":
                    held = {"bool_value": element.checkbox.default}
                case "text_area" | "text_input" as kind:
                    held = {"string_value": getattr(element, kind).default}
                case _:
                    continue
            widget = getattr(element, element.WhichOneof("type"))
            states.append(WidgetState(id=widget.id, **held))
        return states


def _key(widget_id: str) -> str:
    """What the app calls the widget: Streamlit's ids are $$ID-hash-key."""
    return widget_id.split("-", 2)[-1]
