"""Where workers run and what each of them gets."""

import os
from dataclasses import dataclass, replace
from math import inf

from data.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Workers of one role."""

    workers: int = 1
    """Processes; several train data-parallel."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for each worker."""
    cpus_per_worker: float = 0.0
    """Cores that Ray reserves for each worker; 0 lets roles share them, which mostly take turns."""
    ray: bool = True
    """Whether workers are Ray actors; without it the one worker runs in this process."""
    timeout: float = 1800.0
    """Seconds a call to the workers may take before it is ended with the name of the late one."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; it must be 1 or more")
        if not self.ray and self.workers > 1:
            raise ConfigError(f"workers is {self.workers}; without Ray there is exactly one")
        for name in ("gpus_per_worker", "cpus_per_worker"):
            if not 0 <= getattr(self, name) < inf:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be a number from 0 (reserve none)"
                )
        if self.timeout <= 0:
            raise ConfigError(f"timeout is {self.timeout}; it must be above 0 seconds")

    def threads(self, groups: int = 1) -> int:
        """Cores of this machine shared out among the workers of groups that work at once."""
        return max(1, usable_cores() // (self.workers * groups))


@dataclass(frozen=True, kw_only=True)
class OtherPlacement:
    """Workers of another role; what is not given is as for the first."""

    workers: int | None = None
    """Processes of the role."""
    gpus_per_worker: float | None = None
    """GPUs that Ray reserves for each worker."""
    cpus_per_worker: float | None = None
    """Cores that Ray reserves for each worker."""
    ray: bool | None = None
    """Whether workers are Ray actors."""
    timeout: float | None = None
    """Seconds a call to the workers may take."""

    def beside(self, first: Placement) -> Placement:
        """The whole placement, given that of the first role."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(first, **given)


def usable_cores() -> int:
    """Cores that this process may run on, which a container or a batch system can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
