"""Data composition of the two reward models (Llama 2, section 3.2.2)."""

from collections.abc import Callable

import pytest

from data.errors import ConfigError, DataError
from data.schemas import Comparison, Message
from reward.mixture import Mixture, check_nothing_leaks, mix, weighted

Make = Callable[..., Comparison]


@pytest.fixture
def pool(make_comparison: Make) -> Callable[[int, int], list[Comparison]]:
    """`pool(10, 30)`: comparisons 0 to 9 on helpfulness, 10 to 39 on safety."""
    return lambda helpful, safe: [
        make_comparison(n, domain="helpfulness" if n < helpful else "safety")
        for n in range(helpful + safe)
    ]


Pool = Callable[[int, int], list[Comparison]]


def ids(comparisons: list[Comparison], domain: str) -> list[str]:
    return [c.comparison_id for c in comparisons if c.domain == domain]


def test_helpfulness_takes_an_equal_part_of_the_rest(pool: Pool) -> None:
    mixed = mix(pool(10, 30), "helpfulness", Mixture(), seed=0)
    assert ids(mixed, "helpfulness") == [f"c{n}" for n in range(10)]  # every one, once
    others = ids(mixed, "safety")
    assert len(others) == len(set(others)) == 10


def test_safety_takes_one_helpful_comparison_to_nine(pool: Pool) -> None:
    mixed = mix(pool(40, 18), "safety", Mixture(), seed=0)
    assert ids(mixed, "safety") == [f"c{n}" for n in range(40, 58)]
    others = ids(mixed, "helpfulness")
    assert len(others) == len(set(others)) == 2  # 18 · 10 / 90


def test_other_shares(pool: Pool) -> None:
    mixture = Mixture(helpfulness=0.8, safety=1.0)
    assert len(mix(pool(20, 30), "helpfulness", mixture, seed=0)) == 25  # 20 / 0.8
    assert ids(mix(pool(20, 30), "safety", mixture, seed=0), "helpfulness") == []


def test_fewer_others_where_they_run_out(pool: Pool) -> None:
    mixed = mix(pool(10, 4), "helpfulness", Mixture(), seed=0)
    assert sorted(ids(mixed, "safety")) == ["c10", "c11", "c12", "c13"]


def test_the_seed_decides_which(pool: Pool) -> None:
    rows = pool(10, 200)
    first, again, other = (mix(rows, "helpfulness", Mixture(), seed=s) for s in (1, 1, 2))
    assert first == again and first != other


def test_a_model_needs_comparisons_of_its_domain(pool: Pool) -> None:
    with pytest.raises(ConfigError, match="no safety comparisons; train the other model alone"):
        mix(pool(5, 0), "safety", Mixture(), seed=0)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_shares_out_of_range(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"mixture.safety is {share}; it must be above 0"):
        Mixture(safety=share)


def test_open_data_are_others_of_the_helpfulness_model(make_comparison: Make) -> None:
    """Section 3.2.2: all own helpfulness data, an equal part from safety and from open data."""
    ours = [make_comparison(n, domain="helpfulness") for n in range(10)]
    ours += [make_comparison(n, domain="safety") for n in range(10, 14)]
    theirs = [make_comparison(n, domain="helpfulness", source="open") for n in range(20, 40)]
    mixed = mix(ours, "helpfulness", Mixture(), seed=0, open_data=theirs)
    assert [c.comparison_id for c in mixed[:10]] == [f"c{n}" for n in range(10)]
    assert len(mixed) == 20 and {c.source for c in mixed[10:]} == {"test", "open"}


def test_open_safety_data_are_the_safety_models_own(make_comparison: Make) -> None:
    """All safety and harmless data, mixed 90 to 10 with helpfulness data."""
    ours = [make_comparison(n, domain="safety") for n in range(5)]
    ours += [make_comparison(n, domain="helpfulness") for n in range(10, 20)]
    theirs = [make_comparison(n, domain="safety", source="open") for n in range(20, 24)]
    mixed = mix(ours, "safety", Mixture(), seed=0, open_data=theirs)
    assert ids(mixed, "safety") == [*(f"c{n}" for n in range(5)), *(f"c{n}" for n in range(20, 24))]
    assert len(ids(mixed, "helpfulness")) == 1  # 9 · 10 / 90


def test_weights(make_comparison: Make) -> None:
    rows = [make_comparison(n) for n in range(10)]
    assert weighted(rows, 1, seed=0) == rows
    assert weighted(rows, 2, seed=0) == rows + rows
    half = weighted(rows, 0.5, seed=0)
    assert len(half) == len({c.comparison_id for c in half}) == 5
    assert len(weighted(rows, 2.3, seed=0)) == 23
    assert weighted(rows, 0.5, seed=0) == half != weighted(rows, 0.5, seed=1)


def test_a_prompt_of_a_test_split_is_not_trained_on(make_comparison: Make) -> None:
    train = [make_comparison(n) for n in range(4)]
    check_nothing_leaks({"a": train}, {"a": [make_comparison(9)]})
    spaced = make_comparison(9, prompt=(Message("user", " QUESTION\n 2"),))
    with pytest.raises(
        DataError,
        match=r"1 of 4 comparisons of 'a' to be trained on .* test split of 'b', first 'c2'",
    ):
        check_nothing_leaks({"a": train}, {"a": [make_comparison(8)], "b": [spaced]})
    # the same words as the last turn of another dialogue are another prompt
    longer = (Message("user", "hi"), Message("assistant", "yes"), Message("user", "question 2"))
    check_nothing_leaks({"a": train}, {"b": [make_comparison(9, prompt=longer)]})
