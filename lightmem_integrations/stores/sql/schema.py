"""Tables of the truth (design: "SQL is the truth"). Portable: no type or default of one database.

Times are stored twice where they are both shown and compared: ISO 8601 text with the caller's
offset, and microseconds since 1970 UTC (``*_us``). Every table but ``meta`` and ``llm_usage`` starts
with ``user_id``.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA_VERSION = 4

_JSON = JSON().with_variant(JSONB(), "postgresql")
_SERIAL = BigInteger().with_variant(Integer(), "sqlite")
_ID = String(255)
_TIME = String(40).with_variant(String(48), "postgresql")  # SQLite takes any length, and cannot change its name for it

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False))

# ``version`` counts the user's writes; readers refresh by it. ``epoch`` changes when rows were
# removed or rewritten, so that readers start afresh.
users = Table(
    "users",
    metadata,
    Column("user_id", _ID, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("epoch", String(32), nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("user_id", _ID, primary_key=True),
    Column("session_id", _ID, primary_key=True),
    Column("created_at", _TIME, nullable=False),
    Column("last_updated", _TIME, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("compressed_tokens", BigInteger, nullable=False),
    Column("metadata", _JSON, nullable=False),
)

# ``state``: ``buffered`` in the sensory buffer, ``segmented`` in the short-term buffer, ``extracted``.
_BUFFERED = text("state = 'buffered'")
turns = Table(
    "turns",
    metadata,
    Column("user_id", _ID, primary_key=True),
    Column("id", _ID, primary_key=True),
    Column("session_id", _ID, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("role", String(16), nullable=False),
    Column("speaker", Text),
    Column("content", Text, nullable=False),
    Column("timestamp", _TIME, nullable=False),
    Column("timestamp_us", BigInteger, nullable=False),
    Column("session_time", _TIME, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("compressed_tokens", Integer),
    Column("content_hash", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("metadata", _JSON, nullable=False),
    UniqueConstraint("user_id", "session_id", "seq"),
    ForeignKeyConstraint(["user_id", "session_id"], ["sessions.user_id", "sessions.session_id"]),
    Index("turns_buffered", "user_id", "session_id", "seq", sqlite_where=_BUFFERED, postgresql_where=_BUFFERED),
)

# The short-term buffer, and the queue of the extractor. ``seq`` is that of the first turn. ``state``:
# ``held`` until the buffer is full, then ``queued``, or ``parked`` after too many failures.
_QUEUED, _HELD = text("state = 'queued'"), text("state = 'held'")
segments = Table(
    "segments",
    metadata,
    Column("user_id", _ID, primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("session_id", _ID, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("turn_ids", _JSON, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("since_us", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text),
    Column("owner", String(32)),
    Column("lease_us", BigInteger),
    ForeignKeyConstraint(["user_id", "session_id"], ["sessions.user_id", "sessions.session_id"]),
    Index("segments_by_session", "user_id", "session_id", "seq"),
    Index("segments_queued", "user_id", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
    Index("segments_held", "user_id", "session_id", sqlite_where=_HELD, postgresql_where=_HELD),
)

# ``rev`` is the user's version at the entry's last change. ``by_words``: found by its words alone; the
# encoder is not asked for it.
entries = Table(
    "entries",
    metadata,
    Column("user_id", _ID, primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("rev", BigInteger, nullable=False),
    Column("session_id", _ID, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("memory", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("role", String(16)),
    Column("speaker", Text),
    Column("timestamp", _TIME, nullable=False),
    Column("timestamp_us", BigInteger, nullable=False),
    Column("session_time", _TIME, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("language", String(8), nullable=False),
    Column("importance", Float),
    Column("topic_id", String(64)),
    Column("compressed", Text),
    Column("event_start_us", BigInteger),
    Column("event_end_us", BigInteger),
    Column("valid_from_us", BigInteger),
    Column("valid_to_us", BigInteger),
    Column("superseded_by", String(36)),
    Column("expires_at_us", BigInteger),
    Column("version", Integer, nullable=False),
    Column("sources", _JSON, nullable=False),
    Column("metadata", _JSON, nullable=False),
    Column("by_words", Boolean),
    Index("entries_by_rev", "user_id", "rev"),
    Index("entries_by_time", "user_id", "timestamp_us", "id"),
    Index("entries_by_place", "user_id", "session_id", "seq"),
)

# What the encoder made of an entry: one row per passage. ``vector`` float32, ``piece_ids`` uint32,
# ``pieces`` int8, all little-endian.
passages = Table(
    "passages",
    metadata,
    Column("user_id", _ID, primary_key=True),
    Column("entry_id", String(36), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("rev", BigInteger, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Column("piece_ids", LargeBinary, nullable=False),
    Column("pieces", LargeBinary, nullable=False),
    ForeignKeyConstraint(["user_id", "entry_id"], ["entries.user_id", "entries.id"], ondelete="CASCADE"),
    Index("passages_by_rev", "user_id", "rev"),
)

_PENDING = text("status = 'pending'")
update_queue = Table(
    "update_queue",
    metadata,
    Column("user_id", _ID, primary_key=True),
    Column("memory_id", String(36), primary_key=True),
    Column("candidate_id", String(36), primary_key=True),
    Column("similarity", Float, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", _TIME, nullable=False),
    Index("updates_pending", "user_id", sqlite_where=_PENDING, postgresql_where=_PENDING),
)

# ``undo`` is what the entry was before, as far as it was changed.
journal = Table(
    "journal",
    metadata,
    Column("seq", _SERIAL, primary_key=True, autoincrement=True),
    Column("user_id", _ID, nullable=False),
    Column("entry_id", String(36), nullable=False),
    Column("at", _TIME, nullable=False),
    Column("actor", String(32), nullable=False),
    Column("operation", String(16), nullable=False),
    Column("before", Integer),
    Column("after", Integer),
    Column("undo", _JSON),
    Index("journal_by_entry", "user_id", "entry_id"),
    sqlite_autoincrement=True,
)

# What an index has yet to learn. ``attempts`` and ``error`` say how often it failed, and why.
index_outbox = Table(
    "index_outbox",
    metadata,
    Column("seq", _SERIAL, primary_key=True, autoincrement=True),
    Column("user_id", _ID, nullable=False),
    Column("entry_id", String(36), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text),
    ForeignKeyConstraint(["user_id", "entry_id"], ["entries.user_id", "entries.id"], ondelete="CASCADE"),
    Index("outbox_by_user", "user_id", "seq"),
    Index("outbox_by_entry", "user_id", "entry_id"),
    sqlite_autoincrement=True,  # a number is never used twice: it says which text was to be encoded
)

# Entries that an index outside of this database has yet to look at again, written by triggers while
# there is such an index. A drainer reads what they are now: the order says nothing. No foreign key:
# it is told of entries that are gone.
_CLAIMED = text("owner IS NOT NULL")
projection_outbox = Table(
    "projection_outbox",
    metadata,
    Column("seq", _SERIAL, primary_key=True, autoincrement=True),
    Column("user_id", _ID, nullable=False),
    Column("entry_id", String(36), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text),
    Column("owner", String(32)),
    Column("lease_us", BigInteger),
    Index("projection_by_user", "user_id", "attempts", "seq"),
    Index("projection_claimed", "user_id", sqlite_where=_CLAIMED, postgresql_where=_CLAIMED),
    sqlite_autoincrement=True,
)

# Tokens charged by language models, by UTC date. Of the whole database: no user's.
llm_usage = Table(
    "llm_usage", metadata, Column("day", String(10), primary_key=True), Column("tokens", BigInteger, nullable=False)
)

# In the order in which ``forget`` empties them.
USER_TABLES = (index_outbox, update_queue, journal, passages, entries, segments, turns, sessions, users)
