"""TRL's PPO as a side of benchmarks/ppo.py: `python -m benchmarks.sides.ppo_trl WORK.json`.

Runs in an environment of its own: TRL 1.12.0 is the last release with PPO.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.sides.turns import EXTRA_ITERATIONS, Clock, Iteration, serve


def trainer_for(work: dict[str, Any], directory: str) -> PPOTrainer:
    """The whole batch is one micro-batch, one mini-batch and one pass of sampling and scoring."""

    def language_model() -> Any:
        return AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)

    def scalar_model() -> Any:
        directory = Path(work["rewards"]) / "helpfulness" / "model"
        return AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)

    arguments = PPOConfig(
        output_dir=directory,
        per_device_train_batch_size=work["batch"],
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=work["epochs"],
        local_rollout_forward_batch_size=work["batch"],
        total_episodes=work["batch"] * (work["iterations"] + EXTRA_ITERATIONS),
        response_length=work["response_tokens"],
        stop_token="eos",
        missing_eos_penalty=1.0,
        temperature=1.0,
        kl_coef=0.01,
        learning_rate=work["rate"],
        lr_scheduler_type="constant",
        num_sample_generations=0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    return PPOTrainer(
        args=arguments,
        processing_class=AutoTokenizer.from_pretrained(work["model"], padding_side="left"),
        model=language_model(),
        ref_model=language_model(),
        reward_model=scalar_model(),
        value_model=scalar_model(),
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in work["prompts"]]),
    )


def watch(trainer: PPOTrainer, clock: Clock) -> None:
    """Wraps what the trainer's loop calls, by the model that it is called with."""
    forward, get_reward = ppo_trainer.forward, ppo_trainer.get_reward

    def timed_forward(model: Any, *args: Any) -> Any:
        phase = "reference" if model is trainer.ref_model else "train"
        return clock.timed(phase, forward)(model, *args)

    def timed_reward(model: Any, *args: Any) -> Any:
        phase = "score" if model is trainer.reward_model else "values"
        return clock.timed(phase, get_reward)(model, *args)

    ppo_trainer.forward, ppo_trainer.get_reward = timed_forward, timed_reward
    ppo_trainer.batch_generation = clock.timed("generate", ppo_trainer.batch_generation)
    trainer.optimizer.step = clock.timed("train", trainer.optimizer.step)


def main(work_file: str) -> None:
    work = json.loads(Path(work_file).read_text(encoding="utf-8"))
    torch.set_num_threads(work["threads"])
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_for(work, directory)
        watch(trainer, clock)

        def turn() -> list[Iteration]:
            trainer.train()
            return clock.take()

        serve(turn)


if __name__ == "__main__":
    main(*sys.argv[1:])
