"""Rejection sampling and fine-tuning (Llama 2, section 3.2.3).

K samples a prompt, scored with R_c; the best becomes a training answer. policy/selection.py holds
the ways to choose, policy/pool.py the best samples of earlier rounds.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from data.chat_format import ChatFormat
from data.errors import ConfigError, require_not_negative, require_positive
from data.schemas import Demonstration, Message
from policy.prompts import PromptSet
from policy.scored_samples import SamplePlan
from policy.selection import Selection
from policy.sft import SftConfig
from rlhf.generation.sampling import SamplingConfig
from rlhf.types import Rollout


@dataclass(frozen=True, kw_only=True)
class RejectionSamplingConfig:
    """One round of rejection sampling. Defaults follow Llama 2 section 3.2.3."""

    num_prompts: int = 4096
    """Prompts to sample for (not published)."""
    samples_per_prompt: int = 16
    """K at each temperature; the paper's is between 10 and 100."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.2, max_new_tokens=1024)
    """The paper re-tunes the temperature every round; RLHF models like 1.2 to 1.3."""
    temperatures: tuple[float, ...] = ()
    """Several temperatures to sample at, in place of the one above."""
    selection: Selection = "best_per_prompt"
    """Which samples are learned; the random ones are controls."""
    keep: int = 1
    """Samples learned per prompt."""
    part_prompts: int = 256
    """Prompts whose samples are written together; an interruption loses no more than them."""
    seed: int = 0
    """Draws prompts and samples."""
    fine_tune: SftConfig = SftConfig(epochs=1.0)
    """Training on the best samples."""

    def __post_init__(self) -> None:
        require_positive(self, "num_prompts", "samples_per_prompt", "keep", "part_prompts")
        require_not_negative(self, "seed")
        check_temperatures(self.temperatures, self.sampling)
        most = self.samples_per_prompt * max(1, len(self.temperatures))
        if self.keep > most:
            raise ConfigError(f"keep is {self.keep}; it must be at most {most}, the samples")

    def plan(self, temperatures: tuple[float, ...]) -> SamplePlan:
        """What to sample, at these temperatures."""
        return SamplePlan(
            per_prompt=self.samples_per_prompt,
            sampling=self.sampling,
            temperatures=temperatures,
            seed=self.seed,
            part_prompts=self.part_prompts,
        )


def check_temperatures(temperatures: Sequence[float], sampling: SamplingConfig) -> None:
    """Each must be one to sample at, and none may come twice.

    Raises:
        ConfigError: one is not, or does.
    """
    for temperature in temperatures:
        replace(sampling, temperature=temperature)  # refuses what is out of range
    if len(set(temperatures)) < len(temperatures):
        raise ConfigError(f"temperatures is {list(temperatures)}; name each of them once")


def finished(rollouts: Sequence[Rollout], places: Iterable[int]) -> list[int]:
    """Those of the places whose answer ended: one that was cut off would teach not to end."""
    return [int(place) for place in places if rollouts[place].finish_reason == "eos"]


def demonstrations_from(
    prompts: PromptSet, rollouts: Sequence[Rollout], places: Sequence[int], chat: ChatFormat
) -> list[Demonstration]:
    """Chosen samples as dialogues to imitate, learned in their last answer.

    Args:
        prompts: all of them.
        rollouts: K per prompt, side by side.
        places: which of the rollouts.
        chat: decodes them.
    """
    per_prompt = len(rollouts) // len(prompts)
    result, before = [], Counter[int]()
    for place in places:
        number = place // per_prompt
        row, nth = prompts.rows[number], before[number]
        before[number] += 1
        answer = Message("assistant", chat.decode_response(rollouts[place].response_ids))
        result.append(
            Demonstration(
                demonstration_id=f"best-{row.prompt_id}" + (f"-{nth}" if nth else ""),
                messages=(*row.prompt, answer),
                loss_on="last",
                domain=row.domain,
                source="rejection-sampling",
            )
        )
    return result


def those_that_fit(
    demonstrations: Sequence[Demonstration], chat: ChatFormat, most: int
) -> list[Demonstration]:
    """Dialogues of at most so many tokens: nobody chose the length of what was sampled."""
    return [
        d
        for d in demonstrations
        if len(chat.encode_dialogue(d.messages, loss_on=d.loss_on).ids) <= most
    ]
