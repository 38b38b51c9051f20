"""What the command hands to the app's processes, in one environment variable."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from annotation_app.ledger.access import LOCAL_PERSON as LOCAL_PERSON
from annotation_app.publish import PublishRule
from annotation_app.responders.endpoint import Endpoint

VARIABLE = "RLHF_ANNOTATION_APP"

SignIn = Literal["local", "invitations", "openid"]
"""How the app knows who is at the screen: it is the one person of this machine, they came by an
invitation link, or an OpenID Connect provider says so."""


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """One app."""

    ledger: str
    """A file or a database URL."""
    publish_to: str
    """Directory of the dataset of comparisons."""
    endpoint: Endpoint | None = None
    """Who answers what annotators write."""
    sign_in: SignIn = "local"
    address: str = "http://127.0.0.1:8501"
    """Where people reach the app: what invitation links begin with."""
    publish_when: PublishRule | None = None
    """None: only when a manager says so."""

    @property
    def dataset(self) -> Path:
        """Where comparisons are published."""
        return Path(self.publish_to)

    def to_environment(self) -> dict[str, str]:
        """What the app's process needs in its environment."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> "AppSettings":
        """The inverse of `to_environment`.

        Raises:
            KeyError: the app was started without `rlhf annotate`.
        """
        values = json.loads(os.environ[VARIABLE])
        endpoint, rule = values["endpoint"], values["publish_when"]
        if endpoint is not None:
            pairs = {name: tuple(endpoint[name]) for name in ("models", "temperatures")}
            endpoint = Endpoint(**endpoint | pairs)
        rule = None if rule is None else PublishRule(**rule)
        return cls(**values | {"endpoint": endpoint, "publish_when": rule})
