"""Prefill and decode with a key-value cache; a finished sequence makes room for the next one."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.errors import ConfigError, DataError
from rlhf.generation.batching import Move, Sample, Slots
from rlhf.generation.sampling import SamplingConfig, sample, uniform_stream
from rlhf.model.cached import CachedModel
from rlhf.model.heads import LanguageModel
from rlhf.model.kv_cache import BLOCK
from rlhf.types import PromptIds, Rollout

DEFAULT_SLOTS = 128
"""Sequences that decode together; more fill the cores better and take more memory."""


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompts: Sequence[PromptIds],
    config: SamplingConfig,
    *,
    eos_id: int,
    seed: int,
    streams: Sequence[int] | None = None,
    slots: int = DEFAULT_SLOTS,
    policy_version: int = 0,
) -> list[Rollout]:
    """Samples one response per entry of `prompts`; repeat an entry for several.

    The same seed gives the same responses whatever the number of slots and the order of work,
    because every response has its own random stream. (Batches of other shapes round differently in
    the last bit; a uniform number would have to fall into that gap to make a difference.)

    Args:
        model: in evaluation mode; the weights are used where they are.
        prompts: those that are equal should stand side by side, they are prefilled once.
        config: temperature, truncation, length.
        eos_id: ends a response, and belongs to it.
        seed: with a stream's number, fixes the randomness of a response.
        streams: numbers of the random streams; 0, 1, 2, … by default. Workers that share a list of
            prompts pass each prompt's place in the whole list.
        slots: sequences in the cache at a time.
        policy_version: copied into the rollouts.

    Returns:
        Rollouts in the order of `prompts`.

    Raises:
        ConfigError: no slots.
        DataError: a prompt that is empty, too long for the model, or has ids out of range; logits
            that are no finite numbers.
    """
    if slots < 1:
        raise ConfigError(f"slots is {slots}; it must be 1 or more for a response to be sampled")
    streams = range(len(prompts)) if streams is None else streams
    samples = [
        Sample(stream, prompt.prompt_id, prompt.ids, _room(model, prompt, config))
        for stream, prompt in zip(streams, prompts, strict=True)
    ]
    # Long prompts first: neighbours in a prefill are then of similar length.
    queue = Slots(sorted(samples, key=lambda s: len(s.prompt_ids), reverse=True), slots)
    decoder = _Decoder(model, queue, config, eos_id, seed)
    while queue.busy:
        decoder.prefill(queue.admit(at_least=max(1, len(queue.running) // 8)))
        decoder.step()
    return [_rollout(sample, policy_version) for sample in samples]


class _State(NamedTuple):
    """What the slots hold; [S] or [S, longest response] each, S slots."""

    tokens: Tensor
    """Sampled last."""
    offsets: Tensor
    """Position of the prompt's last token; 0 in an empty slot."""
    counts: Tensor
    """Tokens sampled so far; 0 in an empty slot."""
    limits: Tensor
    """Tokens that a response may have; 0 in an empty slot."""
    uniforms: Tensor
    """The random stream."""
    responses: Tensor
    logprobs: Tensor


class _Prompt(NamedTuple):
    """A prompt that was read, while others of its samples still wait for a slot."""

    ids: list[int]
    logits: Tensor
    """[vocabulary] of the first new token."""
    keys: Tensor
    """Of the cache's blocks, without slots."""
    values: Tensor


