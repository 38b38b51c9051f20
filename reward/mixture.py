"""Which comparisons each reward model learns (Llama 2, section 3.2.2, "Data composition")."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import ConfigError
from data.mixing import sample_without_replacement
from data.schemas import Comparison, Domain


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
    comparisons: Sequence[Comparison], domain: Domain, mixture: Mixture, *, seed: int
) -> list[Comparison]:
    """All comparisons of the domain and as many others as the share allows (fewer if they run out).

    Raises:
        ConfigError: there is none of the domain.
    """
    own = [c for c in comparisons if c.domain == domain]
    others = [c for c in comparisons if c.domain != domain]
    if not own:
        raise ConfigError(
            f"the training split has no {domain} comparisons; train the other model alone "
            "with --domains"
        )
    share = mixture.share(domain)
    wanted = round(len(own) * (1 - share) / share)
    return own + sample_without_replacement(others, wanted, seed=seed)
