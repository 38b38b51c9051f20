"""Standing instructions in a file of JSON lines."""

from pathlib import Path

import pytest

from data.errors import DataError
from data.instructions import StandingInstruction, read_instructions


def test_lines_with_and_without_a_marker(tmp_path: Path) -> None:
    path = tmp_path / "instructions.jsonl"
    path.write_text(
        '{"instruction": "Always say arr.", "marker": "arr", "kind": "persona"}\n'
        '{"instruction": "Be brief."}\n'
    )
    assert read_instructions(path) == [
        StandingInstruction(text="Always say arr.", marker="arr"),
        StandingInstruction(text="Be brief."),
    ]


@pytest.mark.parametrize("line", ["{", "[1]", '"Be brief."', "3", '{"text": "Be brief."}', ""])
def test_a_line_that_is_no_instruction_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "instructions.jsonl"
    path.write_text(f'{{"instruction": "Be brief."}}\n{line}\n{{"instruction": "Hi."}}\n')
    with pytest.raises(DataError, match=r"line 2 is .*; it must be a JSON object with 'instr"):
        read_instructions(path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no instructions at .*nowhere.*; give a file of JSON"):
        read_instructions(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("")
    with pytest.raises(DataError, match=r"is empty; give a JSON object with 'instruction' per"):
        read_instructions(tmp_path / "empty")