class _Decoder:
    """The tensors behind the slots. Python sees a slot when its sample begins and when it ends."""

    def __init__(
        self, model: LanguageModel, queue: Slots, config: SamplingConfig, eos_id: int, seed: int
    ) -> None:
        self.queue, self.config, self.eos_id, self.seed = queue, config, eos_id, seed
        num_slots, length = len(queue.running), queue.longest_response
        self.model = CachedModel(model, num_slots, queue.longest)
        self.device = self.model.device
        self.rows = torch.arange(num_slots, device=self.device)
        tokens, offsets, counts, limits = torch.zeros(
            4, num_slots, dtype=torch.long, device=self.device
        )
        uniforms, logprobs = torch.zeros(2, num_slots, length, device=self.device)
        responses = torch.zeros(num_slots, length, dtype=torch.long, device=self.device)
        self.state = _State(tokens, offsets, counts, limits, uniforms, responses, logprobs)
        self.split: _Prompt | None = None
        """The prompt of the next in line, if some of its samples were admitted before."""

    def prefill(self, admitted: dict[int, Sample]) -> None:
        """Reads the prompts of newly admitted samples and draws their first tokens."""
        if not admitted:
            return
        slots, samples = list(admitted), list(admitted.values())
        logits = self._first_logits(slots, samples)
        places, state = self._tensor(slots), self.state
        streams = [uniform_stream(self.seed, s.stream, state.uniforms.shape[1]) for s in samples]
        state.uniforms[places] = torch.from_numpy(np.stack(streams)).to(self.device)
        state.offsets[places] = self._tensor([len(s.prompt_ids) - 1 for s in samples])
        state.limits[places] = self._tensor([s.max_new_tokens for s in samples])
        self._draw(logits, places)

    def _first_logits(self, slots: list[int], samples: list[Sample]) -> Tensor:
        """[m, vocabulary]; a prompt whose samples are admitted in several parts is read once."""
        known, parts = 0, []
        while self.split and known < len(samples) and samples[known].prompt_ids == self.split.ids:
            known += 1
        if self.split and known:
            parts.append(self._copied(self.split, slots[:known]))
        if known < len(samples):
            unique: dict[tuple[int, ...], int] = {}
            rows = [unique.setdefault(tuple(s.prompt_ids), len(unique)) for s in samples[known:]]
            parts.append(self.model.prefill(list(unique), slots[known:], rows))
        logits = torch.cat(parts)
        self._keep(samples[-1].prompt_ids, slots[-1], logits[-1])
        return logits

    def _keep(self, prompt_ids: list[int], slot: int, logits: Tensor) -> None:
        """Of the prompt admitted last, what the next in line needs if it has the same one."""
        if self.queue.next_prompt != prompt_ids:
            self.split = None
        elif self.split is None or self.split.ids != prompt_ids:
            # A copy: the slot may be another's by then, and what is drawn from changes logits.
            cache, blocks = self.model.cache, -(-len(prompt_ids) // BLOCK)
            keys = cache.keys[:, slot, :, :blocks].clone()
            values = cache.values[:, slot, :, : len(prompt_ids)].clone()
            self.split = _Prompt(prompt_ids, logits.clone(), keys, values)

    def _copied(self, prompt: _Prompt, slots: list[int]) -> Tensor:
        """As `CachedModel.prefill` of one prompt that was read before."""
        cache = self.model.cache
        cache.keys[:, slots, :, : prompt.keys.shape[2]] = prompt.keys[:, None]
        cache.values[:, slots, :, : prompt.values.shape[2]] = prompt.values[:, None]
        return prompt.logits.expand(len(slots), -1)

    def step(self) -> None:
        """Decodes one token in every slot."""
        move = self.queue.compact()
        if move is not None:
            self._move(move)
        if not any(self.queue.running):
            return
        state = self.state
        positions = state.offsets + state.counts
        length = int(positions.max()) + 1
        self._draw(self.model.decode(state.tokens, positions, length), self.rows)

    def _draw(self, logits: Tensor, slots: Tensor) -> None:
        """The next token of some slots; what an empty one draws is never read."""
        state = self.state
        counts, limits = state.counts[slots], state.limits[slots]
        if self.config.min_new_tokens:
            logits[:, self.eos_id].masked_fill_(counts < self.config.min_new_tokens, -torch.inf)
        drawn = sample(logits, state.uniforms[slots, counts], self.config)
        state.tokens[slots] = drawn.tokens
        state.responses[slots, counts] = drawn.tokens
        state.logprobs[slots, counts] = drawn.logprobs
        running = limits > 0
        counts += running
        state.counts[slots] = counts
        ended = running & ((drawn.tokens == self.eos_id) | (counts == limits))
        self._finish(slots[ended].tolist())

    def _finish(self, slots: list[int]) -> None:
        if not slots:
            return
        state = self.state
        for slot, count in zip(slots, state.counts[slots].tolist(), strict=True):
            sample_ = self.queue.running[slot]
            assert sample_ is not None
            response, logprobs = state.responses[slot, :count], state.logprobs[slot, :count]
            sample_.finish(response.tolist(), logprobs.tolist(), self.eos_id)
        for numbers in (state.offsets, state.counts, state.limits):
            numbers[slots] = 0
        self.queue.release(slots)

    def _move(self, move: Move) -> None:
        self.model.cache.move(*move)
        for values in self.state:
            values[move.targets] = values[move.sources]
        self.state = _State(*(values[: move.slots] for values in self.state))
        self.rows = self.rows[: move.slots]

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self.device)


def _room(model: LanguageModel, prompt: PromptIds, config: SamplingConfig) -> int:
    """How many new tokens fit behind a prompt."""
    context, length = model.config.context, len(prompt.ids)
    if not prompt.ids:
        raise DataError(f"prompt {prompt.prompt_id!r} is empty; a prompt has at least one token")
    if length >= context:
        raise DataError(
            f"prompt {prompt.prompt_id!r} has {length} tokens; the model's context is {context}, "
            "which must also hold the response: shorten or drop it"
        )
    largest, smallest = max(prompt.ids), min(prompt.ids)
    if smallest < 0 or largest >= model.config.vocab_size:
        raise DataError(
            f"prompt {prompt.prompt_id!r} holds id {smallest if smallest < 0 else largest}; the "
            f"model knows 0 to {model.config.vocab_size - 1}: was it encoded by another tokenizer?"
        )
    return min(config.max_new_tokens, context - length)


def _rollout(sample_: Sample, policy_version: int) -> Rollout:
    assert sample_.finish_reason is not None
    if not all(map(isfinite, sample_.logprobs)):
        raise DataError(
            f"the model's logits after the prompt {sample_.prompt_id!r} are no finite numbers; its "
            "training has diverged or its weights are damaged: take an earlier checkpoint, or "
            "train with a lower learning rate"
        )
    return Rollout(
        prompt_id=sample_.prompt_id,
        prompt_ids=sample_.prompt_ids,
        response_ids=sample_.response_ids,
        response_logprobs=sample_.logprobs,
        finish_reason=sample_.finish_reason,
        policy_version=policy_version,
    )
