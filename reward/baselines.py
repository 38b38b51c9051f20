"""What costs nothing: two ways to guess the preferred response without a language model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from data.schemas import Comparison


def length_scores(comparisons: Sequence[Comparison]) -> tuple[NDArray, NDArray]:
    """The longer wins: characters of the chosen and of the rejected responses."""
    chosen = [len(_text(c.chosen)) for c in comparisons]
    rejected = [len(_text(c.rejected)) for c in comparisons]
    return np.array(chosen, dtype=float), np.array(rejected, dtype=float)


class BagOfWords:
    """Logistic regression on the difference of word counts of the two responses.

    Without an intercept and on differences, so that the order of the two cannot matter: it is a
    Bradley-Terry model that is linear in log(1 + count) of words and pairs of words.
    """

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        self._vectorizer = CountVectorizer(
            ngram_range=(1, 2), min_df=2, token_pattern=r"\w+|[^\w\s]"
        )
        self._vectorizer.fit(_text(r) for c in comparisons for r in (c.chosen, c.rejected))
        differences = self._features([_text(c.chosen) for c in comparisons]) - self._features(
            [_text(c.rejected) for c in comparisons]
        )
        signs = np.where(np.arange(len(comparisons)) % 2 == 0, 1, -1)
        flipped = csr_matrix(differences.multiply(signs[:, None]))
        self._model = LogisticRegression(C=0.1, fit_intercept=False, max_iter=1000)
        self._model.fit(flipped, signs)

    def scores(self, comparisons: Sequence[Comparison]) -> tuple[NDArray, NDArray]:
        """Of the chosen and of the rejected responses."""
        chosen, rejected = (
            self._model.decision_function(self._features([_text(r) for r in responses]))
            for responses in ([c.chosen for c in comparisons], [c.rejected for c in comparisons])
        )
        return chosen, rejected

    def _features(self, texts: list[str]) -> csr_matrix:
        return self._vectorizer.transform(texts).log1p()


def _text(messages: Sequence) -> str:
    return "\n".join(message.content for message in messages)
