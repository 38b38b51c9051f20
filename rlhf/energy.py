"""Energy and carbon of a run, estimated from its time (Llama 2, Table 2).

    kWh = device hours × watts / 1000,      kg CO2eq = kWh × power-usage effectiveness × kg per kWh

As in the paper, a device counts with the power it may draw at most, whatever it drew, and making,
shipping and idling do not count.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

KG_PER_KWH = 0.385
"""Carbon intensity of the electricity, kg CO2eq: with the next figure, that of Table 2."""
POWER_USAGE_EFFECTIVENESS = 1.1
"""What a data center draws for each kWh of its machines (Table 2)."""
WATTS_PER_GPU = 400.0
"""Of an A100 with 80 GB, the GPU of Table 2."""
WATTS_PER_CORE = 5.0
"""Of one CPU core: server processors of 64 cores are rated 225 to 360 W."""
GROUPS_AT_ONCE = {
    ("ppo", "reward_placement"): 2,
    ("rejection-sampling", "placement"): 2,
    ("temperature-sweep", "placement"): 2,
    ("evaluate gold", "placement"): 4,
    ("evaluate scores", "placement"): 4,
}
"""(Command, placement) → groups of workers that hold it at a time; one elsewhere."""


@dataclass(frozen=True)
class Energy:
    """What so many devices draw in so much time."""

    device_hours: float
    device: str
    """What an hour is an hour of: GPU or CPU core."""
    watts: float
    """Of one device."""

    @property
    def kwh(self) -> float:
        """Energy of the devices alone, in kWh."""
        return self.device_hours * self.watts / 1000

    @property
    def kg_co2eq(self) -> float:
        """Carbon of it, the data center's share included, in kg of CO2 equivalent."""
        return self.kwh * POWER_USAGE_EFFECTIVENESS * KG_PER_KWH

    def as_dict(self) -> dict[str, Any]:
        """As finished.json of a run holds it."""
        return {
            **asdict(self),
            "kwh": self.kwh,
            "kg_co2eq": self.kg_co2eq,
            "assumptions": assumptions([self.device]),
        }

    def __str__(self) -> str:
        return f"about {1000 * self.kwh:.3g} Wh, {1000 * self.kg_co2eq:.3g} g CO2eq"


def run_energy(seconds: float, *, gpus: float, cores: int) -> Energy:
    """The estimate for a run.

    Args:
        seconds: it took.
        gpus: its workers held together; above 0, they alone count, as in the paper.
        cores: of this machine that it could use; all of them count where there are no GPUs.
    """
    hours = seconds / 3600
    if gpus:
        return Energy(hours * gpus, "GPU", WATTS_PER_GPU)
    return Energy(hours * cores, "CPU core", WATTS_PER_CORE)


def gpus_held(command: str, config: Mapping[str, Any]) -> float:
    """GPUs that the workers of a command reserve together, by the placements in its config.

    What one of them does not say is as in that of the first role.
    """

    def number(placement: Mapping[str, Any], name: str) -> float:
        value = placement.get(name)
        return config["placement"].get(name, 0) if value is None else value

    return sum(
        GROUPS_AT_ONCE.get((command, name), 1)
        * number(value, "workers")
        * number(value, "gpus_per_worker")
        for name, value in config.items()
        if name.endswith("placement")
    )


def assumptions(devices: Iterable[str]) -> str:
    """What the estimates for these kinds of devices rest on, in one sentence."""
    watts = {"GPU": WATTS_PER_GPU, "CPU core": WATTS_PER_CORE}
    drawn = " and ".join(f"{watts[name]:g} W per {name}" for name in sorted(set(devices)))
    return (
        f"assumed: {drawn} throughout, a power-usage effectiveness of "
        f"{POWER_USAGE_EFFECTIVENESS:g} and {KG_PER_KWH:g} kg CO2eq per kWh"
    )
