"""Command lines are understood by the real parsers; the commands themselves are not run."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import pytest

from rlhf.cli.main import COMMANDS


class Parsed(Exception):
    """A command line was understood."""


def assert_understood(name: str, arguments: Sequence[str]) -> None:
    """Missing keys and ranges included; files that the command would read need not be there."""
    module = import_module(COMMANDS[name][0])
    parse = module.parse

    def parse_only(*args: Any, **options: Any) -> NoReturn:
        parse(*args, **options)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "parse", parse_only)
        with pytest.raises(Parsed):
            module.main(list(arguments))
