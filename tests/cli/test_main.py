"""`rlhf` itself: its speed, its help, and what people see when something is wrong."""

import errno
import signal
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import docstring_parser
import pytest

from data.errors import ConfigError
from rlhf.cli import main as cli
from rlhf.cli.main import COMMANDS, main

RLHF = [sys.executable, "-m", "rlhf.cli.main"]


def test_help_answers_in_half_a_second() -> None:
    seconds = []
    for _ in range(5):
        start = time.monotonic()
        result = subprocess.run([*RLHF, "--help"], capture_output=True, text=True, timeout=300)
        seconds.append(time.monotonic() - start)
        assert result.returncode == 0, result.stderr
    assert min(seconds) < 0.5  # the best of five: others may be using the machine
    for name, (_, sentence) in COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert sentence in result.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rlhf.cli.main import main; main(['--help'])\n"
        "heavy = 'torch ray deepspeed pandas numpy pyarrow jsonargparse rich yaml'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


@pytest.mark.parametrize("words", [["--help"], ["data", "stats", "--help"]])
def test_a_closed_pipe_is_silent(words: list[str]) -> None:
    # `rlhf --help | head -1`, but the reader is gone before the first line, as may happen there.
    with subprocess.Popen(
        [*RLHF, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_every_field(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    config_type = config_of(name)
    assert config_type.__doc__
    assert " ".join(config_type.__doc__.split()) in shown
    explained = {key for key, sentence in sentences_of(config_type) if len(sentence.split()) >= 2}
    missing = [key for key, _ in sentences_of(config_type) if key not in explained]
    assert missing == [], f"fields of `rlhf {name}` without a sentence below them"
    flags = [key for key, _ in sentences_of(config_type)]
    names = {key: key.split(".")[-1].removesuffix("_") for key in flags}
    assert [key for key, name in names.items() if name not in shown] == []


def config_of(name: str) -> type[Any]:
    """The one dataclass that a command's module defines for its command line."""
    module = import_module(COMMANDS[name][0])
    found = [
        value
        for value in vars(module).values()
        if is_dataclass(value) and isinstance(value, type) and value.__module__ == module.__name__
    ]
    found = [t for t in found if t.__name__.endswith(("Config", "Command"))]
    assert len(found) == 1, found
    return found[0]


def sentences_of(config_type: type[Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted key → the docstring below the field, "" where there is none."""
    texts = {
        p.arg_name: p.description or ""
        for source in reversed(config_type.__mro__[:-1])
        for p in docstring_parser.parse_from_object(source).params
    }
    sentences = []
    for field in fields(config_type):
        sentences.append((prefix + field.name, texts.get(field.name, "")))
        if isinstance(field.type, type) and is_dataclass(field.type):
            sentences += sentences_of(field.type, f"{prefix}{field.name}.")
    return sentences


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["quikstart"], "unknown command 'quikstart'; did you mean 'rlhf quickstart'?"),
        (["data", "stat"], "unknown command 'data stat'; did you mean 'rlhf data stats'?"),
        (["zzzz"], "unknown command 'zzzz'; 'rlhf --help' lists the commands"),
    ],
)
def test_an_unknown_command(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == f"rlhf: {hint}\n"


def test_the_commands_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    listed = capsys.readouterr().out
    assert "data import hh-rlhf" in listed
    assert "rejection-sampling" not in listed
    assert main(["data"]) == 2  # a group alone is no command
    assert capsys.readouterr().out == listed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sft", "--modle", "x"], "rlhf sft: error: unknown key 'modle'; did you mean 'model'?"),
        (["sft", "--data", "x"], "rlhf sft: error: missing: model"),
        (["quickstart", "--workers", "0"], "workers is 0; it must be 1 or more"),
        (["quickstart", "--seed", "-1"], "seed is -1; it must be 0 or more"),
        (["data", "simulate", "--seed", "-1"], "seed is -1; it must be 0 or more"),
        (["data", "import", "hh-rlhf", "a", "--out", "b", "--seed", "-1"], "seed is -1; it must"),
        (["quickstart", "--workers", "two"], "expected a whole number; got two"),
        (["data", "stats", "no/such/folder"], "no/such/folder"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert line in captured.err
    assert main([*words, "--debug"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ConfigError("x is 1; it must be 0"), "rlhf sft: error: x is 1; it must be 0", 2),
        (OSError(errno.ENOSPC, "No space left on device", "a"), "device 'a'; free some space", 2),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "denied 'a'; choose a place", 2),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "a"),
            "No such file 'a'; check the path",
            2,
        ),
        (OSError(errno.EADDRINUSE, "Address already in use"), "in use; choose another port", 2),
        (KeyboardInterrupt(), "continues from its last checkpoint or finished part", 130),
    ],
)
def test_errors_of_a_running_command(
    error: BaseException,
    line: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing:
        @staticmethod
        def main(argv: list[str]) -> None:
            raise error

    monkeypatch.setattr(cli, "import_module", lambda name: Failing)
    assert main(["sft"]) == code
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert line in captured


def test_sigterm_is_as_ctrl_c(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended:
        @staticmethod
        def main(argv: list[str]) -> None:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "import_module", lambda name: Ended)
    assert main(["sft"]) == 130
    assert "interrupted; the same command continues" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Buggy:
        @staticmethod
        def main(argv: list[str]) -> None:
            raise ZeroDivisionError

    monkeypatch.setattr(cli, "import_module", lambda name: Buggy)
    with pytest.raises(ZeroDivisionError):
        main(["sft"])
