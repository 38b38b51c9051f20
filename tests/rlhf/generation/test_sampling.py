"""One token from logits: by hand, by truncation, by frequency."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.testing import assert_close

from data.errors import ConfigError
from rlhf.generation.sampling import SamplingConfig, sample, uniform_stream
from rlhf.model import kernels

# Probabilities ½, ⅛, ¼, ⅛; sorted: 0, 2, then 1 and 3.
PROBABILITIES = [0.5, 0.125, 0.25, 0.125]
LOGITS = torch.tensor([[math.log(p) for p in PROBABILITIES]])


@pytest.fixture(autouse=True, params=["fused", "by torch"])
def drawn_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test twice: in C where it can be had, and as devices and types without it do."""
    if request.param == "by torch":
        monkeypatch.setattr(kernels, "usable", lambda *_: False)
    elif not kernels.usable(LOGITS):
        pytest.skip("no C compiler: torch's own operations are used")


def draw(uniform: float, **config: Any) -> tuple[int, float]:
    """The token and its probability for one uniform number."""
    found = sample(LOGITS, torch.tensor([uniform]), SamplingConfig(**config))
    return int(found.tokens[0]), float(found.logprobs[0].exp())


@pytest.mark.parametrize(
    ("uniform", "token"),
    [
        # cumulative ½, ⅝, ⅞, 1
        *((0.0, 0), (0.499, 0), (0.501, 1), (0.624, 1)),
        *((0.626, 2), (0.874, 2), (0.876, 3), (0.9999999, 3)),
    ],
)
def test_the_cumulative_distribution_by_hand(uniform: float, token: int) -> None:
    assert draw(uniform) == (token, pytest.approx(PROBABILITIES[token]))


def test_temperature_by_hand() -> None:
    # T = ½ squares: ¼, 1/64, 1/16, 1/64 of 22/64, so 16/22, 1/22, 4/22, 1/22
    assert draw(0.0, temperature=0.5) == (0, pytest.approx(16 / 22))
    assert draw(0.75, temperature=0.5) == (1, pytest.approx(1 / 22))
    assert draw(0.80, temperature=0.5) == (2, pytest.approx(4 / 22))


def test_greedy_takes_the_likeliest_and_reports_its_own_probability() -> None:
    for uniform in (0.0, 0.7, 0.99):
        assert draw(uniform, temperature=0.0) == (0, pytest.approx(0.5))


def test_top_k_by_hand() -> None:
    # of ½, ¼ remain ⅔, ⅓
    assert draw(0.66, top_k=2) == (0, pytest.approx(2 / 3))
    assert draw(0.67, top_k=2) == (2, pytest.approx(1 / 3))
    assert draw(0.99, top_k=1) == (0, pytest.approx(1.0))
    assert draw(0.99, top_k=100) == (3, pytest.approx(1 / 8))  # more than there are


def test_top_p_by_hand() -> None:
    # sorted cumulative: ½, ¾, ⅞, 1: the smallest set with 0.7 is {0, 2}, with 0.4 it is {0}
    assert draw(0.67, top_p=0.7) == (2, pytest.approx(1 / 3))
    assert draw(0.99, top_p=0.4) == (0, pytest.approx(1.0))
    assert draw(0.99, top_p=1e-6) == (0, pytest.approx(1.0))
    # {0, 2} and one of the two eighths
    found = {draw(u, top_p=0.8)[0] for u in np.linspace(0, 0.999, 50)}
    assert len(found) == 3
    assert {0, 2} < found


def test_truncation_after_temperature() -> None:
    # T = 2: square roots .7071, .3536, .5, .3536 of 1.9142: .3694 is 0's share; T = 1 gives ½
    tokens = {draw(u, temperature=2.0, top_p=0.45)[0] for u in np.linspace(0, 0.999, 50)}
    assert tokens == {0, 2}


@pytest.mark.parametrize("config", [{"top_k": 5}, {"top_p": 0.6}, {"top_k": 7, "top_p": 0.5}])
def test_nothing_outside_the_truncated_set_is_drawn(config: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 40, generator=generator).mul(2)
    uniforms = torch.rand(4000, generator=generator)
    found = sample(logits.expand(4000, 40), uniforms, SamplingConfig(**config))
    drawn = set(found.tokens.tolist())
    probabilities = logits[0].softmax(0)
    order = probabilities.argsort(descending=True).tolist()
    allowed = order[: config.get("top_k", 40)]
    if "top_p" in config:
        kept = probabilities[allowed] / probabilities[allowed].sum()
        allowed = allowed[: int((kept.cumsum(0) < config["top_p"]).sum()) + 1]
    assert drawn == set(allowed)
    # the reported probabilities are those of the truncated distribution
    kept = probabilities[allowed] / probabilities[allowed].sum()
    by_token = dict(zip(allowed, kept.tolist(), strict=True))
    reported = [by_token[token] for token in found.tokens.tolist()]
    assert_close(found.logprobs.exp(), torch.tensor(reported), atol=1e-6, rtol=1e-5)


