"""What goes into the ledger and what comes out of it, as frozen values."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from annotation_app.judgement import Judgement
from data.errors import DataError
from data.schemas import Domain, Message, messages_from

CheckKind = Literal["gold", "attention", "qualification"]
CHECK_KINDS: tuple[CheckKind, ...] = get_args(CheckKind)
"""gold: somebody knows which response is better; attention: anybody who reads it does;
qualification: asked of newcomers, before anything else."""

Role = Literal["annotator", "reviewer", "manager"]
Status = Literal["open", "expired", "submitted", "skipped"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what the ones before it may."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody who works in the app."""

    person_id: str
    role: Role
    pseudonym: str
    """Stands for the person in everything that is published."""
    paused: bool


@dataclass(frozen=True, kw_only=True)
class Response:
    """One model's answer, with what annotators must not see."""

    text: str
    model: str | None = None
    temperature: float | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """What makes an item one whose answer is known; annotators never see it."""

    kind: CheckKind
    answer: int
    """Index of the better response: 0 or 1."""

    def __post_init__(self) -> None:
        if self.kind not in CHECK_KINDS or self.answer not in (0, 1):
            raise DataError(
                f"a check of kind {self.kind!r} with answer {self.answer!r}; kinds are "
                f"{', '.join(CHECK_KINDS)}, answers are the first or the second response"
            )


@dataclass(frozen=True, kw_only=True)
class NewItem:
    """A dialogue and two responses to be compared."""

    name: str
    """Unique within a batch: adding the same items again adds nothing."""
    prompt: tuple[Message, ...]
    responses: tuple[Response, Response] | None
    """None: sampled when somebody is given the item."""
    source: str
    check: Check | None = None
    """None: an item whose answer is wanted."""

    def __post_init__(self) -> None:
        if self.check is not None and self.responses is None:
            raise DataError(f"item {self.name!r} is a check without responses; give both")
        if not self.prompt or self.prompt[-1].role != "user":
            raise DataError(f"item {self.name!r} must end with the user's turn; mend its prompt")
        if self.responses is not None and not all(r.text.strip() for r in self.responses):
            raise DataError(f"item {self.name!r} has an empty response; sample it again")


@dataclass(frozen=True, kw_only=True)
class View:
    """All that an annotator may know of an assignment."""

    assignment_id: str
    batch_id: str
    domain: Domain
    prompt: tuple[Message, ...]
    response_a: str
    """Empty while the responses are not sampled yet."""
    response_b: str
    revision: int = 0
    """The one that the next submission will be."""
    judgement: Judgement | None = None
    """Their own latest answer, when they edit it."""

    @property
    def sampled(self) -> bool:
        """Whether there is something to compare."""
        return bool(self.response_a)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of a submission; when it exists, the ledger has committed."""

    outcome: Literal["saved", "already saved", "kept as conflict"]
    assignment_id: str
    revision: int
    late: bool = False
    too_fast: bool = False
    """Handed in sooner than the batch's rules say that anybody can have read it."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """One of a person's own recent annotations."""

    assignment_id: str
    batch_id: str
    question: str
    """The last user turn."""
    judgement: Judgement
    revision: int
    created_at: float
    decided: bool
    """A reviewer has decided on the item: it is not edited any more."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a batch is."""

    batch_id: str
    domain: Domain
    open: bool
    overlap: int
    live_turns: int
    """Turns of a dialogue whose prompts the annotators write; 0 for a queue of items."""
    items: int
    submitted: int
    skipped: int
    goal: int
    """Annotations wanted: what a manager has set, or every item as often as the overlap says."""
    own_goal: int
    """What a manager has set; 0 for nothing."""


def messages_json(messages: Sequence[Message]) -> str:
    """Messages as stored."""
    return json.dumps([[m.role, m.content] for m in messages], ensure_ascii=False)


def messages_of(stored: str) -> tuple[Message, ...]:
    """The inverse of `messages_json`."""
    return messages_from(
        [{"role": r, "content": c} for r, c in json.loads(stored)], column="prompt"
    )


def reveals_model(responses: Sequence[Response]) -> bool:
    """Whether a response says the name of its model, so that the comparison is not blind."""
    return any(r.model and r.model.lower() in r.text.lower() for r in responses)


def responses_json(responses: Sequence[Response]) -> str:
    """Responses as stored."""
    return json.dumps([[r.text, r.model, r.temperature] for r in responses], ensure_ascii=False)


def responses_of(stored: str) -> tuple[Response, Response]:
    """The inverse of `responses_json`."""
    first, second = (Response(text=t, model=m, temperature=c) for t, m, c in json.loads(stored))
    return first, second
