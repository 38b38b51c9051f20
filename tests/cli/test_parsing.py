"""Names of options as people type them, and how help and errors show them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from data.errors import ConfigError
from rlhf.cli.parsing import dump, parse


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner settings."""

    batch_rows: int = 1
    """Rows of a batch."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """One sentence about it all."""

    from_: Literal["one-way", "other_way"]
    """Where it comes from."""
    source: Path | None = None
    """What is read."""
    name_of_it: str = ""
    """A name."""
    dry_run: bool = False
    """Whether nothing is done."""
    by_weight: dict[str, float] = field(default_factory=dict)
    """Weights of files."""
    sizes: tuple[float, ...] = (1.0,)
    """Any number of them."""
    ends: tuple[int, int] | None = None
    """Both or none."""
    train_it: Inner = Inner()
    """How."""


def read(*words: str) -> Outer:
    return parse(Outer, words, prog="x")


def test_dashes_stand_for_underscores_in_names_only() -> None:
    dashed = ["--from", "one-way", "--train-it.batch-rows", "3", "--name-of-it", "a-b_c"]
    found = read(*dashed, "--dry-run", "--by-weight.my-file", "2")
    assert found == Outer(
        from_="one-way",
        name_of_it="a-b_c",
        dry_run=True,
        by_weight={"my-file": 2.0},
        train_it=Inner(batch_rows=3),
    )
    assert read("--from=other_way", "--name-of-it=--x-y").name_of_it == "--x-y"
    underscored = ["--from", "one-way", "--train_it.batch_rows", "3", "--name_of_it", "a-b_c"]
    assert read(*underscored, "--dry_run", "--by_weight.my-file", "2") == found


def test_a_value_may_be_called_like_a_switch() -> None:
    found = read("--from", "one-way", "--name-of-it", "dry_run")
    assert (found.name_of_it, found.dry_run) == ("dry_run", False)


def test_a_config_file_has_the_names_of_the_fields(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("from_: one-way\ntrain_it: {batch_rows: 3}\n")
    found = read("--config", str(file), "--train-it.batch-rows", "4")
    assert dump(found) == dump(Outer(from_="one-way", train_it=Inner(batch_rows=4)))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "missing: --from"),
        (["--from", "a"], "--from: expected one of 'one-way', 'other_way'; got a"),
        (["--from_", "a"], "unknown key 'from_'; did you mean 'from'?"),
        (["--name-of-them", "a"], "unknown key 'name-of-them'; did you mean 'name_of_it'?"),
    ],
)
def test_errors_name_options(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(*words)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--train-it.batch-rows", "a"], "train_it.batch_rows: expected a whole number; got a"),
        (["--dry-run", "maybe"], "dry_run: expected true or false; got maybe"),
        (["--by-weight", "3"], "by_weight: expected names with values; got 3"),
        (["--sizes", "1.0"],
         "sizes: expected a list; got 1.0; write --sizes '[1.0]', with commas between several"),
        (["--sizes", "1,2"],
         "sizes: expected a list; got 1,2; write --sizes '[1,2]', with commas between several"),
        (["--sizes", "[1,x]"], "sizes: expected a number; got x"),
        (["--ends", "3"],
         "ends: expected a list; got 3; write --ends '[3]', with commas between several"),
        (["--ends", "[3]"], "ends: expected a list of 2; got [3]"),
        (["--train-it", "3"], "train_it: Unable to load config '3' - train_it: Unable to load"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read("--from", "one-way", *words)
    assert str(raised.value).startswith(reason)


def test_help_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("One sentence about it all") == 1
    assert "--from {one-way,other_way} Where it comes from. (required" in shown
    assert "--source SOURCE What is read. (type: PATH | null, default: null)" in shown
    assert "from_" not in shown
    assert "<class" not in shown
