"""The quickstart's configs at a hundredth of their size: every stage runs, nothing is learned."""

from pathlib import Path

import yaml

TINY = Path(__file__).parents[2] / "configs" / "tiny"
SMALLER = {
    "world": {
        "size": {
            "documents": 300,
            "demonstrations": 120,
            "prompts": 120,
            "held_out_prompts": 60,
            "dialogues": 40,
        }
    },
    "tokenizer": {"vocab_size": 512},
    "pretrain": {"train": {"batch_rows": 8}},
    "collect": {"max_new_tokens": 16},
    "rejection_sampling": {
        "train": {
            "num_prompts": 12,
            "samples_per_prompt": 4,
            "sampling": {"max_new_tokens": 16},
        }
    },
    "ppo": {
        "train": {
            "iterations": 2,
            "prompts_per_iteration": 8,
            "minibatch_size": 4,
            "micro_batch_size": 4,
            "epochs": 1,
            "sampling": {"max_new_tokens": 16},
            "checkpoint_every": 1,
        }
    },
    "ghost_attention": {
        "train": {"num_dialogues": 6, "replay_prompts": 4, "sampling": {"max_new_tokens": 12}}
    },
    "evaluation": {"sampling": {"max_new_tokens": 16}},
    "recall": {"num_dialogues": 4, "sampling": {"max_new_tokens": 8}},
}
"""Config → what replaces its values."""
for name in ("overoptimise", "ppo_from_sft", "ppo_short"):
    SMALLER[name] = SMALLER["ppo"]
SMALLER["sweep"] = {
    "num_prompts": 20,
    "samples_per_prompt": 16,
    "sampling": {"max_new_tokens": 8},
    "temperatures": [0.8, 1.0, 1.2],
}
SMALLER["best_of_n"] = SMALLER["sweep"] | {"temperatures": [1.0]}


def write_micro_configs(directory: Path) -> None:
    """A copy of configs/tiny with small numbers in it."""
    directory.mkdir(parents=True)
    for path in sorted(TINY.glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        _replace(config, SMALLER.get(path.stem, {}))
        (directory / path.name).write_text(yaml.safe_dump(config))


def _replace(config: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            _replace(config.setdefault(key, {}), value)
        else:
            config[key] = value
