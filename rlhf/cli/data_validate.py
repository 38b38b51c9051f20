"""`rlhf data validate`: every fault of a dataset."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.manifest import open_manifest
from data.validation import find_faults
from rlhf.cli.parsing import parse

_SHOWN_OF_A_KIND = 20


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Check a dataset: manifest, checksums, schema, values, ids, empty messages, splits."""

    directory: Path
    """The dataset."""


def main(argv: Sequence[str]) -> None:
    """Prints each finding; any is a `DataError`, so that scripts see exit code 2."""
    config = parse(ValidateConfig, argv, prog="rlhf data validate", positionals={"directory": "1"})
    found: Counter[str] = Counter()
    for finding in find_faults(config.directory):
        found[finding.kind] += 1
        if found[finding.kind] <= _SHOWN_OF_A_KIND:
            print(finding)
    for kind, count in found.items():
        if count > _SHOWN_OF_A_KIND:
            print(f"{kind}: and {count - _SHOWN_OF_A_KIND:,} more")
    if found:
        summary = ", ".join(f"{kind} {count:,}" for kind, count in found.items())
        raise DataError(
            f"{str(config.directory)!r} has {found.total():,} findings ({summary}); mend the "
            "source and import the data again"
        )
    manifest = open_manifest(config.directory)
    print(f"no faults: {manifest.num_rows():,} {manifest.schema}s in {len(manifest.files)} files")
