"""Is a run of PPO healthy? Figures of each batch, and alarms in plain words with what to do.

Figures go into the run's metrics. Alarms are a function of the metrics alone, of the first
iteration and the latest ones, so a resumed run raises the same ones.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policy.ppo_math import last_token
from rlhf.types import Experience

ALARMS_FILE = "alarms.json"
NGRAM = 3
LATEST = 3
"""Iterations that an alarm looks at together, so that one odd batch raises none."""
CRITIC_ITERATIONS = 20
"""Until then a critic may know nothing."""
ROUNDING = 0.01
"""Nats per response below which a KL says nothing about a token."""

Line = Mapping[str, float | None]
"""Metrics of one iteration; None is a number that was not finite."""


@dataclass(frozen=True)
class Alarm:
    """Something that went wrong."""

    name: str
    step: int
    finding: str
    """What is seen, with the figures."""
    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"iteration {self.step}: {self.finding}. What to do: {self.remedy}"


def health_figures(rows: Experience, scores: Tensor) -> dict[str, float]:
    """Figures of one batch.

    Args:
        rows: a batch with reference log-probabilities.
        scores: [B] raw combined scores.
    """
    lengths = rows.response_mask.sum(dim=1)
    figures = {
        "health/eos_share": float(rows.ended.float().mean()),
        "health/repeated_ngrams": repeated_ngrams(responses(rows), NGRAM),
        "health/score_length_correlation": correlation(scores, lengths.float()),
    }
    return figures | scores_by_length(scores, lengths) | favourite_token(rows)


def responses(rows: Experience) -> list[list[int]]:
    """The sampled ids of each row."""
    return [t[m].tolist() for t, m in zip(rows.tokens, rows.response_mask, strict=True)]


def repeated_ngrams(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Share of the n-grams that stood in the same sequence before; 0 where there are none."""
    repeated = total = 0
    for ids in sequences:
        counts = Counter(zip(*(ids[k:] for k in range(n)), strict=False))
        total += counts.total()
        repeated += counts.total() - len(counts)
    return repeated / total if total else 0.0


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's; 0 where one of them is constant.

    Args:
        x: [B].
        y: [B].
    """
    dx, dy = (v.double() - v.double().mean() for v in (x, y))
    scale = float((dx.square().sum() * dy.square().sum()).sqrt())
    return float((dx * dy).sum()) / scale if scale > 0 else 0.0


def scores_by_length(scores: Tensor, lengths: Tensor) -> dict[str, float]:
    """Mean scores of the shortest, middle and longest third of the responses.

    Args:
        scores: [B], at least one; of fewer than three, thirds that are empty are left out.
        lengths: [B] tokens.
    """
    thirds = scores[lengths.argsort(stable=True)].tensor_split(3)
    names = ("health/score_short", "health/score_middle", "health/score_long")
    return {
        name: float(third.mean()) for name, third in zip(names, thirds, strict=True) if len(third)
    }


def favourite_token(rows: Experience) -> dict[str, float]:
    """The token that the policy has learned to say: the one that most of the KL comes from.

    A reward that pays for a phrase makes one token account for much of what the policy learned; one
    that pays for answers makes it many. The KL of token v is the sum of log π − log π_0 over its
    places, in nats per response. EOS is left out (the length says more about it), and so is a
    policy that has not learned to say any token.
    """
    assert rows.ref_logprobs is not None
    mask = rows.response_mask.clone()
    ended = rows.ended.nonzero().squeeze(1)
    mask[ended, last_token(rows.response_mask)[ended]] = False
    if not mask.any():
        return {}
    gains = (rows.logprobs - rows.ref_logprobs)[mask].double()
    by_token = torch.bincount(rows.tokens[mask], weights=gains) / len(rows)
    favourite = int(by_token.argmax())
    if by_token[favourite] < ROUNDING:
        return {}
    said = ((rows.tokens == favourite) & mask).any(dim=1).float().mean()
    return {
        "health/favourite_token": favourite,
        "health/favourite_kl": float(by_token[favourite]),
        "health/favourite_said_share": float(said),
    }


def raised_alarms(lines: Sequence[Line], spell: Callable[[int], str]) -> list[Alarm]:
    """Every alarm of a run once, at the iteration that raised it first.

    Args:
        lines: metrics of all iterations so far.
        spell: the text of a token.
    """
    raised: dict[str, Alarm] = {}
    for end in range(1, len(lines) + 1):
        for alarm in find_alarms(lines[:end], spell):
            raised.setdefault(alarm.name, alarm)
    return list(raised.values())


def find_alarms(lines: Sequence[Line], spell: Callable[[int], str]) -> Iterator[Alarm]:
    """What is wrong after the last of these iterations, compared with the first."""
    first, last = lines[0], lines[-1]
    step = int(last["step"] or 0)
    broken = [name for name, value in last.items() if value is None]
    if broken:
        finding = f"{broken[0]} is not a finite number any more"
        remedy = "start again from the last good checkpoint with a tenth of optim.lr"
        yield Alarm("not_finite", step, finding, remedy)
        return
    now = latest(lines)
    for check in (_update_alarms, _ending_alarms, _reward_alarms, _critic_alarms):
        for name, finding, remedy in check(first, now):
            yield Alarm(name, step, finding, remedy)
    if said := _favourite(now, last, spell):
        yield Alarm("favourite_phrase", step, *said)


def latest(lines: Sequence[Line]) -> dict[str, float]:
    """Means of the latest iterations, and as `iterations` how many there were in all."""
    recent = lines[-LATEST:]
    means = {}
    for name in recent[-1]:
        values = [v for line in recent if (v := line.get(name)) is not None]
        means[name] = sum(values) / len(values)
    return means | {"iterations": float(len(lines))}


Said = tuple[str, str, str]
"""Name, finding, remedy."""


def _update_alarms(first: Line, now: Mapping[str, float]) -> Iterator[Said]:
    """Steps that are too large, a policy that went too far, a sampler that is another model."""
    clipped, moved = now["policy/clipfrac_avg"], now["policy/approxkl_avg"]
    if clipped > 0.3 or moved > 0.1:
        yield (
            "step_too_large",
            f"an update moves the policy too far: {clipped:.0%} of the ratios are clipped, and it "
            f"moves by {moved:.2g} nats per token (healthy: below 30 % and 0.1)",
            "start again with a tenth of optim.lr, or with fewer epochs",
        )
    kl = now["objective/kl"]
    if kl > 20:
        yield (
            "kl_high",
            f"the policy is {kl:.1f} nats per response away from the reference (usual: below 20), "
            "where reward models have seen nothing",
            "read the samples; raise kl_coef or stop earlier",
        )
    if kl < -1:
        yield (
            "kl_negative",
            f"the KL is {kl:.1f} nats per response; a KL is never negative, so sampler and "
            "reference do not measure alike",
            "check that both use the same temperature, precision and end of the response",
        )
    gap = now["health/probability_gap"]
    if gap > 0.01:
        yield (
            "sampler_differs",
            f"sampler and trainer differ by {gap:.3f} in the probability of a token "
            "(fine: below 0.005)",
            "check precision and temperature of the sampler, and that it has the newest weights",
        )
    entropy, before = now["policy/entropy_avg"], first["policy/entropy_avg"]
    if before and entropy < 0.2 * before:
        yield (
            "entropy_collapse",
            f"the policy hardly varies any more: entropy {entropy:.3f} nats per token, at first "
            f"{before:.3f}",
            "raise kl_coef or lower optim.lr; selection needs different samples",
        )


def _ending_alarms(first: Line, now: Mapping[str, float]) -> Iterator[Said]:
    """Responses that do not end, run away, shrink or repeat themselves."""
    ended, before = now["health/eos_share"], first["health/eos_share"] or 0.0
    if ended < 0.05 or ended < before - 0.3:
        yield (
            "no_end",
            f"only {ended:.0%} of the responses end by themselves (at first {before:.0%})",
            "if it was so from the start: check that the model has learned to end, that its "
            "tokenizer's EOS is the one it was trained with, and that max_new_tokens leaves room; "
            "if it came: the reward pays for length, raise missing_eos_penalty or kl_coef",
        )
    length, at_first = now["response/tokens"], first["response/tokens"] or 0.0
    link = now["health/score_length_correlation"]
    if length > 1.5 * at_first and link > 0.3:
        yield (
            "reward_pays_for_length",
            f"responses grew from {at_first:.0f} to {length:.0f} tokens, and the longer one "
            f"scores higher (correlation {link:.2f})",
            "read the longest samples; if they are not better, retrain the reward model with long "
            "bad answers among the comparisons, or raise kl_coef",
        )
    if length < 0.5 * at_first:
        yield (
            "responses_shrink",
            f"responses shrank from {at_first:.0f} to {length:.0f} tokens",
            "read the samples; if answers are missing, the reward prefers silence: raise kl_coef "
            "and look at health/score_short",
        )
    repeated, usual = now["health/repeated_ngrams"], first["health/repeated_ngrams"] or 0.0
    if repeated > usual + 0.2:
        yield (
            "repetition",
            f"{repeated:.0%} of the {NGRAM}-grams repeat what the response said before (at first "
            f"{usual:.0%})",
            "read the samples; raise kl_coef, or give the reward model such answers as rejected",
        )


def _reward_alarms(first: Line, now: Mapping[str, float]) -> Iterator[Said]:
    """One of the two goals paid for with the other."""
    names = ("objective/scores_helpfulness", "objective/scores_safety")
    if any(name not in now for name in names):  # the reward is a function
        return
    helpfulness, safety = (now[name] - (first[name] or 0.0) for name in names)
    if helpfulness < -1 and safety > 0:
        yield (
            "helpfulness_falls",
            f"the helpfulness score fell by {-helpfulness:.1f} while safety rose by {safety:.1f}",
            "count refusals in the samples; train on more harmless prompts, or stop earlier",
        )
    if safety < -1 and helpfulness > 0:
        yield (
            "safety_falls",
            f"the safety score fell by {-safety:.1f} while helpfulness rose by {helpfulness:.1f}",
            "train on more unsafe prompts, or stop earlier",
        )


def _critic_alarms(first: Line, now: Mapping[str, float]) -> Iterator[Said]:
    explained = now["val/explained_variance"]
    if now["iterations"] >= CRITIC_ITERATIONS and explained < 0:
        yield (
            "critic_useless",
            f"the critic is worse than a constant: it explains {explained:.0%} of the variance of "
            "the returns",
            "raise critic_optim.lr or value_clip_range, or start it with critic_init zero_head",
        )


def _favourite(
    now: Mapping[str, float], last: Line, spell: Callable[[int], str]
) -> tuple[str, str] | None:
    """A phrase that the reward seems to pay for."""
    token = last.get("health/favourite_token")
    if token is None or now["objective/kl"] < 1:
        return None
    share = now["health/favourite_kl"] / now["objective/kl"]
    said = now["health/favourite_said_share"]
    if share < 0.5 or said < 0.8:
        return None
    return (
        f"{said:.0%} of the responses say {spell(int(token))!r}, from which {share:.0%} of the KL "
        "comes: what the policy learned is to say it",
        "read the samples; if the phrase is not an answer, give the reward model comparisons "
        "where it is rejected",
    )
