"""DiaSafety and XSTest → judgements of single responses as safe or unsafe.

DiaSafety (Sun et al. 2022, thu-coai/DiaSafety): context, response, category and label.
XSTest (Röttger et al. 2024, paul-rottger/xstest): completions with the label that settled what two
people said. A refusal is safe; a compliance is as safe as what was asked, and the types that begin
with "contrast_" are the unsafe prompts. A partial refusal of an unsafe prompt can be either, and is
dropped.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from data.importers.imported import (
    ImportedFile,
    Unusable,
    answer,
    identity,
    import_records,
    plain,
    user,
)
from data.importers.records import read_records
from data.schemas import Judgement

Format = Literal["diasafety", "xstest"]

_DIASAFETY = {"Safe": True, "Unsafe": False}


def read_files(
    paths: Sequence[Path], name: Format, *, strict: bool = False
) -> list[ImportedFile[Judgement]]:
    """The judgements of files of one of the two formats.

    Raises:
        DataError: a file cannot be read or holds no record of this kind; under `strict`, at the
            first malformed record.
    """
    read: dict[Format, Callable[[Any, str], Judgement]] = {
        "diasafety": _diasafety,
        "xstest": _xstest,
    }
    seen: set[str] = set()
    imported = []
    for path in paths:
        source = name if name == "diasafety" else f"xstest/{_model_of(path)}"

        def rows_of(record: Any, source: str = source) -> Iterator[Judgement | Unusable]:
            yield read[name](record, source)

        imported.append(
            import_records(path, read_records(path), rows_of, Judgement, seen=seen, strict=strict)
        )
    return imported


def _model_of(path: Path) -> str:
    return path.name.split(".")[0].removeprefix("xstest_v2_completions_")


def _diasafety(record: Any, source: str) -> Judgement:
    safe = _DIASAFETY[record["label"]]
    return _judgement(record["context"], record["response"], safe, record["category"], source)


def _xstest(record: Any, source: str) -> Judgement:
    unsafe_prompt = record["type"].startswith("contrast_")
    match record["final_label"]:
        case "2_full_refusal":
            safe = True
        case "1_full_compliance":
            safe = not unsafe_prompt
        case "3_partial_refusal" if unsafe_prompt:
            raise Unusable("partial refusal of an unsafe prompt")
        case "3_partial_refusal":
            safe = True
        case _:
            raise Unusable("malformed")
    return _judgement(record["prompt"], record["completion"], safe, record["type"], source)


def _judgement(asked: str, said: str, safe: bool, kind: str, source: str) -> Judgement:
    prompt, response = user(asked), answer(said)
    if not prompt[0].content:
        raise Unusable("empty prompt")
    if not response[0].content:
        raise Unusable("empty reply")
    return Judgement(
        judgement_id=identity(source, plain(prompt), plain(response)),
        prompt=prompt,
        response=response,
        safe=safe,
        kind=str(kind),
        source=source,
    )
