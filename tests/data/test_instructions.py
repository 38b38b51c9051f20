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


@pytest.mark.parametrize("line", ["{", "[1]", '"Be brief."', "3", '{"text": "Be brief."}'])
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


def test_only_line_feeds_end_a_line_and_blank_ones_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "instructions.jsonl"
    path.write_text('\n{"instruction": "Be\u2028brief."}\n  \n{"instruction": "Hi."}\n\n', "utf-8")
    assert [i.text for i in read_instructions(path)] == ["Be\u2028brief.", "Hi."]


def test_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "instructions.jsonl"
    path.write_bytes('{"instruction": "Sé breve."}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8 \(.*byte 0xe9.*\); save it as UTF-8"):
        read_instructions(path)


@pytest.mark.parametrize("marker", ['"ahoy there"', '"arr!"', '""', "3"])
def test_a_marker_that_no_answer_could_show(tmp_path: Path, marker: str) -> None:
    path = tmp_path / "instructions.jsonl"
    path.write_text(f'{{"instruction": "Say it.", "marker": {marker}}}\n')
    with pytest.raises(DataError, match=r"line 1: the marker is .*; it must be one word"):
        read_instructions(path)


def test_an_instruction_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "instructions.jsonl"
    path.write_text('{"instruction": 3}\n')
    with pytest.raises(DataError, match="line 1: the instruction is 3; it must be a text"):
        read_instructions(path)
