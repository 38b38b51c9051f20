"""Prefill and decode with a key-value cache; a finished sequence makes room for the next one."""

from collections.abc import Sequence

import numpy as np
import torch

from data.errors import DataError
from rlhf.generation.batching import Sample, Slots
from rlhf.generation.sampling import SamplingConfig, sample, uniform_stream
from rlhf.model.heads import LanguageModel
from rlhf.model.kv_cache import KVCache
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
        DataError: a prompt that is empty, too long for the model, or has ids out of range.
    """
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


class _Decoder:
    """The tensors behind the slots."""

    def __init__(
        self, model: LanguageModel, queue: Slots, config: SamplingConfig, eos_id: int, seed: int
    ) -> None:
        self.model, self.queue, self.config = model, queue, config
        self.eos_id, self.seed = eos_id, seed
        weight = model.lm_head.weight
        self.device = weight.device
        num_slots = len(queue.running)
        self.cache = KVCache(
            model.config, num_slots, queue.longest, device=self.device, dtype=weight.dtype
        )
        self.tokens = torch.zeros(num_slots, dtype=torch.long, device=self.device)
        self.positions = torch.zeros(num_slots, dtype=torch.long, device=self.device)
        self.uniforms = np.zeros((num_slots, config.max_new_tokens), dtype=np.float32)

    def prefill(self, admitted: dict[int, Sample]) -> None:
        """Reads the prompts of newly admitted samples and draws their first tokens."""
        if not admitted:
            return
        unique: dict[tuple[int, ...], int] = {}
        rows = [unique.setdefault(tuple(s.prompt_ids), len(unique)) for s in admitted.values()]
        lengths = torch.tensor([len(ids) for ids in unique], device=self.device)
        tokens = torch.zeros(len(unique), int(lengths.max()), dtype=torch.long)
        for row, ids in enumerate(unique):
            tokens[row, : len(ids)] = torch.tensor(ids)
        slots = torch.tensor(list(admitted), device=self.device)
        rows_ = torch.tensor(rows, device=self.device)
        hidden = self.model.model.prefill(tokens.to(self.device), self.cache, slots, rows_)
        last = hidden[torch.arange(len(unique)), lengths - 1][rows_]
        for slot, sample_ in admitted.items():
            self.uniforms[slot] = uniform_stream(
                self.seed, sample_.stream, self.config.max_new_tokens
            )
        self.positions[slots] = lengths[rows_]
        self._draw(last, list(admitted))

    def step(self) -> None:
        """Decodes one token in every slot."""
        kept = self.queue.compact()
        if kept is not None:
            self._keep(kept)
        active = self.queue.active
        if not active:
            return
        length = int(self.positions[active].max()) + 1
        hidden = self.model.model.decode(self.tokens, self.positions, self.cache, length)
        self.positions[active] += 1
        self._draw(hidden if len(active) == len(hidden) else hidden[active], active)

    def _draw(self, hidden: torch.Tensor, slots: list[int]) -> None:
        running = [self.queue.running[slot] for slot in slots]
        uniforms = [
            self.uniforms[slot, len(s.response_ids)]
            for slot, s in zip(slots, running, strict=True)
            if s is not None
        ]
        drawn = sample(
            self.model.lm_head(hidden), torch.tensor(uniforms, device=self.device), self.config
        )
        self.tokens[slots] = drawn.tokens
        tokens, logprobs = drawn.tokens.tolist(), drawn.logprobs.tolist()
        for sample_, token, logprob in zip(running, tokens, logprobs, strict=True):
            assert sample_ is not None
            sample_.append(token, logprob, self.eos_id)
        self.queue.release_finished()

    def _keep(self, slots: list[int]) -> None:
        self.cache.keep(slots)
        self.tokens, self.positions = self.tokens[slots], self.positions[slots]
        self.uniforms = self.uniforms[slots]


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
    return Rollout(
        prompt_id=sample_.prompt_id,
        prompt_ids=sample_.prompt_ids,
        response_ids=sample_.response_ids,
        response_logprobs=sample_.logprobs,
        finish_reason=sample_.finish_reason,
        policy_version=policy_version,
    )
