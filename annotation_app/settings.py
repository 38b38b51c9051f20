"""What the command hands to the app's process, in one environment variable."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from annotation_app.responders.endpoint import Endpoint

VARIABLE = "RLHF_ANNOTATION_APP"
LOCAL_PERSON = "local"
"""Who works in the app when it serves one person on their own machine."""


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """One app."""

    ledger: str
    """A file or a database URL."""
    publish_to: str
    """Directory of the dataset of comparisons."""
    endpoint: Endpoint | None = None
    """Who answers what annotators write."""

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
        endpoint = values["endpoint"]
        if endpoint is not None:
            pairs = {name: tuple(endpoint[name]) for name in ("models", "temperatures")}
            endpoint = Endpoint(**endpoint | pairs)
        return cls(**values | {"endpoint": endpoint})
