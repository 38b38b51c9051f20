"""Which comparisons each reward model learns (Llama 2, section 3.2.2, "Data composition")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.errors import ConfigError, DataError
from data.mixing import sample_without_replacement
from data.schemas import Comparison, Domain, Message


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Share of a model's own domain in its training data; all own comparisons are always used."""

    helpfulness: float = 0.5
    """All helpfulness data with an equal part of the rest."""
    safety: float = 0.9
    """All safety data with helpfulness data, 90 to 10."""

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 < share <= 1:
                raise ConfigError(f"mixture.{name} is {share}; it must be above 0 and at most 1")

    def share(self, domain: Domain) -> float:
        """Of the model of this domain."""
        return self.helpfulness if domain == "helpfulness" else self.safety


def mix(
    comparisons: Sequence[Comparison],
    domain: Domain,
    mixture: Mixture,
    *,
    seed: int,
    open_data: Sequence[Comparison] = (),
) -> list[Comparison]:
    """All own comparisons and as many others as the share allows (fewer if they run out).

    Own are, as in the paper, for the helpfulness model those of `comparisons` on helpfulness, while
    all open data are others; for the safety model those of both on safety.

    Raises:
        ConfigError: there is none of the domain.
    """
    pool = [*comparisons, *open_data]
    mine = comparisons if domain == "helpfulness" else pool
    own = [c for c in mine if c.domain == domain]
    others = [c for c in comparisons if c.domain != domain]
    others += [c for c in open_data if domain == "helpfulness" or c.domain != domain]
    if not own:
        raise ConfigError(
            f"the training split has no {domain} comparisons; train the other model alone "
            "with --domains"
        )
    share = mixture.share(domain)
    wanted = round(len(own) * (1 - share) / share)
    return own + sample_without_replacement(others, wanted, seed=seed)


def weighted(comparisons: Sequence[Comparison], weight: float, *, seed: int) -> list[Comparison]:
    """A dataset as often as its weight says: 0.5 is a random half of it, 2 all of it twice."""
    whole = int(weight)
    rest = round((weight - whole) * len(comparisons))
    return [*comparisons] * whole + sample_without_replacement(comparisons, rest, seed=seed)


def check_nothing_leaks(
    train: Mapping[str, Sequence[Comparison]], test: Mapping[str, Sequence[Comparison]]
) -> None:
    """No prompt of any test split may be trained on, not even in other case and spacing.

    Args:
        train: name of a dataset → what is trained on or chosen by.
        test: name of a dataset → its test split.

    Raises:
        DataError: one is; the message counts them.
    """
    held_out = {_prompt_key(c.prompt): name for name, rows in test.items() for c in rows}
    for name, rows in train.items():
        leaks = [c for c in rows if _prompt_key(c.prompt) in held_out]
        if leaks:
            source = held_out[_prompt_key(leaks[0].prompt)]
            raise DataError(
                f"{len(leaks)} of {len(rows)} comparisons of {name!r} to be trained on have a "
                f"prompt of the test split of {source!r}, first {leaks[0].comparison_id!r}: its "
                "accuracy would mean nothing; split by prompt, or leave one dataset out"
            )


def _prompt_key(prompt: Sequence[Message]) -> int:
    """Equal for prompts that differ in case and white space only.

    A hash within this process, because millions of dialogues would not fit in memory.
    """
    return hash(tuple((m.role, " ".join(m.content.casefold().split())) for m in prompt))
