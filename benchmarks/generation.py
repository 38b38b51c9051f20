"""Sampling against transformers' `generate`: same weights, precision, batch size and threads.

    python benchmarks/generation.py --json runs/bench/generation.json

Rows, each at 64 sequences at a time:
  fixed          64 prompts of 32 tokens, 128 new tokens each
  ragged         prompts with the lengths of real HH dialogues; every response is as long as the
                 real reply. The peer's batch ends with its longest response.
  n=16           16 responses to each of such prompts, as long as 16 real replies
Random weights: how fast a token comes does not depend on which one it is. Both draw from the whole
vocabulary at temperature 1. The limit is the time of the matrix products alone plus that of reading
the cached keys and values once per token at the speed of memory, both measured in the same run.
"""

import argparse
import gzip
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import Row, interleaved, report, shared_data
from data.tokenizer import Tokenizer
from rlhf.generation import generator
from rlhf.generation.sampling import SamplingConfig
from rlhf.model.config import ModelConfig
from rlhf.model.heads import LanguageModel
from rlhf.model.init import init_language_model
from rlhf.model.linear import linear, packed
from rlhf.types import PromptIds

THREADS = 2
BATCH = 64
LONGEST_PROMPT, LONGEST_RESPONSE = 384, 256
EIGHT_MILLION = ModelConfig(
    vocab_size=4096, dim=256, num_layers=8, num_heads=8, num_kv_heads=4, ffn_dim=704, context=640
)
STORIES = ModelConfig(
    vocab_size=512, dim=64, num_layers=5, num_heads=8, num_kv_heads=4, ffn_dim=172, context=640,
    tie_embeddings=True,
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Prompts, and how many tokens each response gets."""

    prompts: list[PromptIds]
    """Equal ones side by side."""
    responses: list[int]
    samples_per_prompt: int = 1

    @property
    def tokens(self) -> int:
        """New tokens that are asked for."""
        return sum(self.responses)


def fixed_work(_: list[tuple[int, int]], vocab_size: int) -> Work:
    return Work([_prompt(n, 32, vocab_size) for n in range(BATCH)], [128] * BATCH)


def ragged_work(lengths: list[tuple[int, int]], vocab_size: int) -> Work:
    chosen = lengths[: 3 * BATCH]
    prompts = [_prompt(n, prompt, vocab_size) for n, (prompt, _) in enumerate(chosen)]
    return Work(prompts, [response for _, response in chosen])


def repeated_work(lengths: list[tuple[int, int]], vocab_size: int) -> Work:
    num_prompts, samples = 3 * BATCH // 16, 16
    prompts = [_prompt(n, lengths[n][0], vocab_size) for n in range(num_prompts)]
    responses = [response for _, response in lengths[: num_prompts * samples]]
    return Work([prompt for prompt in prompts for _ in range(samples)], responses, samples)


def _prompt(number: int, length: int, vocab_size: int) -> PromptIds:
    chosen = random.Random(number)
    return PromptIds(str(number), [chosen.randrange(3, vocab_size) for _ in range(length)])


def real_lengths(shared: Path) -> list[tuple[int, int]]:
    """Tokens of dialogue and reply in HH's test splits, shuffled, those that fit."""
    tokenizer = Tokenizer.load(shared / "llama-tokenizer")
    found = []
    for name in ("harmless-base", "helpful-base"):
        path = shared / "hh-rlhf" / f"{name}.test.jsonl.gz"
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            dialogue, _, reply = json.loads(line)["chosen"].rpartition("\n\nAssistant:")
            found.append((len(tokenizer.encode(dialogue)), len(tokenizer.encode(reply)) + 1))
    fit = [
        (prompt, response)
        for prompt, response in found
        if prompt <= LONGEST_PROMPT and response <= LONGEST_RESPONSE
    ]
    random.Random(0).shuffle(fit)
    return fit


def run_ours(model: LanguageModel, work: Work) -> None:
    longest = max(work.responses)
    config = SamplingConfig(max_new_tokens=longest, min_new_tokens=longest)  # no EOS by chance
    rooms = iter(work.responses)  # a response ends where the real one did
    with patch.object(generator, "_room", lambda *_: next(rooms)):
        rollouts = generator.generate(model, work.prompts, config, eos_id=2, seed=0, slots=BATCH)
    assert sum(len(rollout.response_ids) for rollout in rollouts) == work.tokens


@torch.inference_mode()
def run_peer(model: LlamaForCausalLM, work: Work) -> None:
    for start in range(0, len(work.prompts), BATCH):
        chosen = work.prompts[start : start + BATCH : work.samples_per_prompt]
        longest = max(len(prompt.ids) for prompt in chosen)
        padding = [longest - len(prompt.ids) for prompt in chosen]
        model.generate(  # type: ignore[misc]  # their own mixin
            torch.tensor([[0] * n + p.ids for n, p in zip(padding, chosen, strict=True)]),
            attention_mask=torch.tensor([[0] * n + [1] * (longest - n) for n in padding]),
            max_new_tokens=max(work.responses[start : start + BATCH]),
            num_return_sequences=work.samples_per_prompt,
            do_sample=True,
            top_k=0,
        )


def limit(model: LanguageModel, work: Work) -> float:
    """Seconds that matrix products and reading the cache take at least."""
    config = model.config
    weights = [matrix for block in model.model.layers for matrix in _matrices(block)]
    head = packed(model.lm_head.weight, BATCH)
    decode_step = _seconds(partial(_products, [*weights, head], BATCH))
    rows = 2048
    prefill_rows = _seconds(partial(_products, weights, rows))
    memory = torch.ones(1 << 26)
    bytes_per_second = memory.numel() * 4 / _seconds(memory.sum)

    width = config.num_kv_heads * config.head_dim * weights[0].element_size()
    per_position = 2 * config.num_layers * width
    positions = sum(
        response * len(prompt.ids) + response * (response - 1) // 2
        for prompt, response in zip(work.prompts, work.responses, strict=True)
    )
    prompt_tokens = sum(len(prompt.ids) for prompt in work.prompts[:: work.samples_per_prompt])
    return (
        work.tokens / BATCH * decode_step
        + prompt_tokens / rows * prefill_rows
        + positions * per_position / bytes_per_second
    )


@torch.inference_mode()
def _matrices(block: Any) -> list[Tensor]:
    """Of one layer, joined where they multiply the same rows, in the order of our products."""
    attention, mlp = block.self_attn, block.mlp
    together = (
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [mlp.gate_proj, mlp.up_proj],
        [mlp.down_proj],
    )
    return [packed(torch.cat([part.weight for part in parts]), BATCH) for parts in together]


def _products(weights: Sequence[Tensor], rows: int) -> None:
    for weight in weights:
        linear(torch.ones(rows, weight.shape[1], dtype=weight.dtype), weight)


@torch.inference_mode()
def _seconds(run: Callable[[], object]) -> float:
    return interleaved([run], repeats=9)[0]


def their_copy(model: LanguageModel) -> LlamaForCausalLM:
    config = model.config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            intermediate_size=config.ffn_dim,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=config.tie_embeddings,
            pad_token_id=0,
            eos_token_id=None,  # a response ends by its length
        )
    ).eval()
    theirs.load_state_dict(model.state_dict())
    return theirs.to(model.lm_head.weight.dtype)


