"""Anthropic's HH transcripts: what becomes a comparison, what is dropped and why."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data.counting import TokenizerCounter, WordCounter, count_messages, describe_counter
from data.dataset import open_manifest, publish, read_rows, split_of
from data.errors import DataError
from data.importers.hh_rlhf import domain_of, read_files, source_of
from data.importers.imported import DROPPED, ImportedFile, first_message, publish_files
from data.schemas import Comparison, Domain, Message

HI = "\n\nHuman: Hi there!\n\nAssistant: Hello."
ASK = HI + "\n\nHuman: Why?\n\nAssistant:"


def line(chosen: str, rejected: str) -> str:
    return json.dumps({"chosen": chosen, "rejected": rejected})


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ImportedFile]:
    """`read(line, line, …)`: the import of a file of these lines."""

    def import_lines(*lines: str, name: str = "helpful-base.test.jsonl") -> ImportedFile:
        path = tmp_path / name
        path.write_text("".join(f"{text}\n" for text in lines))
        (imported,) = read_files([path], WordCounter())
        return imported

    return import_lines


Read = Callable[..., ImportedFile]


def test_a_line_by_hand(read: Read) -> None:
    (row,) = read(line(ASK + " It is so.", ASK + " No!")).rows
    assert row.prompt == (
        Message("user", "Hi there!"),
        Message("assistant", "Hello."),
        Message("user", "Why?"),
    )
    assert (row.chosen, row.rejected) == (
        (Message("assistant", "It is so."),),
        (Message("assistant", "No!"),),
    )
    # words and marks: "Hi there !" 3 + "Hello ." 2 + "Why ?" 2;  "It is so ." 4;  "No !" 2
    assert (row.prompt_tokens, row.chosen_tokens, row.rejected_tokens) == (7, 4, 2)
    assert (row.turns, row.tokenizer_hash) == (2, "words")
    assert (row.domain, row.source) == ("helpfulness", "hh-rlhf/helpful-base")
    assert (row.strength, row.safety_label, row.annotator_id) == (None, None, None)


DIFFERENT = "\n\nHuman: Hi you!\n\nAssistant: a"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (line(ASK + " a", ASK + " a"), "identical"),
        (line(ASK + " a", ASK + " a "), "identical"),
        (line(HI, DIFFERENT), "prefixes differ"),
        (line(ASK + " a", HI), "prefixes differ"),
        # One reply holds the label itself: which part was judged cannot be told.
        (line(HI + "\n\nAssistant: b", HI), "prefixes differ"),
        (line(ASK + " a", ASK + " "), "empty reply"),
        (line(ASK, ASK + " a"), "empty reply"),
        ("not JSON", "malformed"),
        ("[]", "malformed"),
        ('{"chosen": "x"}', "malformed"),
        ('{"chosen": "x", "rejected": 3}', "malformed"),
        (line("Hi" + HI, HI), "malformed"),
        (line("\n\nAssistant: Hello." + HI, HI), "malformed"),
        (line(HI + "\n\nHuman: Bye", HI), "malformed"),
        (line("", HI), "malformed"),
        # An empty turn in the prompt, and a prompt that does not end with the person.
        (line("\n\nHuman: \n\nAssistant: a", "\n\nHuman: \n\nAssistant: b"), "malformed"),
        (line(HI + "\n\nAssistant: a", HI + "\n\nAssistant: b"), "malformed"),
        (line(ASK + " \ud800", ASK + " a"), "malformed"),
    ],
)
def test_dropped_lines(read: Read, text: str, reason: str) -> None:
    imported = read(line(HI, HI + " And you?"), text)
    assert len(imported.rows) == 1
    (dropped,) = imported.dropped
    assert (dropped.reason, dropped.line, dropped.text) == (reason, 2, text)
    assert dropped.file.endswith("helpful-base.test.jsonl")


def test_a_shared_reply_with_a_label_in_it_is_one_turn(read: Read) -> None:
    start = "\n\nHuman: a\n\nAssistant: b Human: c\n\nAssistant:  d\n\nHuman: e\n\nAssistant:"
    (row,) = read(line(start + " f", start + " g")).rows
    assert row.prompt[1] == Message("assistant", "b Human: c\n\nd")
    assert [message.role for message in row.prompt] == ["user", "assistant", "user"]


def test_only_the_label_after_an_empty_line_begins_a_turn(read: Read) -> None:
    start = "\n\nHuman: a\nAssistant: b\n\nAssistants: c\n\nAssistant:"
    (row,) = read(line(start + " d", start + " Human: e")).rows
    assert row.prompt == (Message("user", "a\nAssistant: b\n\nAssistants: c"),)
    assert row.rejected == (Message("assistant", "Human: e"),)


def test_duplicates_are_kept_once_across_the_files_of_a_source(tmp_path: Path) -> None:
    paths = [tmp_path / "helpful-base" / name for name in ("train.jsonl.gz", "test.jsonl.gz")]
    paths[0].parent.mkdir()
    first, second = line(ASK + " a", ASK + " b"), line(ASK + " b", ASK + " a")
    for path, lines in zip(paths, ([first, first], [second, first]), strict=True):
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    train, test = read_files(paths, WordCounter())
    assert (len(train.rows), train.num_dropped("duplicate")) == (1, 1)
    assert (len(test.rows), test.num_dropped("duplicate")) == (1, 1)
    assert train.rows[0].comparison_id != test.rows[0].comparison_id


def test_ids_are_the_same_in_every_import(read: Read) -> None:
    (row,) = read(line(ASK + " a", ASK + " b")).rows
    # Written down once: another hash would make every row of an old import a new one.
    assert row.comparison_id == "f3ffa00e5895ea8d83f4ffb162a92738"


@pytest.mark.parametrize(
    ("path", "source", "domain"),
    [
        ("x/harmless-base.test.jsonl.gz", "hh-rlhf/harmless-base", "safety"),
        ("x/helpful-base/train.jsonl.gz", "hh-rlhf/helpful-base", "helpfulness"),
        ("x/helpful-online/test.jsonl", "hh-rlhf/helpful-online", "helpfulness"),
        ("helpful-latest.jsonl", "hh-rlhf/helpful-latest", "helpfulness"),
    ],
)
def test_names(path: str, source: str, domain: Domain) -> None:
    assert (source_of(Path(path)), domain_of(Path(path))) == (source, domain)


def test_a_name_without_a_domain_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(line(HI, HI + " b"))
    with pytest.raises(
        DataError, match=r"neither 'harmless' nor 'helpful'; say --domain safety or"
    ):
        read_files([path], WordCounter())
    (imported,) = read_files([path], WordCounter(), domain="safety")
    assert imported.rows[0].domain == "safety"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "helpful.jsonl.gz"
    with pytest.raises(DataError, match=r"helpful\.jsonl\.gz' is no file; check the path"):
        read_files([path], WordCounter())
    whole = gzip.compress((line(HI, HI + " b") + "\n").encode() * 100)
    for content in (whole[:-30], b"plain text", whole[:20] + bytes(10) + whole[30:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is no complete gzip file .*; download it again"):
            read_files([path], WordCounter())
    for content in (b"", b'{"prompt": "x"}\n'):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match=r"holds no record of this format in its [01] lines"):
            read_files([path], WordCounter())


# Publishing


def publish_to(out: Path, *files: ImportedFile, seed: int = 0) -> None:
    publish_files(out, files, Comparison, name="hh-rlhf", validation=0.1, test=0.2, seed=seed)


@pytest.fixture
def imported(read: Read) -> ImportedFile:
    """200 comparisons: two of each dialogue that begins with "Question n"; one line is dropped."""
    lines = []
    for number in range(100):
        short = f"\n\nHuman: Question  {number}?\n\nAssistant:"
        long = f"\n\nHuman: question {number}? \n\nAssistant: a\n\nHuman: And?\n\nAssistant:"
        lines += [line(start + " yes", start + " no") for start in (short, long)]
    return read(*lines, "not JSON")


def test_dialogues_that_begin_alike_share_a_split(tmp_path: Path, imported: ImportedFile) -> None:
    publish_to(tmp_path / "out", imported)
    seen: dict[str, str] = {}
    for file in open_manifest(tmp_path / "out").files:
        for row in read_rows(tmp_path / "out", Comparison, file.split):
            assert seen.setdefault(first_message(row), file.split) == file.split
    assert len(seen) == 100
    expected = split_of("question 7?", validation=0.1, test=0.2, seed=0)
    assert seen["question 7?"] == expected


def test_dropped_lines_lie_beside_the_dataset(tmp_path: Path, imported: ImportedFile) -> None:
    publish_to(tmp_path / "out", imported)
    (text,) = (tmp_path / "out" / DROPPED).read_text().splitlines()
    assert json.loads(text) == {
        "file": str(imported.path),
        "line": 201,
        "reason": "malformed",
        "text": "not JSON",
    }


def test_the_same_import_again_changes_nothing(tmp_path: Path, imported: ImportedFile) -> None:
    out = tmp_path / "out"
    publish_to(out, imported)
    before = open_manifest(out)
    publish_to(out, imported)
    assert open_manifest(out) == before


def test_an_import_that_was_killed_is_completed(tmp_path: Path, imported: ImportedFile) -> None:
    out = tmp_path / "out"
    publish_to(out, imported)
    whole = open_manifest(out)
    (out / "manifest.json").unlink()  # as if killed before the manifest
    (out / DROPPED).unlink()
    (out / f".{whole.files[0].path}.tmp").write_bytes(b"half")
    publish_to(out, imported)
    assert open_manifest(out).files == whole.files and (out / DROPPED).exists()


def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, imported: ImportedFile, make_comparison: Callable[..., Comparison]
) -> None:
    publish_to(tmp_path / "other", imported)
    with pytest.raises(DataError, match=r"holds the dataset of another import .*; choose another"):
        publish_to(tmp_path / "other", imported, seed=1)
    publish(tmp_path / "ours", [make_comparison(1)], Comparison, split="train", key="week-1")
    with pytest.raises(DataError, match=r"another import \(week-1\); choose another --out"):
        publish_to(tmp_path / "ours", imported)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("keep me")
    with pytest.raises(DataError, match=r"is not empty and no dataset .* holds 'a\.txt'"):
        publish_to(tmp_path / "notes", imported)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]


# Counting


class Letters:
    """A tokenizer whose pieces are letters."""

    hash = "abc123"

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_counters() -> None:
    assert WordCounter().count("Don't stop—it's 3.5 €!") == 13  # Don ' t stop — it ' s 3 . 5 € !
    counter = TokenizerCounter(Letters())
    assert (counter.hash, counter.count("abcd")) == ("abc123", 4)
    assert count_messages([Message("user", "ab"), Message("assistant", "c")], counter) == 3
    assert describe_counter("abc123") == "pieces of the tokenizer with hash abc123"
    assert describe_counter("words").startswith("words and punctuation marks; the import was given")


# The real files


def test_the_real_files(shared_data: Path, tmp_path: Path) -> None:
    paths = sorted((shared_data / "hh-rlhf").glob("*.jsonl.gz"))
    harmless, helpful = files = read_files(paths, WordCounter())
    assert Counter(line.reason for line in harmless.dropped) == {
        "prefixes differ": 5,
        "empty reply": 4,
    }
    assert Counter(line.reason for line in helpful.dropped) == {
        "identical": 2,
        "prefixes differ": 9,
        "empty reply": 4,
    }
    # 2,312 and 2,354 lines (shared/data/README.md)
    assert (len(harmless.rows), len(helpful.rows)) == (2312 - 9, 2354 - 15)
    for row in (*harmless.rows, *helpful.rows):
        roles = [message.role for message in row.prompt]
        assert roles == ["user", "assistant"] * (row.turns - 1) + ["user"]
    manifest = publish_files(
        tmp_path / "out", files, Comparison, name="hh-rlhf", validation=0.1, test=0.2, seed=0
    )
    sizes = {file.split: file.rows for file in manifest.files}
    assert sizes == {"train": 3241, "validation": 460, "test": 941}
    assert {(r.source, r.domain) for r in read_rows(tmp_path / "out", Comparison)} == {
        ("hh-rlhf/harmless-base", "safety"),
        ("hh-rlhf/helpful-base", "helpfulness"),
    }
