"""Mixtures of datasets, and the order in which training sees them. Deterministic."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def epoch_order(num_items: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of the items for one pass over them."""
    return np.random.default_rng([seed, epoch]).permutation(num_items)


def sample_without_replacement(items: Sequence[T], count: int, *, seed: int) -> list[T]:
    """So many of the items, in random order; all of them where there are fewer."""
    chosen = np.random.default_rng(seed).permutation(len(items))[:count]
    return [items[i] for i in chosen]