ROWS = {
    "fixed": (EIGHT_MILLION, torch.float32, fixed_work),
    "ragged": (EIGHT_MILLION, torch.float32, ragged_work),
    "n=16": (EIGHT_MILLION, torch.float32, repeated_work),
    "fixed bf16": (EIGHT_MILLION, torch.bfloat16, fixed_work),
    "ragged bf16": (EIGHT_MILLION, torch.bfloat16, ragged_work),
    "n=16 bf16": (EIGHT_MILLION, torch.bfloat16, repeated_work),
    "fixed stories260K": (STORIES, torch.float32, fixed_work),
    "ragged stories260K": (STORIES, torch.float32, ragged_work),
    "n=16 stories260K": (STORIES, torch.float32, repeated_work),
}


def measure(name: str, lengths: list[tuple[int, int]], repeats: int) -> Row:
    config, dtype, make_work = ROWS[name]
    model = init_language_model(config, seed=0).to(dtype).eval()
    peer, work = their_copy(model), make_work(lengths, config.vocab_size)
    ours, theirs = interleaved(
        [partial(run_ours, model, work), partial(run_peer, peer, work)], repeats
    )
    return Row(
        name=name,
        ours=work.tokens / ours,
        peer=work.tokens / theirs,
        ratio=theirs / ours,
        unit="tokens/s",
        limit_share=limit(model, work) / ours,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--only", choices=ROWS, nargs="+", default=list(ROWS), metavar="ROW")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(THREADS)
    transformers.logging.set_verbosity_error()
    shared = shared_data()
    lengths = real_lengths(shared)
    rows = [measure(name, lengths, chosen.repeats) for name in chosen.only]
    report(rows, ["torch", "transformers"], THREADS, chosen.json)


if __name__ == "__main__":
    main()
