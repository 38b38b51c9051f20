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
    """What the S slots hold; of R steps, as many as the longest response has tokens.

    All running slots draw in every step. Hence what is drawn goes to one row, that of the step, and
    a response lies in one column, in the rows of its steps; the row behind the last is the first.
    """

    tokens: Tensor
    """[S] sampled last."""
    positions: Tensor
    """[S] of these tokens in their sequences; 0 in an empty slot."""
    running: Tensor
    """[S] false in an empty slot."""
    begins: Tensor
    """[S] steps in which responses began."""
    ends: Tensor
    """[S] steps in which they are as long as they may be."""
    uniforms: Tensor
    """[R, S] each slot's random stream."""
    responses: Tensor
    """[R, S]"""
    logprobs: Tensor
    """[R, S]"""


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
        num_slots, rows = len(queue.running), queue.longest_response
        self.model = CachedModel(model, num_slots, queue.longest)
        self.device = self.model.device
        self.steps = 0
        self.slots = torch.arange(num_slots, device=self.device)
        tokens, positions, begins, ends = torch.zeros(
            4, num_slots, dtype=torch.long, device=self.device
        )
        running = torch.zeros(num_slots, dtype=torch.bool, device=self.device)
        uniforms, logprobs = torch.zeros(2, rows, num_slots, device=self.device)
        responses = torch.zeros(rows, num_slots, dtype=torch.long, device=self.device)
        self.state = _State(tokens, positions, running, begins, ends, uniforms, responses, logprobs)
        self.split: _Prompt | None = None
        """The prompt of the next in line, if some of its samples were admitted before."""

    def prefill(self, admitted: dict[int, Sample]) -> None:
        """Reads the prompts of newly admitted samples and draws their first tokens."""
        if not admitted:
            return
        slots, samples = list(admitted), list(admitted.values())
        logits = self._first_logits(slots, samples)
        places, state = self._tensor(slots), self.state
        rows = len(state.uniforms)
        streams = np.stack([uniform_stream(self.seed, s.stream, rows) for s in samples], axis=1)
        from_here = np.roll(streams, self.steps % rows, axis=0)
        state.uniforms[:, places] = torch.from_numpy(from_here).to(self.device)
        state.positions[places] = self._tensor([len(s.prompt_ids) for s in samples])
        state.running[places] = True
        state.begins[places] = self.steps
        state.ends[places] = self._tensor([self.steps + s.max_new_tokens - 1 for s in samples])
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
        length = int(state.positions.max()) + 1
        logits = self.model.decode(state.tokens, state.positions, length)
        self.steps += 1
        state.positions.add_(state.running)
        self._draw(logits, slice(None))

    def _draw(self, logits: Tensor, slots: Tensor | slice) -> None:
        """The next token of some slots; what an empty one draws is never read."""
        state, row = self.state, self.steps % len(self.state.uniforms)
        if self.config.min_new_tokens:
            young = state.begins[slots] > self.steps - self.config.min_new_tokens
            logits[:, self.eos_id].masked_fill_(young, -torch.inf)
        drawn = sample(logits, state.uniforms[row, slots], self.config)
        state.tokens[slots] = drawn.tokens
        state.responses[row, slots] = drawn.tokens
        state.logprobs[row, slots] = drawn.logprobs
        ended = (drawn.tokens == self.eos_id) | (state.ends[slots] == self.steps)
        ended &= state.running[slots]
        self._finish(self.slots[slots][ended].tolist())

    def _finish(self, slots: list[int]) -> None:
        if not slots:
            return
        state = self.state
        for slot, begin in zip(slots, state.begins[slots].tolist(), strict=True):
            sample_ = self.queue.running[slot]
            assert sample_ is not None
            rows = torch.arange(begin, self.steps + 1, device=self.device) % len(state.uniforms)
            response, logprobs = state.responses[rows, slot], state.logprobs[rows, slot]
            sample_.finish(response.tolist(), logprobs.tolist(), self.eos_id)
        state.positions[slots] = 0
        state.running[slots] = False
        self.queue.release(slots)

    def _move(self, move: Move) -> None:
        self.model.cache.move(*move)
        for values in self.state:
            values[..., move.targets] = values[..., move.sources]
        self.state = _State(*(values[..., : move.slots] for values in self.state))
        self.slots = self.slots[: move.slots]

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
