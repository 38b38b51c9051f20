"""Which samples are learned from: pure functions of a score matrix, with random ones as controls.

Scores are [P, K]: K samples for each of P prompts. A selection is a mask [P, K], True where a
sample is kept. What a strategy gains it must gain over its control, which keeps as many samples
without a look at their scores.
"""

from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

Selection = Literal["best_per_prompt", "best_overall", "random_per_prompt", "random_overall"]
Mask = NDArray[np.bool_]


def select(scores: NDArray[np.float64], strategy: Selection, *, keep: int, seed: int) -> Mask:
    """[P, K] the samples that a strategy keeps.

    Args:
        scores: [P, K].
        strategy: the paper's is `best_per_prompt`; its control is `random_per_prompt`.
        keep: samples per prompt; overall strategies keep as many on average.
        seed: of the controls.
    """
    match strategy:
        case "best_per_prompt":
            return best_per_prompt(scores, keep)
        case "best_overall":
            return best_overall(scores, keep * len(scores))
        case "random_per_prompt":
            return best_per_prompt(_noise(scores, seed), keep)
        case "random_overall":
            return best_overall(_noise(scores, seed), keep * len(scores))
    assert_never(strategy)


def best_per_prompt(scores: NDArray[np.float64], keep: int = 1) -> Mask:
    """[P, K] each prompt's `keep` highest; of equals the first."""
    order = np.argsort(-scores, axis=1, kind="stable")
    mask = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(mask, order[:, :keep], True, axis=1)
    return mask


def best_overall(scores: NDArray[np.float64], count: int) -> Mask:
    """[P, K] the `count` highest of all; prompts that score low may lose all their samples."""
    return best_per_prompt(scores.reshape(1, -1), count).reshape(scores.shape)


def _noise(scores: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """[P, K] scores that say nothing: the best of them are random ones."""
    return np.random.default_rng(seed).random(scores.shape)
