"""The chart of progress over rounds tells its figures."""

import pandas as pd

from rlhf.progress_plots import progress_over_rounds


def point(judge: str, policy: str, helpfulness: float, safety: float) -> dict[str, object]:
    ends = {
        f"{axis}_{end}": value + half
        for axis, value in (("helpfulness", helpfulness), ("safety", safety))
        for end, half in (("low", -0.05), ("high", 0.05))
    }
    return {"judge": judge, "policy": policy, "helpfulness": helpfulness, "safety": safety, **ends}


def test_a_path_per_judge_in_the_order_of_the_policies() -> None:
    policies = ("SFT", "V2", "V10")  # not the order of the alphabet
    points = [point("by gold", p, 0.5 + n / 10, 0.5) for n, p in enumerate(policies)]
    points += [point("by models", p, 0.5, 0.5 + n / 5) for n, p in enumerate(policies)]
    chart = progress_over_rounds(pd.DataFrame(points))
    assert chart.description == (
        "By gold, V10 wins 70.0% on harmless and 50.0% on unsafe prompts; "
        "by models, V10 wins 50.0% on harmless and 90.0% on unsafe prompts."
    )
    drawn = chart.to_dict()
    (rows,) = drawn["datasets"].values()
    assert [(row["policy"], row["order"]) for row in rows] == [
        (policy, order) for _ in range(2) for order, policy in enumerate(policies)
    ]
    assert drawn["facet"]["column"]["sort"] == ["by gold", "by models"]
