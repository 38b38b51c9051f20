"""Table 6 of a dataset small enough to compute by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data.dataset import publish
from data.errors import DataError
from data.schemas import Comparison, Prompt
from data.statistics import SourceStatistics, dataset_statistics

Make = Callable[..., Comparison]


def test_table_6_by_hand(tmp_path: Path, make_comparison: Make) -> None:
    counts = {"prompt_tokens": 10, "chosen_tokens": 4, "rejected_tokens": 6}
    train = [
        make_comparison(1, source="b", turns=1, **counts),
        make_comparison(
            2, source="a", turns=3, prompt_tokens=40, chosen_tokens=8, rejected_tokens=9
        ),
    ]
    test = [make_comparison(3, source="b", turns=2, **counts | {"prompt_tokens": 21})]
    publish(tmp_path, train, Comparison, split="train", key="k")
    publish(tmp_path, test, Comparison, split="test", key="k")
    statistics = dataset_statistics(tmp_path)
    assert statistics.sources == (
        # one comparison: 40 + (8 + 9) / 2 = 48.5
        SourceStatistics(
            source="a",
            comparisons=1,
            turns_per_dialogue=3.0,
            tokens_per_example=48.5,
            tokens_in_prompt=40.0,
            tokens_in_response=8.5,
        ),
        # turns (1 + 2) / 2; prompt (10 + 21) / 2; response 5 in both
        SourceStatistics(
            source="b",
            comparisons=2,
            turns_per_dialogue=1.5,
            tokens_per_example=20.5,
            tokens_in_prompt=15.5,
            tokens_in_response=5.0,
        ),
    )
    # over comparisons, not over sources: prompt 71/3, response 18.5/3
    assert statistics.total.comparisons == 3
    assert statistics.total.turns_per_dialogue == pytest.approx(2)
    assert statistics.total.tokens_in_prompt == pytest.approx(71 / 3)
    assert statistics.total.tokens_in_response == pytest.approx(18.5 / 3)
    assert statistics.total.tokens_per_example == pytest.approx(89.5 / 3)
    assert statistics.tokenizer_hashes == ("words",)


def test_distributions(tmp_path: Path, make_comparison: Make) -> None:
    rows = [
        make_comparison(1, strength="negligibly_better", annotator_id="zoe", batch="2"),
        make_comparison(2, strength="significantly_better", annotator_id="zoe", batch="1"),
        make_comparison(3, strength="negligibly_better", annotator_id="ann", batch=""),
        make_comparison(4, safety_label="both_safe", domain="safety"),
    ]
    publish(tmp_path, rows[:1], Comparison, split="test", key="k")
    publish(tmp_path, rows[1:], Comparison, split="train", key="k")
    found = {
        name: list(c.items()) for name, c in dataset_statistics(tmp_path).distributions.items()
    }
    assert found == {
        # in the order of the scale; "" is no value
        "strength": [("significantly_better", 1), ("negligibly_better", 2), ("", 1)],
        "safety_label": [("both_safe", 1), ("", 3)],
        # the most frequent first, then by name; no batch and an empty one are the same
        "annotator_id": [("zoe", 2), ("", 1), ("ann", 1)],
        "batch": [("", 2), ("1", 1), ("2", 1)],
        "domain": [("helpfulness", 3), ("safety", 1)],
        "split": [("train", 3), ("test", 1)],
    }


def test_strengths_and_labels_by_batch(tmp_path: Path, make_comparison: Make) -> None:
    rows = [
        make_comparison(1, strength="better", batch="week 10", safety_label="both_safe"),
        make_comparison(2, strength="significantly_better", batch="week 10"),
        make_comparison(3, strength="better", batch="week 10"),
        make_comparison(4, strength="better", batch="week 9"),
        make_comparison(5),
    ]
    publish(tmp_path, rows, Comparison, split="train", key="k")
    found = dataset_statistics(tmp_path).by_batch
    plain = {name: [(b, dict(c)) for b, c in batches.items()] for name, batches in found.items()}
    assert plain == {
        "strength": [
            ("", {"": 1}),
            ("week 9", {"better": 1}),  # before 10, which text alone would put first
            ("week 10", {"significantly_better": 1, "better": 2}),
        ],
        "safety_label": [
            ("", {"": 1}),
            ("week 9", {"": 1}),
            ("week 10", {"both_safe": 1, "": 2}),
        ],
    }


def test_counts_of_two_tokenizers_are_not_mixed(tmp_path: Path, make_comparison: Make) -> None:
    rows = [
        make_comparison(1, source="a", tokenizer_hash="t1"),
        make_comparison(2, source="b", tokenizer_hash="t1"),
        make_comparison(3, source="b", tokenizer_hash="t2"),
    ]
    publish(tmp_path, rows, Comparison, split="train", key="k")
    statistics = dataset_statistics(tmp_path)
    assert [row.tokens_per_example for row in (*statistics.sources, statistics.total)] == [
        5.0,
        None,
        None,
    ]
    assert statistics.total.turns_per_dialogue == 1.0
    assert statistics.tokenizer_hashes == ("t1", "t2")


def test_superseded_revisions_do_not_count(tmp_path: Path, make_comparison: Make) -> None:
    first = make_comparison(1, strength="better")
    edited = make_comparison(1, strength="slightly_better", revision=1)
    publish(tmp_path, [first, make_comparison(2)], Comparison, split="train", key="a")
    publish(tmp_path, [edited], Comparison, split="train", key="b")
    statistics = dataset_statistics(tmp_path)
    assert statistics.total.comparisons == 2
    assert dict(statistics.distributions["strength"]) == {"slightly_better": 1, "": 1}


def test_an_empty_dataset(tmp_path: Path) -> None:
    publish(tmp_path, [], Comparison, split="train", key="a")
    statistics = dataset_statistics(tmp_path)
    assert (statistics.sources, statistics.total.comparisons) == ((), 0)


def test_other_rows_have_no_table_6(tmp_path: Path) -> None:
    publish(tmp_path, [], Prompt, split="train", key="a")
    with pytest.raises(DataError, match="holds prompts; comparisons need a dataset of their own"):
        dataset_statistics(tmp_path)
