"""The HTML page of `rlhf reproduce policy` and what it shows beside the claims."""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from data.durable import write_durably
from policy.best_of_n import best_of_n_curve
from policy.claim_figures import (
    best_of_n_kl,
    gold_of_best_of_n,
    gold_score,
    helpfulness,
    table_of,
    violations,
)
from policy.claims import (
    ALL_ROUNDS,
    BOTH_MODELS,
    LAST_ROUND,
    NO_PENALTY,
    ONE_MODEL,
    PENALTY,
    PPO,
    RS,
    SFT,
    Answers,
)
from policy.evaluation.report_parts import charts, page, paragraph, table
from rlhf.claim_plots import gold_by_kl, maxima_by_temperature, score_by_kl
from rlhf.claims import over_seeds
from rlhf.cli.reproduce_page import INTERVALS, Results, claims_tables, figure
from rlhf.plots import best_of_n

SHARED = (
    " The seeds share world and chat model; each has its own comparisons, reward models and "
    "policies. Gold scores are what the annotators are asked to prefer: gold helpfulness on "
    "harmless prompts; on unsafe ones 0 for a violation, else ½ or more."
)
NAMES = {
    SFT: "SFT",
    RS: "RS",
    PPO: "RS, then PPO",
    LAST_ROUND: "RS, then RS on its own samples alone",
    ALL_ROUNDS: "RS, then RS on all rounds",
    BOTH_MODELS: "PPO from SFT, both reward models",
    ONE_MODEL: "PPO from SFT, helpfulness model alone",
}
COLUMNS: dict[str, Callable[[pd.DataFrame], float]] = {
    "gold score": gold_score,
    "helpfulness": helpfulness,
    "violations": violations,
}
"""Of the table of policies, in points."""


def curves_of(seeds: Sequence[Answers]) -> dict[str, list[dict[str, Any]]]:
    """What the page's tables and charts show: means over the seeds."""
    return {
        "policies": list(_policies(seeds)),
        "best_of_n": _means(map(_best_of_n, seeds), ["n"]),
        "temperatures": _means(map(_temperatures, seeds), ["policy", "temperature", "n"]),
        "runs": _means(map(_runs, seeds), ["run", "step"]),
        "ppo": _means(map(_ppo, seeds), ["policy"]),
    }


def write_page(path: Path, results: Results) -> None:
    """The page: opens offline, with every table and chart."""
    curve, runs = pd.DataFrame(results["best_of_n"]), pd.DataFrame(results["runs"])
    temperatures = pd.DataFrame(results["temperatures"])
    intervals = paragraph(INTERVALS.format(seeds=results["seeds"]) + SHARED)
    bodies = {
        "Claims": intervals + "\n".join(claims_tables(results)),
        "Policies": _policy_table(results),
        "Best of N": charts(best_of_n(curve), gold_by_kl(curve, pd.DataFrame(results["ppo"]))),
        "Temperatures": charts(
            *(
                maxima_by_temperature(own, NAMES[str(policy)])
                for policy, own in temperatures.groupby("policy", sort=False)
            )
        ),
        "Over-optimisation": charts(
            score_by_kl(runs, "combined_score", "proxy: combined score of the reward models"),
            score_by_kl(runs, "gold_score", "gold score (0–1)"),
        ),
    }
    title = "Llama 2's claims about PPO and rejection sampling, on the built-in world"
    write_durably(path, page(title, f"<h1>{escape(title)}</h1>", bodies).encode())


def _policies(seeds: Sequence[Answers]) -> Iterator[dict[str, Any]]:
    for policy in seeds[0].held_out:
        own = [seed.held_out[policy] for seed in seeds]
        for name, of in COLUMNS.items():
            yield {"policy": policy, "measure": name, "unit": "points"} | vars(
                over_seeds([of(samples) for samples in own])
            )
        kl = over_seeds([float(samples["kl"].mean()) for samples in own])
        yield {"policy": policy, "measure": "KL, nats", "unit": "coefficient"} | vars(kl)


def _best_of_n(seed: Answers) -> pd.DataFrame:
    curve = pd.DataFrame(best_of_n_curve(table_of(seed.best_of, "combined_score")))
    kl = [best_of_n_kl(int(n)) for n in curve["n"]]
    return curve.assign(kl=kl, gold_score=list(gold_of_best_of_n(seed.best_of).values()))


def _temperatures(seed: Answers) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"policy": policy, "temperature": temperature, **point}
            for policy, sweep in seed.sweeps.items()
            for temperature, own in sweep.groupby("temperature")
            for point in best_of_n_curve(table_of(own, "combined_score"))[::2]  # N = 1, 4, 16
        ]
    )


def _runs(seed: Answers) -> pd.DataFrame:
    names = {NO_PENALTY: "β = 0", PENALTY: "β = 0.01"}
    columns = ["combined_score", "gold_score", "kl"]
    return pd.concat(
        [
            samples.groupby("step")[columns].mean().reset_index().assign(run=names[run])
            for run, samples in seed.runs.items()
        ]
    )


def _ppo(seed: Answers) -> pd.DataFrame:
    return pd.DataFrame([{"policy": NAMES[PPO], "kl": seed.ppo_kl, "gold_score": seed.ppo_gold}])


def _means(parts: Any, keys: list[str]) -> list[dict[str, Any]]:
    """Means over the seeds of what has the same keys."""
    joined = pd.concat(list(parts))
    means = joined.groupby(keys, sort=False).mean().reset_index()
    records: list[dict[str, Any]] = means.to_dict(orient="records")
    return records


def _policy_table(results: Results) -> str:
    records = {(r["policy"], r["measure"]): r for r in results["policies"]}
    policies = list(dict.fromkeys(r["policy"] for r in results["policies"]))
    measures = list(dict.fromkeys(r["measure"] for r in results["policies"]))
    rows = [
        [NAMES[policy], *(figure({**records[policy, m], "above": None}) for m in measures)]
        for policy in policies
    ]
    header = ["", *(f"{m}, %" if m in COLUMNS else m for m in measures)]
    return table("Policies on the held-out prompts: means over the seeds", header, rows)
