"""Fixtures of all tests, and the rule that RLHF_NO_SKIP=1 turns a skip into a failure.

RLHF_NO_DATA=1 says that this machine has no real human data: its tests may then be skipped.
"""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.schemas import Comparison, Message
from rlhf.actors.placement import Placement

# Before anything imports huggingface_hub: no test may wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# Before anything imports torch; see one_thread.
os.environ["OMP_NUM_THREADS"] = "1"

NO_DATA = "there is no real data at"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices lose more to several threads than they gain, and sums keep their order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Placement, "threads", lambda *_: 1)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real human data, beside the checkout or at $RLHF_SHARED_DATA; its README lists the files."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("RLHF_SHARED_DATA", beside))
    if not path.is_dir():
        pytest.skip(f"{NO_DATA} {path}; set RLHF_SHARED_DATA to the folder of it")
    return path


@pytest.fixture
def make_comparison() -> Callable[..., Comparison]:
    """`make_comparison(7)`: a valid comparison whose id and texts carry the number."""

    def make(number: int, **changes: Any) -> Comparison:
        values: dict[str, Any] = {
            "comparison_id": f"c{number}",
            "prompt": (Message("user", f"question {number}"),),
            "chosen": (Message("assistant", f"good answer {number}"),),
            "rejected": (Message("assistant", f"bad answer {number}"),),
            "domain": "helpfulness",
            "source": "test",
            "turns": 1,
            "prompt_tokens": 2,
            "chosen_tokens": 3,
            "rejected_tokens": 3,
            "tokenizer_hash": "words",
        }
        return Comparison(**values | changes)

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if not hasattr(report, "wasxfail") and item.get_closest_marker("gpu") is None:
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    report = yield
    _fail_if_skipped(report)  # a whole module, by importorskip for example
    return report


def _fail_if_skipped(report: Any) -> None:
    if not report.skipped or os.environ.get("RLHF_NO_SKIP") != "1":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if NO_DATA in reason and os.environ.get("RLHF_NO_DATA") == "1":
        return
    report.outcome = "failed"
    report.longrepr = f"RLHF_NO_SKIP=1, but {report.nodeid} was skipped: {reason}"
