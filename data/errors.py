"""Errors that the person at the keyboard can mend: one line on the terminal, exit code 2."""


class UserError(ValueError):
    """Bad input. The message states the value, the rule it breaks and the remedy."""


class DataError(UserError):
    """A file or row that does not hold what it should."""


class ConfigError(UserError):
    """A setting out of range, or settings that contradict each other."""


def require_positive(config: object, *names: str) -> None:
    """For a config's `__post_init__`: these fields must be above 0.

    Raises:
        ConfigError: one is not.
    """
    for name in names:
        value = getattr(config, name)
        if value <= 0:
            raise ConfigError(f"{name} is {value}; it must be above 0")


def require_not_negative(config: object, *names: str) -> None:
    """For a config's `__post_init__`: these fields must be 0 or more.

    Raises:
        ConfigError: one is not.
    """
    for name in names:
        value = getattr(config, name)
        if value < 0:
            raise ConfigError(f"{name} is {value}; it must be 0 or more")
