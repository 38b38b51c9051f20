import pytest

from annotation_app.ledger.oversight import Judged
from annotation_app.quality import MAX_ITEMS, agreement, pair_agreement, summarise_annotators


def judged(item: int, annotator: str, preference: int, **changes: object) -> Judged:
    strengths = {4: "significantly_better", 3: "better", 2: "slightly_better"}
    values = {
        "item_id": item,
        "annotator": annotator,
        "preference": preference,
        "chose_a": preference > 0,
        "strength": strengths.get(abs(preference), "negligibly_better"),
        "safety_label": None,
        "seconds": 10.0,
        "late": False,
        "too_fast": False,
    }
    return Judged(**values | changes)  # type: ignore[arg-type]


def test_agreement_needs_two_judgements_of_an_item() -> None:
    assert agreement([judged(1, "a", 3), judged(2, "b", -3)]) is None
    assert agreement([]) is None


def test_agreement_by_hand() -> None:
    # Four items, two people: the same side on three of them.
    rows = [(3, 3), (4, 3), (-2, -2), (3, -3)]
    both = [judged(n, "ab"[who], pair[who]) for n, pair in enumerate(rows) for who in (0, 1)]
    found = agreement([*both, judged(9, "a", 4)])  # an item judged once does not count
    assert found is not None and found.items == 4
    # AC1: p_a = 3/4; π₊ = 5/8, π₋ = 3/8; p_e = (1/(2−1)) · Σ π(1 − π) = 2·15/64 = 15/32
    # (3/4 − 15/32) / (1 − 15/32) = (9/32) / (17/32) = 9/17
    assert found.choice.value == pytest.approx(9 / 17)
    assert found.choice.low <= found.choice.value <= found.choice.high
    assert -1 <= found.alpha.value <= found.strength.value <= 1


def test_annotators_by_hand() -> None:
    rows = [judged(n, "ann", 3, seconds=float(n)) for n in (1, 2, 3)]
    rows += [judged(1, "ben", 2), judged(2, "ben", -2), judged(2, "cem", -4, late=True)]
    ann, ben, cem = summarise_annotators(rows, {})
    assert (ann.annotator, ann.annotations, ann.median_seconds) == ("ann", 3, 2.0)
    assert (ann.prefers_a.value, ben.prefers_a.value) == (1.0, 0.5)
    # ann: item 1 as ben; item 2 against both others; item 3 has nobody else
    assert (ann.agrees.value, ann.agrees.n) == (0.5, 2)
    # ben: item 1 as ann; item 2: ann and cem disagree, so there is no majority
    assert (ben.agrees.value, ben.agrees.n) == (1.0, 1)
    assert (cem.late, cem.agrees.n) == (1, 0)


def test_kappa_of_a_pair_by_hand() -> None:
    # Four items; ann: + + − +, ben: + + − −. p_a = 3/4; shares of +: 3/4 and 1/2;
    # p_e = 3/4·1/2 + 1/4·1/2 = 1/2; κ = (3/4 − 1/2) / (1 − 1/2) = 1/2
    rows = [(3, 3), (4, 1), (-2, -2), (3, -3)]
    both = [judged(n, ("ann", "ben")[w], pair[w]) for n, pair in enumerate(rows) for w in (1, 0)]
    found, other = pair_agreement([*both, judged(0, "cem", 3)])[:2]
    assert (found.annotators, found.items, found.sampled) == (("ann", "ben"), 4, 4)
    assert found.kappa.value == pytest.approx(0.5)
    assert other.items == 1
    assert pair_agreement([judged(1, "ann", 3)]) == []


def test_what_was_answered_too_fast_is_counted() -> None:
    rows = [judged(n, "ann", 3, too_fast=n < 2) for n in range(3)]
    (ann,) = summarise_annotators(rows, {})
    assert (ann.too_fast.value, ann.too_fast.n) == (pytest.approx(2 / 3), 3)


def test_many_items_are_sampled_and_the_interval_holds_the_whole() -> None:
    # 3,000 items, 2,400 of them with the same side twice; both sides as often: π₊ = π₋ = 1/2.
    # p_a = 4/5, p_e = 2·(1/4) = 1/2, AC1 = (4/5 − 1/2) / (1/2) = 3/5
    sides = [(1, 1), (-1, -1), (1, 1), (-1, -1), (1, -1)] * 600
    rows = [judged(n, "ab"[who], pair[who]) for n, pair in enumerate(sides) for who in (0, 1)]
    found = agreement(rows)
    assert found is not None and (found.items, found.sampled) == (3000, MAX_ITEMS)
    assert found.choice.low < 3 / 5 < found.choice.high
    assert agreement(rows) == found
    (pair,) = pair_agreement(rows)
    assert (pair.items, pair.sampled) == (3000, MAX_ITEMS)
    assert pair.kappa.low < 3 / 5 < pair.kappa.high  # κ: the same here
