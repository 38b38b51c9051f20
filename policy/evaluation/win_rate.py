"""Win, tie and loss of one policy against another on the same prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.intervals import Proportion, proportion


@dataclass(frozen=True)
class WinRate:
    """Counts over prompts; ties are left out of the rate, as in Llama 2's Figure 2."""

    win: int
    tie: int
    loss: int

    @property
    def rate(self) -> Proportion:
        """Win / (win + loss) with Wilson's 95 % interval."""
        return proportion(self.win, self.win + self.loss)

    def to_record(self) -> dict[str, Any]:
        """The counts, and the rate with its interval: None where there are but ties."""
        rate = self.rate
        return {
            "win": self.win,
            "tie": self.tie,
            "loss": self.loss,
            "win_rate": rate.value,
            "win_rate_low": rate.low,
            "win_rate_high": rate.high,
        }


def win_rate(ours: Sequence[float], theirs: Sequence[float], margins: Sequence[float]) -> WinRate:
    """Compares utilities prompt by prompt.

    Args:
        ours: utility of our response to each prompt.
        theirs: utility of the other policy's.
        margins: differences up to this are ties.
    """
    wins = ties = 0
    for mine, other, margin in zip(ours, theirs, margins, strict=True):
        if abs(mine - other) <= margin + 1e-9:
            ties += 1
        elif mine > other:
            wins += 1
    return WinRate(wins, ties, len(ours) - wins - ties)
