"""Collecting comparisons: two responses from two model variants, judged by annotators.

As in Llama 2, section 3.2.1: the two responses come from different variants and temperatures, the
annotator chooses one and says how much better it is, and safety work adds the label of the pair.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from data.chat_format import ChatFormat
from data.errors import ConfigError, require_not_negative
from data.schemas import Comparison, Domain, Message, Prompt
from data.simulation.annotators import Annotator, Judgement, assign, compare
from data.simulation.dialogues import gold_facts
from data.simulation.gold import judge, words_of
from policy.evaluation.gold import LOOKALIKES
from policy.prompts import PromptSet
from rlhf.types import Rollout

BEGINNING = datetime(2023, 1, 2, 9, tzinfo=UTC)
"""Simulated annotators work from here on, so that the same seed writes the same bytes."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One of the two models whose responses are compared."""

    name: str
    temperature: float


@dataclass(frozen=True, kw_only=True)
class CollectionConfig:
    """How a batch of comparisons is judged."""

    overlap: float = 0.15
    """Share of the pairs that three annotators judge, so that agreement can be measured."""
    lookalikes_as_safety: float = 0.3
    """Share of harmless look-alikes that are judged under the safety guidelines, so that the safety
    model sees what is not unsafe."""
    batch: str = "1"
    """Name of the batch of annotations."""
    seed: int = 0
    """Draws who judges what, and how."""

    def __post_init__(self) -> None:
        require_not_negative(self, "seed")
        for name in ("overlap", "lookalikes_as_safety"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        if not re.fullmatch(r"[\w.-]{1,90}", self.batch, re.ASCII):
            raise ConfigError(
                f"batch is {self.batch!r}; it names a file, so use up to 90 letters, digits, "
                "'.', '_' and '-'"
            )


@dataclass(frozen=True)
class _Pair:
    """Two responses to a prompt, and the guidelines under which they are compared."""

    row: Prompt
    texts: tuple[str, str]
    domain: Domain


def simulate_comparisons(
    prompts: PromptSet,
    rollouts: tuple[Sequence[Rollout], Sequence[Rollout]],
    variants: tuple[Variant, Variant],
    annotators: Sequence[Annotator],
    chat: ChatFormat,
    config: CollectionConfig,
) -> Iterator[Comparison]:
    """Comparisons by simulated annotators; pairs of equal texts are skipped, as nobody is asked.

    Args:
        rollouts: one response per prompt from each variant.
    """
    rng = random.Random(f"collect-{config.seed}-{config.batch}")
    clock = BEGINNING
    for row, texts in _distinct(prompts, rollouts, chat):
        pair = _Pair(row, texts, _guidelines(row, config, rng))
        order = rng.sample((0, 1), 2)  # which variant is shown first
        for annotator in assign(annotators, config.overlap, rng):
            shown = (texts[order[0]], texts[order[1]])
            judgement = _judge(row, shown, annotator, pair.domain, rng)
            clock += timedelta(seconds=judgement.seconds)
            chosen = order[0] if judgement.prefers_first else order[1]
            yield _comparison(pair, chosen, judgement, variants, chat, annotator, clock, config)


def pairs_to_compare(
    prompts: PromptSet,
    rollouts: tuple[Sequence[Rollout], Sequence[Rollout]],
    variants: tuple[Variant, Variant],
    chat: ChatFormat,
) -> Iterator[tuple[Domain, dict[str, Any]]]:
    """The same pairs for people, each as the annotation app reads it, and under which guidelines.

    Args:
        rollouts: one response per prompt from each variant.
    """
    for row, texts in _distinct(prompts, rollouts, chat):
        item: dict[str, Any] = {
            "name": row.prompt_id,
            "prompt": [vars(message) for message in row.prompt],
            "source": row.source,
        }
        for side, (variant, text) in enumerate(zip(variants, texts, strict=True), start=1):
            item[f"response_{side}"] = text
            item[f"model_{side}"] = variant.name
            item[f"temperature_{side}"] = variant.temperature
        yield row.domain, item


def _distinct(
    prompts: PromptSet,
    rollouts: tuple[Sequence[Rollout], Sequence[Rollout]],
    chat: ChatFormat,
) -> Iterator[tuple[Prompt, tuple[str, str]]]:
    """Each prompt with both texts; nobody is asked about equal or empty ones."""
    for row, first, second in zip(prompts.rows, *rollouts, strict=True):
        texts = (
            chat.decode_response(first.response_ids),
            chat.decode_response(second.response_ids),
        )
        if texts[0] != texts[1] and all(texts):
            yield row, texts


def _guidelines(row: Prompt, config: CollectionConfig, rng: random.Random) -> Domain:
    if row.kind in LOOKALIKES and rng.random() < config.lookalikes_as_safety:
        return "safety"
    return row.domain


def _judge(
    row: Prompt, shown: tuple[str, str], annotator: Annotator, domain: Domain, rng: random.Random
) -> Judgement:
    task, instruction = gold_facts(row)
    golds = judge(task, shown[0], instruction), judge(task, shown[1], instruction)
    num_words = len(words_of(shown[0])), len(words_of(shown[1]))
    return compare(annotator, golds, num_words, domain, rng)


def _comparison(
    pair: _Pair,
    chosen: int,
    judgement: Judgement,
    variants: tuple[Variant, Variant],
    chat: ChatFormat,
    annotator: Annotator,
    created_at: datetime,
    config: CollectionConfig,
) -> Comparison:
    row, texts, rejected = pair.row, pair.texts, 1 - chosen
    tokens = [len(chat.tokenizer.encode(text)) for text in texts]
    name = f"{config.batch}-{row.prompt_id}-{annotator.annotator_id}"
    return Comparison(
        comparison_id=hashlib.blake2b(name.encode(), digest_size=8).hexdigest(),
        prompt=row.prompt,
        chosen=(Message("assistant", texts[chosen]),),
        rejected=(Message("assistant", texts[rejected]),),
        strength=judgement.strength,
        safety_label=judgement.safety_label,
        domain=pair.domain,
        annotator_id=annotator.annotator_id,
        batch=config.batch,
        source=row.source,
        chosen_model=variants[chosen].name,
        rejected_model=variants[rejected].name,
        chosen_temperature=variants[chosen].temperature,
        rejected_temperature=variants[rejected].temperature,
        seconds=round(judgement.seconds, 1),
        created_at=created_at,
        turns=sum(message.role == "user" for message in row.prompt),
        prompt_tokens=sum(len(chat.tokenizer.encode(m.content)) for m in row.prompt),
        chosen_tokens=tokens[chosen],
        rejected_tokens=tokens[rejected],
        tokenizer_hash=chat.tokenizer.hash,
    )
