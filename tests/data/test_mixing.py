"""The order of training: permutations that a seed and an epoch fix."""

import numpy as np

from data.mixing import epoch_order, sample_without_replacement


def test_an_epoch_sees_every_item_once() -> None:
    order = epoch_order(1000, seed=3, epoch=0)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() != list(range(1000))


def test_seed_and_epoch_fix_the_order() -> None:
    np.random.seed(1)
    first = epoch_order(100, seed=3, epoch=2)
    np.random.seed(2)  # the global state plays no part
    assert np.array_equal(first, epoch_order(100, seed=3, epoch=2))
    orders = [epoch_order(100, seed=s, epoch=e).tolist() for s in range(4) for e in range(4)]
    assert len({tuple(order) for order in orders}) == 16  # seed 1, epoch 0 is not 0, 1


def test_every_item_is_equally_likely_to_come_first() -> None:
    # 6,000 draws of 6 places: 1,000 each, standard deviation √(6000 · 1/6 · 5/6) = 28.9; 4.5 of it
    firsts = [epoch_order(6, seed=0, epoch=epoch)[0] for epoch in range(6000)]
    counts = np.bincount(firsts, minlength=6)
    assert (abs(counts - 1000) < 130).all()


def test_nothing_and_one() -> None:
    assert epoch_order(0, seed=0, epoch=0).tolist() == []
    assert epoch_order(1, seed=0, epoch=5).tolist() == [0]


def test_samples_do_not_repeat() -> None:
    items = list("abcdefghij")
    drawn = sample_without_replacement(items, 4, seed=1)
    assert len(drawn) == len(set(drawn)) == 4
    assert set(drawn) <= set(items)
    assert drawn == sample_without_replacement(items, 4, seed=1)
    assert drawn != sample_without_replacement(items, 4, seed=2)
    # a larger sample of the same seed contains the smaller one
    assert sample_without_replacement(items, 6, seed=1)[:4] == drawn


def test_equal_items_are_different_items() -> None:
    assert sorted(sample_without_replacement("aab", 3, seed=0)) == ["a", "a", "b"]


def test_there_are_no_more_than_there_are() -> None:
    assert sorted(sample_without_replacement([1, 2, 3], 10, seed=0)) == [1, 2, 3]
    assert sample_without_replacement([1, 2, 3], 0, seed=0) == []
