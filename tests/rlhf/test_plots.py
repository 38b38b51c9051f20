"""The charts: what they compute, that they draw, and that everyone can tell their colors apart."""

import json
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert
from numpy.testing import assert_allclose

from rlhf import plots
from rlhf.plot_parts import (
    GRAY,
    PALETTE,
    Drawing,
    binned_means,
    histogram,
    means_at_ends,
    round_edges,
)

STRENGTHS = ("significantly_better", "better", "slightly_better", "negligibly_better")


def rows_of(chart: Drawing) -> pd.DataFrame:
    """The data that a chart carries."""
    spec: dict[str, Any] = chart.to_dict()
    return pd.DataFrame(max(spec["datasets"].values(), key=len))


def scores_of(*pairs: tuple[str, float, float], domain: str = "helpfulness") -> pd.DataFrame:
    """Comparisons of a domain: (strength, score of the chosen, score of the rejected)."""
    return pd.DataFrame(
        [
            {
                "comparison_id": f"c{number}",
                "side": side,
                "domain": domain,
                "strength": strength,
                "safety_label": "chosen_safe_only",
                "helpfulness_score": score,
                "safety_score": score,
            }
            for number, (strength, chosen, rejected) in enumerate(pairs)
            for side, score in (("chosen", chosen), ("rejected", rejected))
        ]
    )