def test_frequencies() -> None:
    """Chi-square over 20,000 draws with each row's own stream, as the generator draws."""
    uniforms = [uniform_stream(0, stream, 4)[2] for stream in range(20_000)]
    found = sample(LOGITS.repeat(20_000, 1), torch.tensor(np.array(uniforms)), SamplingConfig())
    counts = np.bincount(found.tokens.numpy(), minlength=4)
    assert chisquare(counts, np.array(PROBABILITIES) * 20_000).pvalue > 0.001


def test_frequencies_in_a_vocabulary_of_several_chunks() -> None:
    """150 tokens, the last chunk of 64 not full; likely ones, rare ones and impossible ones."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(150, generator=generator).mul(2)
    logits[60:70] = logits[140:] = -torch.inf
    draws = 200_000
    uniforms = torch.rand(draws, generator=generator)
    found = sample(logits.repeat(draws, 1), uniforms, SamplingConfig())
    counts = np.bincount(found.tokens.numpy(), minlength=150)
    possible = logits.isfinite().numpy()
    assert not counts[~possible].any()
    expected = logits.double().softmax(0).numpy()[possible] * draws
    assert chisquare(counts[possible], expected).pvalue > 0.001
    # the same tokens as by cumulative sums over the whole vocabulary
    whole = logits.double().softmax(0).cumsum(0)
    plain = torch.searchsorted(whole, uniforms.double(), right=True)
    assert (found.tokens == plain).float().mean() > 0.9999  # ties by rounding


def test_rows_are_independent_of_each_other() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 30, generator=generator)
    uniforms = torch.rand(6, generator=generator)
    config = SamplingConfig(temperature=0.8, top_p=0.9)
    together = sample(logits, uniforms, config)
    for row in range(6):
        alone = sample(logits[row : row + 1], uniforms[row : row + 1], config)
        assert alone.tokens == together.tokens[row]
        assert_close(alone.logprobs[0], together.logprobs[row])


def test_large_and_impossible_logits() -> None:
    logits = torch.tensor([[1e4, -1e4, -torch.inf, 1e4]])
    found = {int(sample(logits, torch.tensor([u]), SamplingConfig()).tokens) for u in (0.2, 0.8)}
    assert found == {0, 3}
    # the last entry is impossible, and the uniform number as large as it can be
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    largest = torch.tensor([np.nextafter(np.float32(1), np.float32(0))])
    assert int(sample(logits, largest, SamplingConfig()).tokens) == 1


def test_half_precision_logits_are_sampled_in_full() -> None:
    logits = LOGITS.to(torch.bfloat16)
    found = sample(logits, torch.tensor([0.1]), SamplingConfig())
    assert found.logprobs.dtype == torch.float32


def test_streams_are_fixed_by_seed_and_number() -> None:
    first = uniform_stream(3, 7, 100)
    assert np.array_equal(first, uniform_stream(3, 7, 100))
    assert np.array_equal(first[:40], uniform_stream(3, 7, 40))  # the length changes nothing
    others = [uniform_stream(s, n, 100) for s, n in ((3, 8), (4, 7), (7, 3))]
    assert all((other != first).any() for other in others)
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() < 1


def test_streams_are_uniform_across_and_along() -> None:
    streams = np.stack([uniform_stream(0, number, 64) for number in range(500)])
    for numbers in (streams[:, 0], streams[0:8].ravel()):
        counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
        assert chisquare(counts).pvalue > 0.001
    # neighbouring streams do not move together: |r| of 64 pairs scatters by 1/8
    correlations = [np.corrcoef(streams[n], streams[n + 1])[0, 1] for n in range(100)]
    assert abs(np.mean(correlations)) < 4 * 0.125 / math.sqrt(100)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"temperature": -0.1}, r"temperature is -0\.1; it must be 0 \(greedy\) or more"),
        ({"top_k": -1}, r"top_k is -1; it must be 0 \(off\) or more"),
        ({"top_p": 0.0}, r"top_p is 0\.0; it must be in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p is 1\.1; it must be in \(0, 1\]"),
        ({"temperature": math.nan}, "temperature is nan; it must be 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be 1 or more"),
        ({"min_new_tokens": -1}, r"min_new_tokens is -1; it must be 0 to max_new_tokens \(64\)"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, r"9; it must be 0 to max_new_tokens \(8\)"),
    ],
)
def test_settings_that_cannot_be(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        SamplingConfig(**config)
