"""The tables of the ledger. Times are seconds since 1970 (UTC); dialogues are JSON texts."""

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

version = Table(
    "ledger",
    metadata,
    Column("schema_version", Integer, nullable=False),
    # Names the published row ranges, so that two ledgers can share one dataset.
    Column("ledger_id", String, primary_key=True),
)

people = Table(
    "people",
    metadata,
    Column("person_id", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("pseudonym", String, nullable=False, unique=True),
    Column("paused", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("batch_id", String, primary_key=True),
    Column("domain", String, nullable=False),
    Column("overlap", Integer, nullable=False),
    Column("open", Boolean, nullable=False),
    # Turns of a dialogue whose prompts the annotators write; 0 for a queue of items.
    Column("live_turns", Integer, nullable=False),
    # Annotations wanted; 0: every item as often as the overlap says.
    Column("goal", Integer, nullable=False, server_default="0"),
    # Counted along in the transactions that change them: a dashboard need not scan millions.
    Column("num_items", Integer, nullable=False),
    Column("num_submitted", Integer, nullable=False),
    Column("num_skipped", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
)

items = Table(
    "items",
    metadata,
    Column("item_id", Integer, primary_key=True),
    Column("batch_id", ForeignKey("batches.batch_id"), nullable=False),
    Column("name", String, nullable=False),
    Column("source", String, nullable=False),
    Column("prompt", Text, nullable=False),
    # Two of [text, model, temperature]; their order here is never shown. Null: not sampled yet.
    Column("responses", Text),
    # How many more people may be given this item: overlap minus the assignments in force.
    Column("places", Integer, nullable=False),
    UniqueConstraint("batch_id", "name"),
    sqlite_autoincrement=True,
)
Index(
    "items_with_places",
    items.c.batch_id,
    items.c.item_id,
    sqlite_where=text("places > 0"),
    postgresql_where=text("places > 0"),
)

assignments = Table(
    "assignments",
    metadata,
    Column("assignment_id", String, primary_key=True),
    Column("item_id", ForeignKey("items.item_id"), nullable=False),
    Column("person_id", ForeignKey("people.person_id"), nullable=False),
    # True: the item's second response is shown as A.
    Column("swapped", Boolean, nullable=False),
    # open, expired, submitted or skipped
    Column("status", String, nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("skip_reason", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("item_id", "person_id"),
)
Index("assignments_of_person", assignments.c.person_id, assignments.c.status)
Index(
    "open_leases",
    assignments.c.lease_until,
    sqlite_where=text("status = 'open'"),
    postgresql_where=text("status = 'open'"),
)

submissions = Table(
    "submissions",
    metadata,
    # One writer at a time: the sequence has the order of the commits, so it is a watermark.
    Column("sequence", Integer, primary_key=True),
    Column("assignment_id", ForeignKey("assignments.assignment_id"), nullable=False),
    Column("revision", Integer, nullable=False),
    # 0 or 1: an index of items.responses, not of what was shown.
    Column("chosen", Integer, nullable=False),
    Column("strength", String, nullable=False),
    Column("safety_label", String),
    Column("comment", Text, nullable=False),
    Column("flag", Text, nullable=False),
    Column("seconds", Double, nullable=False),
    # Came after the lease had expired.
    Column("late", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("assignment_id", "revision"),
    sqlite_autoincrement=True,
)

conflicts = Table(
    "conflicts",
    metadata,
    Column("conflict_id", Integer, primary_key=True),
    Column("assignment_id", ForeignKey("assignments.assignment_id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("judgement", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

publications = Table(
    "publications",
    metadata,
    # Submissions first … last, both included, form one published part.
    Column("first", Integer, primary_key=True),
    Column("last", Integer, nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("event_id", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("person_id", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("detail", Text, nullable=False),
    sqlite_autoincrement=True,
)

# Since version 2.
signing_keys = Table(
    "signing_keys",
    metadata,
    # One row: signs invitation links, so that forged ones are known without a look at the table.
    Column("key", String, primary_key=True),
)

invitations = Table(
    "invitations",
    metadata,
    Column("invitation_id", String, primary_key=True),
    Column("person_id", ForeignKey("people.person_id"), nullable=False),
    # Of the link's token; nobody can make the link from it.
    Column("token_hash", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("first_used_at", Double),
    Column("revoked_at", Double),
)

publisher = Table(
    "publisher",
    metadata,
    # One row: whose turn it is to publish by itself, and until when.
    Column("holder", String, primary_key=True),
    Column("until", Double, nullable=False),
)

# Since version 3.
evaluation_items = Table(
    "evaluation_items",
    metadata,
    Column("item_id", Integer, primary_key=True),
    Column("batch_id", String, nullable=False),
    # pair (seven points between two policies) or safety (five points for one response)
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("prompt", Text, nullable=False),
    # One or two of [text, model, temperature].
    Column("responses", Text, nullable=False),
    UniqueConstraint("batch_id", "kind", "name"),
    sqlite_autoincrement=True,
)

evaluation_ratings = Table(
    "evaluation_ratings",
    metadata,
    Column("rating_id", String, primary_key=True),
    Column("item_id", ForeignKey("evaluation_items.item_id"), nullable=False),
    Column("person_id", ForeignKey("people.person_id"), nullable=False),
    # True: the second policy's response is shown as A.
    Column("swapped", Boolean, nullable=False),
    # open, rated or skipped
    Column("status", String, nullable=False),
    Column("lease_until", Double, nullable=False),
    # pair: 3 … −3, from the first policy much better to the second; safety: 1 … 5
    Column("score", Integer),
    Column("seconds", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    # Since version 8: the published part that it belongs to; null: not planned yet.
    Column("part", Integer),
    UniqueConstraint("item_id", "person_id"),
)

# Since version 4.
demonstrations = Table(
    "demonstrations",
    metadata,
    Column("demonstration_id", String, primary_key=True),
    Column("person_id", ForeignKey("people.person_id"), nullable=False),
    Column("domain", String, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("answer", Text, nullable=False),
    # waiting, approved or rejected
    Column("status", String, nullable=False),
    Column("feedback", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    # The published part that it belongs to; null: not planned yet.
    Column("part", Integer),
)

# Since version 5.
checks = Table(
    "checks",
    metadata,
    # An item is a check from its first moment or never: what a published part holds stays the same.
    Column("item_id", ForeignKey("items.item_id"), primary_key=True),
    Column("batch_id", ForeignKey("batches.batch_id"), nullable=False, index=True),
    # gold, attention or qualification
    Column("kind", String, nullable=False),
    # 0 or 1: an index of items.responses.
    Column("answer", Integer, nullable=False),
)

rules = Table(
    "rules",
    metadata,
    Column("batch_id", ForeignKey("batches.batch_id"), primary_key=True),
    Column("check_share", Double, nullable=False),
    Column("min_seconds", Double, nullable=False),
)

# Since version 6.
requirements = Table(
    "requirements",
    metadata,
    Column("batch_id", ForeignKey("batches.batch_id"), primary_key=True),
    Column("answers", Integer, nullable=False),
    Column("pass_share", Double, nullable=False),
)

qualifications = Table(
    "qualifications",
    metadata,
    # The latest verdict on a person in a domain is in force.
    Column("verdict_id", Integer, primary_key=True),
    Column("person_id", ForeignKey("people.person_id"), nullable=False, index=True),
    Column("domain", String, nullable=False),
    # open, passed or failed
    Column("verdict", String, nullable=False),
    # Submissions up to this sequence number count no more.
    Column("since", Integer, nullable=False),
    Column("right", Integer, nullable=False),
    Column("answered", Integer, nullable=False),
    Column("decided_by", String, nullable=False),
    Column("created_at", Double, nullable=False),
    sqlite_autoincrement=True,
)

# Since version 7.
decisions = Table(
    "decisions",
    metadata,
    # One writer at a time: the order of the commits.
    Column("decision_id", Integer, primary_key=True),
    Column("item_id", ForeignKey("items.item_id"), nullable=False),
    # How many decisions on this item came before: so a second click makes no second one.
    Column("number", Integer, nullable=False),
    # The reviewer.
    Column("person_id", ForeignKey("people.person_id"), nullable=False),
    # 0 or 1: an index of items.responses. Null, like the strength: every opinion may stand.
    Column("chosen", Integer),
    Column("strength", String),
    Column("safety_label", String),
    Column("comment", Text, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    # The published part that it belongs to; null: not planned yet.
    Column("part", Integer),
    UniqueConstraint("item_id", "number"),
    sqlite_autoincrement=True,
)

grounds = Table(
    "grounds",
    metadata,
    # Which annotations, in which revision, a decision is based on.
    Column("assignment_id", ForeignKey("assignments.assignment_id"), primary_key=True),
    Column("decision_id", ForeignKey("decisions.decision_id"), primary_key=True),
    Column("revision", Integer, nullable=False),
)

# Since version 8.
attacks = Table(
    "attacks",
    metadata,
    Column("attack_id", String, primary_key=True),
    Column("person_id", ForeignKey("people.person_id"), nullable=False, index=True),
    Column("category", String, nullable=False),
    Column("style", String, nullable=False),
    # open, rated or dropped
    Column("status", String, nullable=False),
    # Of the messages, the response that was rated, and its 1 … 5.
    Column("rated", Integer),
    Column("score", Integer),
    Column("seconds", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    # The published part that it belongs to; null: not planned yet.
    Column("part", Integer),
)

attack_messages = Table(
    "attack_messages",
    metadata,
    # Person and model in turns: even numbers are the person's.
    Column("attack_id", ForeignKey("attacks.attack_id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", Text, nullable=False),
    # Of a response.
    Column("model", String),
    Column("temperature", Double),
    Column("created_at", Double, nullable=False),
)
