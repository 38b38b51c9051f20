"""Margins of the preference loss by strength (Llama 2, Table 27), in units of score."""

from typing import Literal

from data.schemas import Strength

MarginScale = Literal["small", "large"]
MARGIN_SCALES: dict[MarginScale, dict[Strength, float]] = {
    "small": {
        "significantly_better": 1.0,
        "better": 2 / 3,
        "slightly_better": 1 / 3,
        "negligibly_better": 0.0,
    },
    "large": {
        "significantly_better": 3.0,
        "better": 2.0,
        "slightly_better": 1.0,
        "negligibly_better": 0.0,
    },
}
