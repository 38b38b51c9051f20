"""The best samples of all rounds (Llama 2, section 3.2.3).

After using the last round's samples alone, some skills regressed; the paper therefore trains each
round on the best samples of all rounds before it, too. A pool is a directory with one Parquet file
per round, complete or absent.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import ConfigError, DataError
from data.mixing import sample_without_replacement
from data.schemas import Demonstration, messages_from
from policy.samples import read_samples, write_samples

Records = list[dict[str, Any]]
_COLUMNS = ("round", "prompt_id", "domain", "messages")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


def check_round(name: str) -> None:
    """A round's name is part of file names.

    Raises:
        ConfigError: it cannot be.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"round is {name!r}; use up to 60 letters, digits, '.', '_' and '-', beginning with a "
            "letter or digit"
        )


def pool_entries(
    records: Sequence[Mapping[str, Any]],
    demonstrations: Sequence[Demonstration],
    *,
    round: str,
    policy: Path,
) -> Records:
    """What the pool keeps of the best samples of a round: all that is known about each.

    Args:
        records: of `policy.samples.sample_records`, with score, temperature and policy version.
        demonstrations: the same samples as dialogues.
        round: its name.
        policy: directory of the model that sampled.
    """
    return [
        {
            **record,
            "round": round,
            "policy": str(policy),
            "messages": [vars(message) for message in demonstration.messages],
        }
        for record, demonstration in zip(records, demonstrations, strict=True)
    ]


def add_round(pool: Path, name: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Puts a round's best samples into the pool; adding the same ones again changes nothing.

    Args:
        pool: the directory; the first round makes it.
        name: of the round.
        records: of `pool_entries`.

    Raises:
        DataError: the pool holds other samples under that name.
    """
    path = pool / f"{name}.parquet"
    held = read_samples(path)
    if held == list(records):
        return
    if held:
        raise round_taken(pool, name)
    pool.mkdir(parents=True, exist_ok=True)
    write_samples(path, records)


def round_taken(pool: Path, name: str) -> DataError:
    """The error for two runs that call themselves the same round."""
    return DataError(
        f"{str(pool)!r} already holds other samples of round {name!r}; give this round another "
        "name (--round)"
    )


def read_rounds(pool: Path) -> dict[str, Records]:
    """Round → its records, in the order of the names.

    Raises:
        DataError: a Parquet file that is none of a pool.
    """
    rounds = {path.stem: read_samples(path) for path in sorted(pool.glob("[!.]*.parquet"))}
    for name, records in rounds.items():
        missing = [column for column in _COLUMNS if records and column not in records[0]]
        if missing:
            raise DataError(
                f"{pool / name}.parquet has no column {missing[0]!r}, so it is no round of a "
                "pool; name a directory that holds nothing but rounds (--pool)"
            )
    return rounds


def mix_rounds(
    rounds: Mapping[str, Records], shares: Mapping[str, float], *, seed: int
) -> dict[str, Records]:
    """Round → the random share of its records that is trained on; rounds left empty are left out.

    Args:
        rounds: of `read_rounds`.
        shares: round → 0 (none) to 1 (all, as in the paper); rounds not named are used whole.
        seed: of the draw.

    Raises:
        ConfigError: a share of a round that is not there, or out of range.
    """
    for name, share in shares.items():
        if name not in rounds:
            raise ConfigError(
                f"mixture names round {name!r}; the pool's earlier rounds are "
                f"{', '.join(rounds) or 'none'}"
            )
        if not 0 <= share <= 1:
            raise ConfigError(f"mixture.{name} is {share}; it must be 0 (none) to 1 (all)")
    mixed = {
        name: sample_without_replacement(records, round(shares[name] * len(records)), seed=seed)
        if name in shares
        else records
        for name, records in rounds.items()
    }
    return {name: records for name, records in mixed.items() if records}


def demonstrations_of(name: str, records: Sequence[Mapping[str, Any]]) -> list[Demonstration]:
    """A round's records as dialogues to imitate, learned in their last answer."""
    return [
        Demonstration(
            demonstration_id=f"{name}-{number}-{record['prompt_id']}",
            messages=messages_from(record["messages"], column="messages"),
            loss_on="last",
            domain=record["domain"],
            source="rejection-sampling",
        )
        for number, record in enumerate(records)
    ]
