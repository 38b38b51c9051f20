"""From the command line to a frozen config: YAML file, overrides, help, one-line errors."""

import difflib
import inspect
import re
from argparse import Action
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jsonargparse import (
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    set_parsing_settings,
)

from data.errors import ConfigError

set_parsing_settings(docstring_parse_attribute_docstrings=True)

C = TypeVar("C")


class _Help(DefaultHelpFormatter):
    """Types in the words of a command line."""

    def _get_type_str(self, action: Action) -> str | None:
        text = super()._get_type_str(action)
        return text and re.sub(r"<class 'Path'>|\bPath\b", "PATH", text)


class _Parser(ArgumentParser):
    """Raises `ConfigError` with the nearest known name instead of printing usage."""

    known_keys: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConfigError(_one_line(message, self.known_keys)) from ex


def parse(
    config_type: type[C],
    argv: Sequence[str],
    *,
    prog: str,
    positionals: Mapping[str, str] | None = None,
) -> C:
    """The config that a command line describes.

    Args:
        config_type: a frozen, keyword-only dataclass; its attribute docstrings are the help.
        argv: the arguments after the command's name. `--config FILE` reads YAML; what follows it
            on the line overrides it. Dashes stand for underscores in names. A field that is called
            as a word of Python's with an underscore behind, `from_`, is given without it.
        prog: the command's name as the user typed it.
        positionals: fields given without a flag, with argparse's `nargs` ("1" for exactly one).

    Raises:
        ConfigError: an unknown key, a missing one, a value of the wrong type or out of range.
    """
    positionals = positionals or {}
    parser = _build_parser(config_type, prog, positionals)
    words = _as_fields(argv, parser.known_keys)
    namespace = parser.parse_args(_with_flag_values(words, _switches(config_type)))
    try:
        values = parser.instantiate(namespace)
        return config_type(**{f.name: _frozen(values[f.name]) for f in fields(config_type)})  # type: ignore[arg-type]
    except ValueError as error:  # a rule of some __post_init__
        raise ConfigError(_one_line(str(error), parser.known_keys)) from error


def dump(config: object) -> dict[str, Any]:
    """The resolved config as plain values, ready for YAML."""
    result: dict[str, Any] = {}
    for field in fields(config):  # type: ignore[arg-type]
        result[field.name] = _plain(getattr(config, field.name))
    return result


def _build_parser(config_type: type[Any], prog: str, positionals: Mapping[str, str]) -> _Parser:
    parser = _Parser(
        prog=prog,
        description=inspect.cleandoc(config_type.__doc__ or ""),
        formatter_class=_Help,
        exit_on_error=False,
        allow_abbrev=False,  # a misspelt key must not pass for another
    )
    parser.add_argument(
        "--config", action=ActionConfigFile, help="YAML file; arguments after it override it"
    )
    helps = _field_helps(config_type)
    by_name = {f.name: f for f in fields(config_type)}
    for name, nargs in positionals.items():
        item = by_name[name].type if nargs == "1" else Path
        extra: dict[str, Any] = {} if nargs == "1" else {"nargs": nargs}
        parser.add_argument(name, type=item, help=helps.get(name, ""), **extra)
    reserved = {name for name in by_name if name.endswith("_")}
    for name in sorted(reserved):
        parser.add_argument(
            f"--{name[:-1]}", dest=name, type=by_name[name].type, required=True, help=helps[name]
        )
    # The class's docstring is the description already; as a group it would be said once more.
    parser.add_class_arguments(
        config_type, skip=reserved.union(positionals), fail_untyped=True, as_group=False
    )
    parser.known_keys = _keys(config_type)
    return parser


def _field_helps(config_type: type[Any]) -> dict[str, str]:
    import docstring_parser

    return {
        p.arg_name: (p.description or "").replace("\n", " ")
        for source in reversed(config_type.__mro__[:-1])  # the class itself has the last word
        for p in docstring_parser.parse_from_object(source).params
    }


def _keys(config_type: type[Any], prefix: str = "") -> list[str]:
    keys = []
    for field in fields(config_type):
        keys.append(prefix + field.name)
        if hasattr(field.type, "__dataclass_fields__"):
            keys += _keys(field.type, prefix + field.name + ".")  # type: ignore[arg-type]
    return keys


