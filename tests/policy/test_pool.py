"""The best samples of all rounds on disk, and mixtures of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import ConfigError, DataError
from data.schemas import Demonstration, Message
from policy.pool import (
    add_round,
    check_round,
    demonstrations_of,
    mix_rounds,
    pool_entries,
    read_rounds,
)


def entries(name: str, texts: list[str]) -> list[dict[str, Any]]:
    demonstrations = [
        Demonstration(
            demonstration_id=f"best-p{n}",
            messages=(Message("user", f"question {n}"), Message("assistant", text)),
            loss_on="last",
            domain="safety" if n % 2 else "helpfulness",
            source="rejection-sampling",
        )
        for n, text in enumerate(texts)
    ]
    records = [
        {
            "prompt_id": f"p{n}",
            "domain": demonstration.domain,
            "response": demonstration.messages[-1].content,
            "policy_version": 0,
            "combined_score": 1.5 + n,
            "temperature": 1.2,
        }
        for n, demonstration in enumerate(demonstrations)
    ]
    return pool_entries(records, demonstrations, round=name, policy=Path("runs/sft/model"))


def test_rounds_come_back_with_score_temperature_and_policy(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    assert read_rounds(pool) == {}
    first, second = entries("v1", ["a", "b"]), entries("v2", ["c"])
    add_round(pool, "v2", second)
    add_round(pool, "v1", first)
    assert read_rounds(pool) == {"v1": first, "v2": second}
    (row,) = pq.read_table(pool / "v2.parquet").to_pylist()
    assert row == {
        "prompt_id": "p0",
        "domain": "helpfulness",
        "response": "c",
        "policy_version": 0,
        "combined_score": 1.5,
        "temperature": 1.2,
        "round": "v2",
        "policy": "runs/sft/model",
        "messages": [
            {"role": "user", "content": "question 0"},
            {"role": "assistant", "content": "c"},
        ],
    }


def test_a_round_is_added_once(tmp_path: Path) -> None:
    add_round(tmp_path, "v1", entries("v1", ["a", "b"]))
    written = (tmp_path / "v1.parquet").stat().st_mtime_ns
    add_round(tmp_path, "v1", entries("v1", ["a", "b"]))  # a run that was interrupted after it
    assert (tmp_path / "v1.parquet").stat().st_mtime_ns == written
    with pytest.raises(DataError, match=r"already holds other samples of round 'v1'; give this"):
        add_round(tmp_path, "v1", entries("v1", ["a", "c"]))


def test_files_that_are_no_rounds(tmp_path: Path) -> None:
    add_round(tmp_path, "v1", entries("v1", ["a"]))
    pq.write_table(pa.table({"prompt_id": ["p0"], "round": ["v2"]}), tmp_path / "other.parquet")
    message = r"other.parquet has no column 'domain', so it is no round of a pool"
    with pytest.raises(DataError, match=message):
        read_rounds(tmp_path)


def test_half_written_rounds_do_not_count(tmp_path: Path) -> None:
    (tmp_path / ".v1.parquet.tmp").write_bytes(b"PAR1")
    (tmp_path / ".v1.parquet").write_bytes(b"PAR1")
    assert read_rounds(tmp_path) == {}


def test_demonstrations_of_a_round() -> None:
    first, second = demonstrations_of("v1", entries("v1", ["a", "b"]))
    assert first.messages == (Message("user", "question 0"), Message("assistant", "a"))
    assert (first.demonstration_id, second.demonstration_id) == ("v1-0-p0", "v1-1-p1")
    assert (second.domain, second.loss_on) == ("safety", "last")


def test_mixture_by_round() -> None:
    rounds = {"v1": entries("v1", list("abcdefgh")), "v2": entries("v2", list("ijkl"))}
    assert mix_rounds(rounds, {}, seed=0) == rounds  # the paper: all of all rounds
    mixed = mix_rounds(rounds, {"v1": 0.25, "v2": 0.0}, seed=0)
    assert list(mixed) == ["v1"]
    assert len(mixed["v1"]) == 2  # 0.25 · 8
    assert all(record in rounds["v1"] for record in mixed["v1"])
    assert mixed == mix_rounds(rounds, {"v1": 0.25, "v2": 0.0}, seed=0)
    draws = {mix_rounds(rounds, {"v1": 0.25}, seed=s)["v1"][0]["response"] for s in range(20)}
    assert len(draws) > 2  # another seed, another draw


def test_wrong_mixtures_are_refused() -> None:
    rounds = {"v1": entries("v1", ["a"])}
    with pytest.raises(ConfigError, match="names round 'v3'; the pool's earlier rounds are v1"):
        mix_rounds(rounds, {"v3": 1.0}, seed=0)
    with pytest.raises(ConfigError, match="earlier rounds are none"):
        mix_rounds({}, {"v3": 1.0}, seed=0)
    with pytest.raises(ConfigError, match=r"mixture\.v1 is 1\.5; it must be 0 \(none\) to 1"):
        mix_rounds(rounds, {"v1": 1.5}, seed=0)


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "x" * 61])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(ConfigError, match="round is"):
        check_round(name)


def test_names_that_a_file_can_have() -> None:
    check_round("RLHF-V1.2_b")
