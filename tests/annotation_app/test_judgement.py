import pytest

from annotation_app.assignment import (
    IDLE_SECONDS,
    active_seconds,
    index_of,
    shows_second_first,
    side_of,
)
from annotation_app.judgement import (
    MAX_COMMENT,
    SAFETIES,
    SIDES,
    Judgement,
    preference,
    safety_label,
    safety_problem,
    safety_shown,
)
from data.errors import DataError
from data.schemas import SAFETY_LABELS


def test_the_impossible_combination_is_refused_and_explained() -> None:
    refused = {(s, y) for s in SIDES for y in SAFETIES if safety_problem(s, y)}
    assert refused == {("A", "only_b_safe"), ("B", "only_a_safe")}
    assert "prefer B, or correct" in safety_problem("A", "only_b_safe")
    with pytest.raises(DataError, match="only A is safe"):
        Judgement(side="B", strength="better", safety="only_a_safe").check("safety")


def test_every_allowed_answer_has_a_label_that_leads_back() -> None:
    labels = set()
    for side in SIDES:
        for safety in SAFETIES:
            if not safety_problem(side, safety):
                labels.add(safety_label(safety))
                assert safety_shown(safety_label(safety), side) == safety
    assert labels == set(SAFETY_LABELS)  # all three of Llama 2, and nothing else
    assert safety_label(None) is None and safety_shown(None, "A") is None


def test_each_domain_asks_its_own_questions() -> None:
    plain = Judgement(side="A", strength="better")
    plain.check("helpfulness")
    with pytest.raises(DataError, match="which of the two responses are safe"):
        plain.check("safety")
    with pytest.raises(DataError, match="not asked in the helpfulness domain"):
        Judgement(side="A", strength="better", safety="both_safe").check("helpfulness")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": "C"}, "choose A or B"),
        ({"strength": "best"}, "significantly_better"),
        ({"safety": "safe"}, "both_unsafe"),
        ({"comment": "x" * (MAX_COMMENT + 1)}, "4,001 characters"),
        ({"flag": "a\0b"}, "null character"),
    ],
)
def test_values_outside_their_scale(changes: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Judgement(**{"side": "A", "strength": "better"} | changes)  # type: ignore[arg-type]


def test_preference_is_one_scale() -> None:
    assert preference(0, "significantly_better") == 4
    assert preference(0, "negligibly_better") == 1
    assert preference(1, "negligibly_better") == -1
    assert preference(1, "significantly_better") == -4


def test_the_order_is_a_fair_coin_fixed_by_the_id() -> None:
    swapped = [shows_second_first(f"id-{n}") for n in range(2000)]
    assert swapped == [shows_second_first(f"id-{n}") for n in range(2000)]
    assert abs(sum(swapped) - 1000) < 90  # 4 standard deviations of a fair coin: 4·√500 = 89
    # not swapped: A is the item's first response; swapped: A is its second
    assert [index_of("A", False), index_of("B", False)] == [0, 1]
    assert [index_of("A", True), index_of("B", True)] == [1, 0]
    for index in (0, 1):
        for order in (False, True):
            assert index_of(side_of(index, order), order) == index


def test_idle_time_and_clock_jumps_do_not_count() -> None:
    assert active_seconds(5, 100, 112) == 17
    assert active_seconds(5, 100, 100 + 3600) == 5 + IDLE_SECONDS
    assert active_seconds(5, 100, 40) == 5
