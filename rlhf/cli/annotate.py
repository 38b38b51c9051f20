"""`rlhf annotate`: the annotation app in the browser, for one person or for a team."""

import errno
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from data.errors import ConfigError
from rlhf.cli.parsing import parse

if TYPE_CHECKING:
    from annotation_app.ledger.database import Database
    from annotation_app.settings import AppSettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
DEMO_ITEMS = 100
"""In each of the two demo batches."""
_OPTIONS = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "runner.fastReruns": "false",  # else a click may be lost to the next one
    "runner.postScriptGC": "false",  # after every click, of all sessions: 80 ms in which all wait
    "theme.light.primaryColor": "#1f5fb4",
    "theme.dark.primaryColor": "#2566bd",
}


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """Open the annotation app: by default for one person on this machine, with demo data if new."""

    ledger: str = "datasets/annotations/ledger.sqlite"
    """File of the ledger, or a PostgreSQL URL; made where there is none."""
    publish_to: Path = Path("datasets/annotations/comparisons")
    """The dataset that the publish button writes to."""
    port: int = 8501
    """Of the web page."""
    sign_in: Literal["local", "invitations", "openid"] = "local"
    """local: one person on this machine. Teams: invitations (links made by `rlhf annotate invite`)
    or openid (OpenID Connect, set up in .streamlit/secrets.toml)."""
    host: str = "127.0.0.1"
    """Network address to listen on; only teams may change it."""
    address: str = ""
    """What people type, such as https://annotate.example; by default http://HOST:PORT."""
    manager: str = ""
    """With openid: e-mail address of the first manager."""
    publish_every: int = 1000
    """Annotations after which the app publishes by itself; 0: only when a manager says so."""
    publish_minutes: float = 10.0
    """Minutes after which an annotation is published by itself."""
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
        if self.publish_every < 0 or not self.publish_minutes > 0:
            raise ConfigError(
                f"publish_every is {self.publish_every}, publish_minutes {self.publish_minutes}; "
                "give 0 or more annotations and more than 0 minutes"
            )
        _check_door(self)

    @property
    def url(self) -> str:
        """Where people reach the app."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.address.rstrip("/") or f"http://{host}:{self.port}"


def _check_door(config: AnnotateConfig) -> None:
    """What would let strangers in, or send keys in the clear, is no option."""
    if config.sign_in == "local" and (config.host not in LOOPBACK or config.address):
        raise ConfigError(
            f"host {config.host!r}, address {config.address!r}: without sign-in the app serves "
            "this machine only; add --sign_in invitations, or leave them out"
        )
    parts = urlsplit(config.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ConfigError(
            f"address is {config.address!r}; give a scheme and a host, as in https://annotate.example"
        )
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ConfigError(
            f"people would sign in at {config.url} in the clear; put a proxy with a certificate "
            "before it and give --address https://…"
        )


def main(argv: Sequence[str]) -> None:
    """Prepares the ledger, then becomes the web server; does not return."""
    config = parse(AnnotateConfig, argv, prog="rlhf annotate")
    _check_installed(config)
    _check_port(config)
    settings = _settings(config)
    _prepare(config)
    if settings.publish_when is not None:
        _start_publisher(settings)
    _become_server(config, settings)


def _check_installed(config: AnnotateConfig) -> None:
    for module in ("streamlit", "sqlalchemy"):
        if find_spec(module) is None:
            raise ConfigError(
                f"the app needs {module}, which is not installed; run `make app` in the checkout, "
                "or pip install 'rlhf[app]'"
            )
    if config.sign_in == "openid":
        if find_spec("authlib") is None:
            raise ConfigError("OpenID Connect needs authlib; pip install 'streamlit[auth]'")
        _check_provider(Path(".streamlit/secrets.toml"))


def _check_provider(path: Path) -> None:
    try:
        section = tomllib.loads(path.read_text(encoding="utf-8")).get("auth", {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"the OpenID Connect provider is set up in {path}, which cannot be read ({error}); "
            "docs/operator_guide.md shows it"
        ) from error
    needed = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")
    missing = [name for name in needed if not section.get(name)]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)} in its section [auth]; add them")


def _check_port(config: AnnotateConfig) -> None:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise ConfigError(f"cannot listen on {config.host} ({error}); check it") from error
            reason = "in use" if error.errno == errno.EADDRINUSE else "reserved for the system"
            other = config.port % 60_000 + 1_025
            raise ConfigError(f"port {config.port} is {reason}; try --port {other}") from error


def _prepare(config: AnnotateConfig) -> None:
    """Errors of the ledger appear here, on the terminal, and not later in the browser."""
    from annotation_app.ledger.access import SYSTEM, ensure_person
    from annotation_app.ledger.database import Database

    database = Database(config.ledger)
    try:
        ensure_person(database, SYSTEM, "manager")
        if config.sign_in == "local":
            _open_locally(database)
        elif config.sign_in == "openid" and config.manager:
            ensure_person(database, config.manager.lower(), "manager")
    finally:
        database.close()


def _open_locally(database: "Database") -> None:
    from annotation_app.ledger.access import LOCAL_PERSON, ensure_person
    from annotation_app.ledger.queue import create_batch, progress
    from annotation_app.responders.demo import draw_items
    from data.schemas import DOMAINS

    ensure_person(database, LOCAL_PERSON, "manager")
    if not progress(database, LOCAL_PERSON):
        for domain in DOMAINS:
            items = draw_items(domain, DEMO_ITEMS)
            create_batch(database, LOCAL_PERSON, f"demo-{domain}", items, domain=domain)


def _settings(config: AnnotateConfig) -> "AppSettings":
    from annotation_app.publish import PublishRule
    from annotation_app.responders.endpoint import Endpoint
    from annotation_app.settings import AppSettings

    endpoint = rule = None
    if config.endpoint is not None:
        endpoint = Endpoint(
            url=config.endpoint, models=config.models, temperatures=config.temperatures
        )
    if config.publish_every:
        rule = PublishRule(annotations=config.publish_every, minutes=config.publish_minutes)
    return AppSettings(
        ledger=_absolute(config.ledger),
        publish_to=str(config.publish_to),
        endpoint=endpoint,
        sign_in=config.sign_in,
        address=config.url,
        publish_when=rule,
    )


def _start_publisher(settings: "AppSettings") -> None:
    """A process beside the server; it ends when this process does, which will be the server."""
    subprocess.Popen(
        [sys.executable, "-m", "annotation_app.publisher", str(os.getpid())],
        env=dict(os.environ) | settings.to_environment(),
        stdin=subprocess.DEVNULL,
    )


def _become_server(config: AnnotateConfig, settings: "AppSettings") -> None:
    import annotation_app
    from annotation_app.ledger.database import shown_place

    entry = "team.py" if config.sign_in == "invitations" else "app.py"
    page = Path(annotation_app.__path__[0]) / entry
    options = _OPTIONS | {"server.address": config.host, "server.port": str(config.port)}
    if config.address:  # else the web socket would refuse what a proxy passes on
        options["browser.serverAddress"] = str(urlsplit(config.url).hostname)
    words = [sys.executable, "-m", "streamlit", "run", str(page)]
    words += [f"--{name}={value}" for name, value in options.items()]
    who = "this machine only" if config.sign_in == "local" else f"sign-in by {config.sign_in}"
    print(f"annotation app: {config.url}  ({who}; Ctrl-C ends it)")
    print(f"ledger: {shown_place(config.ledger)}   dataset: {config.publish_to}", flush=True)
    os.execve(sys.executable, words, dict(os.environ) | settings.to_environment())


def _absolute(ledger: str) -> str:
    return ledger if "://" in ledger else str(Path(ledger).expanduser().absolute())