def _switches(config_type: type[Any], prefix: str = "") -> set[str]:
    """Names of the fields that are true or false."""
    names = set()
    for field in fields(config_type):
        if field.type is bool:
            names.add(prefix + field.name)
        elif hasattr(field.type, "__dataclass_fields__"):
            names |= _switches(field.type, prefix + field.name + ".")  # type: ignore[arg-type]
    return names


def _as_fields(argv: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Names as the fields have them: `--max-restarts 1` gives `--max_restarts 1`."""
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        words.append(
            "--" + _spelling(name[2:], keys) + equals + value if name[:2] == "--" else word
        )
    return words


def _spelling(name: str, keys: Sequence[str]) -> str:
    """As far as it names a field; what follows is the key of a dictionary, and its dashes stay."""
    parts = name.split(".")
    ours = [part.replace("-", "_") for part in parts]
    known = {*keys, "print_config"}
    depth = max((n for n in range(len(parts) + 1) if ".".join(ours[:n]) in known), default=0)
    return ".".join(ours[:depth] + parts[depth:])


def _with_flag_values(argv: Sequence[str], switches: set[str]) -> list[str]:
    """A switch may stand alone: `--overoptimise` means `--overoptimise true`."""
    words = []
    for word, following in zip(argv, [*argv, "--"][1:], strict=True):
        words.append(word)
        if word[:2] == "--" and word[2:] in switches and following.startswith("--"):
            words.append("true")
    return words


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_UNKNOWN = re.compile(
    r"unrecognized arguments: -*(?P<flag>[\w.\-]+)"
    r"|Group '(?P<group>[\w.]+)' does not accept option '(?P<option>[\w.]+)'"
    r"|Key '(?P<key>[\w.]+)' is not expected"
    r"|does not accept option '(?P<bare>[\w.]+)'"
)


_MISFIT = re.compile(
    r'Parser key "(?P<key>[^"]+)": (?P<wanted>.*?)\.? '
    r"(?:Given value type: .*? )?(?:Got|Given) value: (?P<value>.*)"
)
_WANTED = re.compile(
    r"Expected (?:an? )?(?:<class '(?:[\w.]+\.)?(?P<kind>\w+)'>"
    r"|typing\.Literal\[(?P<names>[^\]]*)\]|tuple with (?P<count>\d+) elements)"
)
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text in quotes",
    "tuple": "a list",
    "Mapping": "names with values",
    "dict": "names with values",
}


def _one_line(message: str, known: Sequence[str]) -> str:
    """The parser's message in one line; unknown names come with the nearest known one."""
    message = " ".join(message.split())
    match = _UNKNOWN.search(message)
    if match is None:
        message = _MISFIT.sub(_misfit, message)
        message = re.sub(r'Parser key "([^"]+)"', r"\1", message)
        message = message.replace("the following arguments are required:", "missing:")
        for key in known:
            if key.endswith("_"):
                message = re.sub(rf"\b{key}\b", f"--{key[:-1]}", message)
        return message
    name = match["flag"] or match["key"] or match["bare"]
    if match["group"]:
        name = f"{match['group']}.{match['option']}"
    if match["flag"] and name in known and not name.endswith("_"):  # a positional one
        return f"unknown key {name!r}; give it without '--{name}'"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0].removesuffix('_')!r}?" if near else "--help lists the known keys"
    return f"unknown key {name!r}; {hint}"


def _misfit(match: re.Match[str]) -> str:
    """A value of the wrong type, in the words of a command line; of a list, how to write it."""
    key, value = match["key"], match["value"]
    wanted = [_wanted_words(one) for one in _WANTED.finditer(match["wanted"])]
    expected = " or ".join(words for words in wanted if words) or match["wanted"]
    line = f"{key}: expected {expected}; got {value}"
    if "a list" in wanted:
        line += f"; write --{key} '[{value}]', with commas between several"
    return line


def _wanted_words(match: re.Match[str]) -> str:
    """Of one type; empty for null, which is never what somebody meant to write."""
    if match["names"]:
        return ("one of " if "," in match["names"] else "") + match["names"]
    if match["count"]:
        return f"a list of {match['count']}"
    return "" if match["kind"] == "NoneType" else _KINDS.get(match["kind"], f"a {match['kind']}")


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return dump(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
