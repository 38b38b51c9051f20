"""`rlhf annotate`: the annotation app in the browser, on this machine."""

import errno
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import ConfigError
from rlhf.cli.parsing import parse

if TYPE_CHECKING:
    from annotation_app.settings import AppSettings

HOST = "127.0.0.1"
DEMO_ITEMS = 100
"""In each of the two demo batches."""
_OPTIONS = {
    "server.address": HOST,
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "theme.light.primaryColor": "#1f5fb4",
    "theme.dark.primaryColor": "#2f74d0",
}


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """Open the annotation app for one person on this machine; a new ledger gets demo data."""

    ledger: str = "datasets/annotations/ledger.sqlite"
    """File of the ledger, or a PostgreSQL URL; made where there is none."""
    publish_to: Path = Path("datasets/annotations/comparisons")
    """The dataset that the publish button writes to."""
    port: int = 8501
    """Of the web page."""
    endpoint: str | None = None
    """Of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1: its models answer what
    annotators write. A key is taken from the variable RLHF_ENDPOINT_KEY."""
    models: tuple[str, str] = ("default", "default")
    """The endpoint's two variants."""
    temperatures: tuple[float, float] = (0.7, 1.0)
    """Sampling temperature of each variant."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; it must be from 1 to 65535; try 8501")


def main(argv: Sequence[str]) -> None:
    """Prepares the ledger, then becomes the web server; does not return."""
    config = parse(AnnotateConfig, argv, prog="rlhf annotate")
    _check_installed()
    _check_port(config.port)
    settings = _settings(config)
    _prepare(config)
    _become_server(config, settings)


def _check_installed() -> None:
    for module in ("streamlit", "sqlalchemy"):
        if find_spec(module) is None:
            raise ConfigError(
                f"the app needs {module}, which is not installed; run `make app` in the checkout, "
                "or pip install 'rlhf[app]'"
            )


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            reason = "in use" if error.errno == errno.EADDRINUSE else "reserved for the system"
            other = port % 60_000 + 1_025
            raise ConfigError(f"port {port} is {reason}; try --port {other}") from error


def _prepare(config: AnnotateConfig) -> None:
    """Errors of the ledger appear here, on the terminal, and not later in the browser."""
    from annotation_app.ledger.access import ensure_person
    from annotation_app.ledger.database import Database
    from annotation_app.ledger.queue import create_batch, progress
    from annotation_app.responders.demo import draw_items
    from annotation_app.settings import LOCAL_PERSON
    from data.schemas import DOMAINS

    database = Database(config.ledger)
    try:
        ensure_person(database, LOCAL_PERSON, "manager")
        if not progress(database, LOCAL_PERSON):
            for domain in DOMAINS:
                items = draw_items(domain, DEMO_ITEMS)
                create_batch(database, LOCAL_PERSON, f"demo-{domain}", items, domain=domain)
    finally:
        database.close()


def _settings(config: AnnotateConfig) -> "AppSettings":
    from annotation_app.responders.endpoint import Endpoint
    from annotation_app.settings import AppSettings

    endpoint = None
    if config.endpoint is not None:
        endpoint = Endpoint(
            url=config.endpoint, models=config.models, temperatures=config.temperatures
        )
    return AppSettings(
        ledger=_absolute(config.ledger), publish_to=str(config.publish_to), endpoint=endpoint
    )


def _become_server(config: AnnotateConfig, settings: "AppSettings") -> None:
    import annotation_app
    from annotation_app.ledger.database import shown_place

    page = Path(annotation_app.__path__[0]) / "app.py"
    options = _OPTIONS | {"server.port": str(config.port)}
    words = [sys.executable, "-m", "streamlit", "run", str(page)]
    words += [f"--{name}={value}" for name, value in options.items()]
    print(f"annotation app: http://{HOST}:{config.port}  (this machine only; Ctrl-C ends it)")
    print(f"ledger: {shown_place(config.ledger)}   dataset: {config.publish_to}", flush=True)
    os.execve(sys.executable, words, dict(os.environ) | settings.to_environment())


def _absolute(ledger: str) -> str:
    return ledger if "://" in ledger else str(Path(ledger).expanduser().absolute())
