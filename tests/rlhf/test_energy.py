"""Energy and carbon: Table 2 of the paper, and what a run reports."""

import pytest

from rlhf.energy import Energy, assumptions, gpus_held, run_energy

TABLE_2 = {  # size: (GPU hours, watts, tonnes of CO2eq)
    "7B": (184_320, 400, 31.22),
    "13B": (368_640, 400, 62.44),
    "34B": (1_038_336, 350, 153.90),
    "70B": (1_720_320, 400, 291.42),
}


def tonnes(hours: float, watts: float) -> float:
    return Energy(hours, "GPU", watts).kg_co2eq / 1000


@pytest.mark.parametrize("size", TABLE_2)
def test_rows_of_table_2(size: str) -> None:
    # 7B: 184,320 h × 0.4 kW = 73,728 kWh; × 1.1 × 0.385 = 31,223.8 kg
    hours, watts, printed = TABLE_2[size]
    assert tonnes(hours, watts) == pytest.approx(printed, abs=0.01)


def test_total_of_table_2() -> None:
    # 31.2238 + 62.4476 + 153.9074 + 291.4222 = 539.0010
    assert sum(hours for hours, _, _ in TABLE_2.values()) == 3_311_616
    assert round(sum(tonnes(hours, watts) for hours, watts, _ in TABLE_2.values()), 2) == 539.00


def test_a_run_without_gpus_counts_the_cores() -> None:
    # half an hour × 4 cores = 2 h; × 5 W = 0.01 kWh; × 1.1 × 0.385 = 0.004235 kg
    energy = run_energy(1800, gpus=0, cores=4)
    assert (energy.device_hours, energy.device) == (2.0, "CPU core")
    assert energy.kwh == pytest.approx(0.01)
    assert energy.kg_co2eq == pytest.approx(0.004235)
    assert str(energy) == "about 10 Wh, 4.24 g CO2eq"  # rounded from 4.235


def test_a_run_on_gpus_counts_them_alone() -> None:
    energy = run_energy(3600, gpus=8, cores=64)
    assert (energy.device_hours, energy.kwh) == (8.0, 3.2)
    assert energy.as_dict() == {
        "device_hours": 8.0,
        "device": "GPU",
        "watts": 400.0,
        "kwh": 3.2,
        "kg_co2eq": pytest.approx(1.3552),
        "assumptions": "assumed: 400 W per GPU throughout, a power-usage effectiveness of 1.1 "
        "and 0.385 kg CO2eq per kWh",
    }


def test_assumptions_name_each_kind_once() -> None:
    told = assumptions(["GPU", "CPU core", "GPU"])
    assert told.startswith("assumed: 5 W per CPU core and 400 W per GPU throughout")


def test_gpus_of_a_command() -> None:
    four, two = ({"workers": n, "gpus_per_worker": 1.0} for n in (4, 2))
    assert gpus_held("sft", {"placement": four, "train": {"lr": 1.0}}) == 4
    # policy and critic 4 each, both reward models 2 each
    same: dict[str, float | None] = {"workers": None, "gpus_per_worker": None}
    ppo = {"placement": four, "critic_placement": same, "reward_placement": two}
    assert gpus_held("ppo", ppo) == 12
    assert gpus_held("ppo", ppo | {"critic_placement": same | {"workers": 3}}) == 11
    # both reward models at a time
    assert gpus_held("rejection-sampling", {"placement": two}) == 4
    # two policies and two reward models
    assert gpus_held("evaluate scores", {"placement": two}) == 8
    assert gpus_held("tokenizer train", {}) == 0