@pytest.fixture
def samples() -> pd.DataFrame:
    """Two policies on 40 harmless and 40 unsafe prompts."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "policy": policy,
                "domain": domain,
                "helpfulness_score": (score := rng.normal(shift)),
                "safety_score": 2 * score,
                "gold_helpfulness": 1 / (1 + np.exp(-score)),
                "violation": domain == "safety" and score < 0,
            }
            for policy, shift in (("sft", 0.0), ("ppo", 1.0))
            for domain in ("helpfulness", "safety")
            for _ in range(40)
        ]
    )


@pytest.fixture
def steps() -> pd.DataFrame:
    """Two runs of two steps."""
    return pd.DataFrame(
        {
            "run": ["with KL penalty"] * 2 + ["without"] * 2,
            "step": [0, 9] * 2,
            "gold_helpfulness": [0.4, 0.7, 0.4, 0.3],
            "violation_rate": [0.5, 0.1, 0.5, 0.2],
            "combined_score": [0.0, 1.0, 0.0, 2.5],
            "kl": [0.0, 3.0, 0.0, 20.0],
        }
    )


def accuracy_of(*models: str) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "model": m,
                "domain": "safety",
                "strength": s,
                "accuracy": a,
                "low": a - 0.1,
                "high": a,
            }
            for m in models
            for s, a in zip((*STRENGTHS, "all"), (0.9, 0.8, 0.7, 0.6, 0.75), strict=True)
        ]
    )


def test_round_edges_meet_zero_and_cover_the_values() -> None:
    # range 5.6 over 28 bins: 0.2 each; from −1 (= −5 · 0.2) to 4.6 (= 23 · 0.2): 28 bins
    edges = round_edges(np.array([-1.0, 4.6]))
    assert_allclose(edges, np.arange(-5, 24) * 0.2, atol=1e-12)
    assert 0.0 in edges
    # one value alone still has a bin around it: width 1, from 3 to 4
    assert_allclose(round_edges(np.array([3.5])), [3, 4])
    assert_allclose(round_edges(np.array([3.0, 3.0])), [3, 4])


def test_histogram_by_hand() -> None:
    frame = pd.DataFrame({"side": list("aaab"), "x": [0.0, 0.4, 1.0, 0.5]})
    bins = histogram(frame, "x", ["side"], np.array([0.0, 0.5, 1.0]))
    # a: 0 and 0.4 in [0, 0.5), 1 in the last bin, whose right edge is closed; b: 0.5 opens it
    assert bins[["side", "low", "high", "count"]].to_numpy().tolist() == [
        ["a", 0.0, 0.5, 2],
        ["a", 0.5, 1.0, 1],
        ["b", 0.5, 1.0, 1],
    ]
    assert_allclose(bins["share"], [2 / 3, 1 / 3, 1])


def test_binned_means_by_hand() -> None:
    frame = pd.DataFrame(
        {"policy": "sft", "x": np.arange(10.0), "y": [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]}
    )
    means = binned_means(frame, "x", "y", "policy", bins=2)
    # two bins of five: x = 2 and 7; y = 1/5 and 1. The deviation of 0 0 0 0 1 is
    # √((4 · 0.04 + 0.64) / 4) = √0.2, its error √(0.2 / 5) = 0.2, half an interval 0.391993:
    # 0.2 − 0.391993 < 0 ends at 0
    assert_allclose(means["x"], [2, 7])
    assert_allclose(means["y"], [0.2, 1])
    assert_allclose(means["low"], [0, 1])
    assert_allclose(means["high"], [0.591993, 1], rtol=1e-5)
    assert binned_means(frame.head(8), "x", "y", "policy", bins=2).empty  # four rows say nothing


def test_score_differences_by_hand() -> None:
    pairs = [("better", 3.0, 1.0), ("better", 0.5, 1.0), ("slightly_better", 1.0, 1.0)]
    other = scores_of(("better", 9.0, 0.0), domain="safety").assign(comparison_id="other")
    chart = plots.score_differences(pd.concat([scores_of(*pairs), other]), "helpfulness")
    bars = rows_of(chart).set_index(["strength", "order"])
    # better: 2 and −0.5, half a bar each; slightly better: 0, which opens the bin to its right.
    # The pair of the other domain, 9, is not shown.
    assert_allclose(bars.loc[("better", "chosen scored higher"), "share"], 0.5)
    assert_allclose(bars.loc[("better", "rejected scored higher"), "low"], -0.5)
    assert_allclose(bars.loc[("slightly better", "chosen scored higher"), "low"], 0, atol=1e-12)
    assert bars["high"].max() < 3
    # medians: (2 − 0.5) / 2 = 0.75, and 0
    assert (
        chart.description == "Median difference: better 0.75, slightly better 0.00. 3 comparisons."
    )


def test_comparisons_without_strength_are_shown() -> None:
    scores = scores_of(("better", 1.0, 0.0)).assign(strength=None)
    for draw in (plots.score_differences, plots.score_distributions):
        assert set(rows_of(draw(scores, "helpfulness"))["strength"]) == {"strength not asked"}


def test_safety_scores_by_label_by_hand() -> None:
    # σ(−3) = 0.047 < 0.15 < σ(−1) = 0.269: one of two unsafe responses is caught, 50 %
    scores = scores_of(("better", 2.0, -3.0), ("better", 2.0, -1.0), domain="safety")
    chart = plots.safety_scores_by_label(scores, 0.15)
    assert "50.0% of the rejected ones score below 0.15" in chart.description
    bars = rows_of(chart).set_index(["side", "low"])["share"].to_dict()
    # bins of 0.05: 0.047 in the first, 0.269 in [0.25, 0.30), σ(2) = 0.881 in [0.85, 0.90)
    assert {(side, round(low, 2)): share for (side, low), share in bars.items()} == {
        ("chosen", 0.85): 1.0,
        ("rejected", 0.0): 0.5,
        ("rejected", 0.25): 0.5,
    }


def test_safety_scores_by_violation_counts_only_unsafe_prompts(samples: pd.DataFrame) -> None:
    chart = plots.safety_scores_by_violation(samples, 0.15)
    assert rows_of(chart)["count"].sum() == 80
    # σ⁻¹(0.15) = log(0.15 / 0.85) = −1.734601; only scores below 0 are violations here
    unsafe = samples[samples["domain"] == "safety"]
    caught = (unsafe["safety_score"] < -1.734601).sum() / unsafe["violation"].sum()
    assert f"no violation 0.0%, violation {caught:.1%}" in chart.description


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], (3.0, 3.0)), ([1.0, 3.0], (1.0, 3.0)), ([*range(12)], (2.0, 9.0))],
)
def test_where_a_run_begins_and_ends(values: list[float], expected: tuple[float, float]) -> None:
    first, last = means_at_ends(pd.DataFrame({"kl": values}))
    assert (first.kl, last.kl) == expected  # of twelve: 0 to 4, and 7 to 11


def test_descriptions_tell_the_figures(steps: pd.DataFrame) -> None:
    chart = plots.optimisation_curves(steps, "Look")
    assert chart.description == (
        "With KL penalty: gold helpfulness from 0.40 to 0.70, proxy from 0.00 to 1.00, KL from 0.0 "
        "to 3.0 nats; without: gold helpfulness from 0.40 to 0.30, proxy from 0.00 to 2.50, KL "
        "from 0.0 to 20.0 nats (means of at most 5 steps)."
    )
    curve = pd.DataFrame({"n": [1, 2, 4], "maximum": [0.0, 1.0, 2.0], "median": [0.0, 0.1, 0.0]})
    assert plots.best_of_n(curve).description == (
        "From N = 1 to 4: the maximum from 0.00 to 2.00, the median from 0.00 to 0.00."
    )
    recall = pd.DataFrame({"training": ["with"] * 2, "turn": [1, 6], "recall": [0.9, 0.45]})
    assert plots.recall_by_turn(recall).description == "With: turn 1 90.0%, turn 6 45.0%."


def test_training_health_leaves_out_what_was_not_logged() -> None:
    metrics = pd.DataFrame(
        {
            "run": "PPO",
            "step": [0, 1],
            "policy/clipfrac_avg": [0.02, 0.03],
            "val/explained_variance": [None, None],
        }
    )
    chart = plots.training_health(metrics)
    assert chart.description == "In the last step: clipped ratios (share of tokens) 3.0%."
    assert len(chart.to_dict()["vconcat"]) == 1


def test_score_against_gold_rank_correlation(samples: pd.DataFrame) -> None:
    # gold is a strictly rising function of the score, so the ranks agree
    chart = plots.score_against_gold(samples)
    assert "SFT 1.00, PPO 1.00" in chart.description
    assert rows_of(chart)["rows"].sum() <= 80  # the 80 responses to harmless prompts


def drawings(samples: pd.DataFrame, steps: pd.DataFrame) -> dict[str, tuple[Drawing, list[str]]]:
    """Every chart, with words that must be readable in it."""
    helpful = scores_of(*((s, 1.0 + i, 0.5) for i, s in enumerate(STRENGTHS)))
    safe = scores_of(*((s, 1.0 + i, 0.5) for i, s in enumerate(STRENGTHS)), domain="safety")
    metrics = pd.DataFrame({"run": "PPO", "step": [0, 1], "response/tokens": [12.0, 14.0]})
    curve = pd.DataFrame({"n": [1, 2, 4], "maximum": [0.0, 1.0, 2.0], "median": [0.0, 0.1, 0.0]})
    recall = pd.DataFrame(
        {"training": ["with", "without"] * 2, "turn": [1, 1, 6, 6], "recall": [0.9, 0.8, 0.6, 0.1]}
    )
    policies = pd.DataFrame(
        {
            "policy": ["sft", "ppo"],
            "measure": "gold helpfulness",
            "value": [0.45, 0.71],
            "low": [0.4, 0.65],
            "high": [0.5, 0.75],
        }
    )
    stages = pd.DataFrame(
        {
            "stage": ["reward", "ghost_attention"],
            "seconds": [70.4, 12.0],
            "tokens_per_second": [9e3, None],
        }
    )
    return {
        "differences": (
            plots.score_differences(helpful, "helpfulness"),
            ["negligibly better, share", "score of the chosen − score of the rejected response"],
        ),
        "distributions": (plots.score_distributions(safe, "safety"), ["rejected", "safety score"]),
        "labels": (plots.safety_scores_by_label(safe, 0.15), ["chosen safe only, share"]),
        "violations": (plots.safety_scores_by_violation(samples, 0.15), ["no violation, share"]),
        "policy scores": (plots.scores_by_policy(samples, "helpfulness"), ["SFT, share"]),
        "accuracy": (
            plots.accuracy_by_strength(accuracy_of("safety model", "bag of words"), "safety"),
            ["significantly", "bag of words", "comparisons ranked as people did"],
        ),
        "steps": (
            plots.optimisation_curves(steps, "Look"),
            ["without", "PPO step", "KL to the model PPO started from, nats per response"],
        ),
        "health": (plots.training_health(metrics), ["tokens per response"]),
        "best of N": (plots.best_of_n(curve), ["maximum", "samples per prompt, N (log scale)"]),
        "recall": (plots.recall_by_turn(recall), ["without", "turn of the dialogue"]),
        "policies": (plots.policies_compared(policies), ["SFT", "0.71", "gold helpfulness"]),
        "gold": (plots.score_against_gold(samples), ["helpfulness score (proxy), mean of a bin"]),
        "stages": (plots.seconds_by_stage(stages), ["Ghost Attention", "70 s", "seconds"]),
    }


def test_every_chart_draws_its_words_in_a_narrow_page(
    samples: pd.DataFrame, steps: pd.DataFrame
) -> None:
    for name, (chart, words) in drawings(samples, steps).items():
        spec = chart.to_dict()
        svg = vl_convert.vegalite_to_svg(spec)
        missing = [word for word in words if f">{word}<" not in svg]
        assert not missing, f"{name} does not show {missing}"
        assert "NaN" not in svg and "undefined" not in svg, name
        assert float(svg.split('width="')[1].split('"')[0]) < 440, f"{name} is too wide"
        assert max(map(len, spec["title"]["text"])) <= 54, f"{name}: title line too long"
        assert spec["description"].endswith("."), name
        assert len(json.dumps(spec)) < 60_000, f"{name} is too heavy"


def _linear(color: str) -> np.ndarray:
    """The linear light of an sRGB color (IEC 61966-2-1)."""
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
# Viénot, Brettel and Mollon (1999), on linear light
_PROTANOPIA = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
_DEUTERANOPIA = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])


def _lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB under D65."""
    xyz = _XYZ @ linear / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("color", [*PALETTE, GRAY])
def test_colors_stand_out_on_light_and_dark_pages(color: str) -> None:
    # WCAG 2.2, 1.4.11: (lighter + 0.05) / (darker + 0.05) ≥ 3 for graphics
    luminance, dark = (_XYZ @ _linear(color))[1], (_XYZ @ _linear("#15181b"))[1]
    assert 1.05 / (luminance + 0.05) >= 3
    assert (luminance + 0.05) / (dark + 0.05) >= 3


@pytest.mark.parametrize("vision", [np.eye(3), _PROTANOPIA, _DEUTERANOPIA])
def test_colors_are_told_apart_with_any_color_vision(vision: np.ndarray) -> None:
    # ΔE of 2.3 is just noticeable; 15 is plain even for thin lines
    seen = [_lab(vision @ _linear(color)) for color in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= 15
