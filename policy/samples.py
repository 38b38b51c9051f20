"""Sampled responses on disk: one Parquet file of texts, scores and where they came from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.chat_format import ChatFormat
from data.errors import DataError
from data.records import write_records
from policy.prompts import PromptSet
from reward.score import Scores
from rlhf.types import Rollout

SAMPLES_FILE = "samples.parquet"


def sample_records(
    prompts: PromptSet,
    rollouts: Sequence[Rollout],
    chat: ChatFormat,
    scores: Scores | None = None,
    **constants: Any,
) -> list[dict[str, Any]]:
    """One record per rollout; `constants` (step, temperature, …) go into each of them.

    Args:
        prompts: row i belongs to rollouts i · n … (i + 1) · n − 1, with n samples per prompt.
    """
    per_prompt = len(rollouts) // len(prompts)
    records = []
    for index, rollout in enumerate(rollouts):
        row = prompts.rows[index // per_prompt]
        record = {
            "prompt_id": row.prompt_id,
            "kind": row.kind,
            "domain": row.domain,
            "prompt": row.prompt[-1].content,
            "response": chat.decode_response(rollout.response_ids),
            "response_tokens": len(rollout.response_ids),
            "finish_reason": rollout.finish_reason,
            "policy_version": rollout.policy_version,
            "logprob": sum(rollout.response_logprobs),
        }
        if scores is not None:
            record |= {f"{name}_score": float(v[index]) for name, v in scores.named.items()}
        records.append(record | constants)
    return records


def write_samples(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """A Parquet file, complete or absent."""
    write_records(path, records)


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The records of a samples file; none where there is no file.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's own: permissions, a disk that fails
        raise DataError(
            f"{str(path)!r} is damaged or no Parquet file; restore it from a copy, or delete its "
            "directory and run that command again"
        ) from error
