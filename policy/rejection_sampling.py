"""Rejection sampling and fine-tuning (Llama 2, section 3.2.3).

K samples a prompt, scored with R_c; the best becomes a training answer. Best-of-N statistics of the
same samples give Figure 7: the maximum grows like log N, the median stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from data.chat_format import ChatFormat
from data.errors import require_not_negative, require_positive
from data.schemas import Demonstration, Message
from policy.prompts import PromptSet
from policy.sft import SftConfig
from rlhf.generation.sampling import SamplingConfig
from rlhf.types import Rollout


@dataclass(frozen=True, kw_only=True)
class RejectionSamplingConfig:
    """One round of rejection sampling. Defaults follow Llama 2 section 3.2.3."""

    num_prompts: int = 4096
    """Prompts to sample for (not published)."""
    samples_per_prompt: int = 16
    """K; the paper's is between 10 and 100."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.2, max_new_tokens=1024)
    """The paper re-tunes the temperature every round; RLHF models like 1.2 to 1.3."""
    seed: int = 0
    """Draws prompts and samples."""
    fine_tune: SftConfig = SftConfig(epochs=1.0)
    """Training on the best samples."""

    def __post_init__(self) -> None:
        require_positive(self, "num_prompts", "samples_per_prompt")
        require_not_negative(self, "seed")


def best_per_prompt(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """[P] each prompt's sample with the highest of its scores [P, K]; the first of equals."""
    return scores.argmax(axis=1)


def best_of_n_curve(scores: NDArray[np.float64]) -> list[dict[str, float]]:
    """Mean over prompts of the maximum and the median of N samples, for N = 1, 2, 4, … K.

    The expectation over all subsets of size N is exact: with K sorted scores s_1 ≤ … ≤ s_K, the
    maximum of a random N-subset is s_i with probability C(i−1, N−1) / C(K, N).

    Args:
        scores: [P, K].
    """
    ordered = np.sort(scores, axis=1)
    num_samples = ordered.shape[1]
    sizes = [2**p for p in range(num_samples.bit_length()) if 2**p <= num_samples]
    return [
        {
            "n": float(n),
            "maximum": float((ordered @ _max_weights(num_samples, n)).mean()),
            "median": float(np.median(scores[:, :n], axis=1).mean()),
            "mean": float(scores[:, :n].mean()),
        }
        for n in sizes
    ]


def demonstrations_from(
    prompts: PromptSet, rollouts: Sequence[Rollout], chosen: NDArray[np.int64], chat: ChatFormat
) -> list[Demonstration]:
    """The chosen sample of every prompt as a dialogue to imitate, learned in its last answer.

    Args:
        rollouts: K per prompt, side by side.
        chosen: [P] which of the K.
    """
    per_prompt = len(rollouts) // len(prompts)
    result = []
    for index, row in enumerate(prompts.rows):
        rollout = rollouts[index * per_prompt + int(chosen[index])]
        if rollout.finish_reason != "eos":
            continue  # an answer that was cut off would teach not to end
        answer = Message("assistant", chat.decode_response(rollout.response_ids))
        result.append(
            Demonstration(
                demonstration_id=f"best-{row.prompt_id}",
                messages=(*row.prompt, answer),
                loss_on="last",
                domain=row.domain,
                source="rejection-sampling",
            )
        )
    return result


def those_that_fit(
    demonstrations: Sequence[Demonstration], chat: ChatFormat, row_length: int
) -> list[Demonstration]:
    """Dialogues of at most a row's tokens: nobody chose the length of what was sampled."""
    return [
        d
        for d in demonstrations
        if len(chat.encode_dialogue(d.messages, loss_on=d.loss_on).ids) <= row_length
    ]


def _max_weights(num_samples: int, n: int) -> NDArray[np.float64]:
    """[K] probability that the i-th smallest of K is the maximum of a random N-subset."""
    total = comb(num_samples, n)
    return np.array([comb(i, n - 1) / total for i in range(num_samples)])
