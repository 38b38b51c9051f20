"""Clicks that come faster than the script runs, over Streamlit's own protocol."""

import asyncio
from functools import partial
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

from benchmarks.annotation_load import Load, _can_submit, _sign_in, answers_in, prepare
from benchmarks.sides.streamlit_tab import Tab
from tests.annotation_app.server import Server, free_port


class HastyTab(Tab):
    """A browser's tab whose person does not wait."""

    async def click_all(self, *keys: str) -> None:
        """Clicks these at once; returns when the page that says "Saved" is drawn."""
        assert self._socket is not None
        for button in [self.button(key) for key in keys]:
            message = BackMsg()
            message.rerun_script.page_script_hash = self._page
            message.rerun_script.widget_states.widgets.extend(
                [*self._states(), WidgetState(id=button.id, trigger_value=True)]
            )
            await self._socket.send(message.SerializeToString())
        async with asyncio.timeout(60):
            while not (self._take(await self._socket.recv()) and "Saved" in self.toasts()):
                pass


async def change_and_submit(url: str, token: str, times: int) -> list[str]:
    """Chooses A, then B and Submit at once; returns the items' keys."""
    items: list[str] = []
    tab = HastyTab(url, await asyncio.to_thread(_sign_in, url, token))
    async with tab:
        await tab.load()
        for _ in range(times):
            items.append(tab.key_of("submit-"))
            await tab.click(f"A-better-{items[-1]}", partial(_can_submit, tab, items[-1]))
            last = f"B-significantly_better-{items[-1]}"
            await tab.click_all(last, f"submit-{items[-1]}")
    return items


def test_a_choice_just_before_submit_is_what_is_saved(tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    (token,) = prepare(ledger, Load(clients=1, interval=1.0, seconds=6.0, ramp=1.0))
    with Server(tmp_path, free_port(), "--sign_in", "invitations") as server:
        items = asyncio.run(change_and_submit(server.url, token, times=6))
    # As Streamlit comes, half of them were saved as A: the run for B ended before it had begun.
    assert answers_in(ledger)[1] == dict.fromkeys(items, "B-significantly_better")
