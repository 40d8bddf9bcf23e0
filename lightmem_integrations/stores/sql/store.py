"""The truth: turns, entries, passages, history and outbox in one SQL database.

Every method takes a ``Scope`` or a ``user_id`` first and touches that user's rows only, but for the
maintenance methods at the end, which return counts and ids.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection, Row, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from lightmem_integrations.core.index import matches_metadata
from lightmem_integrations.core.ports import Encoded, NewEntry, NewTurn, Pending, Version
from lightmem_integrations.core.times import from_us, to_us
from lightmem_integrations.core.types import KINDS, Change, Filter, MemoryEntry, Passage, Scope, Session, Turn
from lightmem_integrations.errors import ClosedError, UsageError
from lightmem_integrations.stores.sql import dialect, migrations
from lightmem_integrations.stores.sql import schema as s

T = TypeVar("T")

_ENTRY_NAMESPACE = uuid.UUID("6c8b7f3e-0d0b-5d0e-9c39-4a3d1f5d7f10")
LOAD_ROWS = 4096
"""Rows that are read at a time when a memory is loaded."""

_CHUNK = 400  # ids per IN (...): far below SQLite's limit of bound variables


def entry_id(user_id: str, kind: str, sources: Sequence[str], content: str = "") -> str:
    """The deterministic id of an entry: uuid5 of user, kind, sources and, for derived text, content."""
    parts = (user_id, kind, content, *sources)
    digest = hashlib.sha256("".join(f"{len(p)}:{p}" for p in parts).encode()).hexdigest()
    return str(uuid.uuid5(_ENTRY_NAMESPACE, digest))


def entry_row(user_id: str, made: str, entry: NewEntry) -> dict[str, Any]:
    """A row of ``entries`` for a new entry with this id, but for ``rev`` and the times of validity and expiry."""
    start, end = entry.event_time or (None, None)
    return {
        "user_id": user_id,
        "id": made,
        "session_id": entry.session_id,
        "seq": entry.seq,
        "kind": entry.kind,
        "memory": entry.text,
        "summary": entry.summary,
        "role": entry.role,
        "speaker": entry.speaker,
        "timestamp": entry.timestamp.isoformat(),
        "timestamp_us": to_us(entry.timestamp),
        "session_time": entry.session_time.isoformat(),
        "tokens": entry.tokens,
        "language": entry.language,
        "importance": entry.importance,
        "topic_id": entry.topic_id,
        "event_start_us": _us(start),
        "event_end_us": _us(end),
        "version": 1,
        "sources": list(entry.sources),
        "metadata": dict(entry.metadata),
        "by_words": entry.by_words,
    }


def turn_rows_of(
    user_id: str, turn: NewTurn, seq: int, rev: int, actor: str, now: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Rows of ``turns``, ``entries`` and ``journal`` for a new turn at a place in its session."""
    made = entry_id(user_id, "turn", [turn.id])
    shared: dict[str, Any] = {
        "user_id": user_id,
        "session_id": turn.session_id,
        "seq": seq,
        "role": turn.role,
        "speaker": turn.speaker,
        "timestamp": turn.timestamp.isoformat(),
        "timestamp_us": to_us(turn.timestamp),
        "session_time": turn.session_time.isoformat(),
        "tokens": turn.tokens,
        "metadata": dict(turn.metadata),
    }
    said = {"id": turn.id, "content": turn.content, "content_hash": turn.content_hash, "state": "buffered"}
    entry = {
        "id": made,
        "rev": rev,
        "kind": "turn",
        "memory": turn.content,
        "summary": "",
        "language": turn.language,
        "importance": turn.metadata.get("importance"),
        "expires_at_us": _us(turn.expires_at),
        "version": 1,
        "sources": [turn.id],
    }
    change = {"user_id": user_id, "entry_id": made, "at": now, "actor": actor, "operation": "insert", "after": 1}
    return shared | said, shared | entry, change


@dataclass(frozen=True, slots=True)
class Changes:
    """What an index has yet to learn of a user, to be read in order, in parts.

    Attributes:
        version: where the user's memory stands; None when there is none.
        passages, pieces: how many there are to come.
        entry_rows, passage_rows: lists of rows.
    """

    version: Version | None
    passages: int
    pieces: int
    entry_rows: Iterator[Sequence[Any]]
    passage_rows: Iterator[Sequence[Any]]


class SqlStore:
    """One database. Thread-safe; several processes may share a file.

    Args:
        path_or_url: file path, ``":memory:"`` or SQLAlchemy URL.
        busy_timeout_seconds: how long a write waits for another process.
    """

    def __init__(self, path_or_url: str | Path, busy_timeout_seconds: float = 30.0) -> None:
        self.path = dialect.shown(path_or_url)
        self._closed = False
        self._engine = dialect.open_engine(path_or_url, busy_timeout_seconds)
        # An in-memory database is one connection, which threads must take in turn.
        self._turn = RLock() if dialect.in_memory(self._engine) else None
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Bring the schema up to date; a file that is up to date is not written to."""
        with self.reading(None) as connection:
            ready = migrations.is_current(connection, self.path)
        if not ready:
            with dialect.translated(self.path):
                dialect.before_first_write(self._engine)
            with self.writing(None) as connection:
                dialect.keep_writers_out(connection)  # of several that come to migrate, one does it
                migrations.migrate(connection, self.path)
                dialect.after_migration(connection)

    # ------------------------------------------------------------------ transactions
    @contextmanager
    def _transaction(self, user_id: str | None, *, writing: bool, relaxed: bool = False) -> Iterator[Connection]:
        with (
            dialect.translated(self.path),
            _maybe(self._turn),
            self._connected() as raw,
            dialect.transaction(raw, user_id, writing=writing, relaxed=relaxed) as connection,
        ):
            yield connection

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        self._check_open()
        pool = self._engine.pool
        try:
            with self._engine.connect() as connection:
                yield connection
        finally:
            if self._closed:  # meanwhile: nobody else closes what was given back since
                pool.dispose()
                self._engine.dispose()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.path} was closed; open a new LightMem")

    def writing(self, user_id: str | None, *, relaxed: bool = False) -> AbstractContextManager[Connection]:
        """A transaction that writes. Those of one user follow one another.

        Args:
            user_id: whose rows; None for everybody's, which keeps nobody else from writing unless
                ``dialect.keep_writers_out`` is called: its statements must each be right by themselves.
            relaxed: it may be taken back by a power cut (derived data only).
        """
        return self._transaction(user_id, writing=True, relaxed=relaxed)

    @contextmanager
    def reading(self, user_id: str | None) -> Iterator[Connection]:
        """A transaction that reads one snapshot of a user's rows; None for everybody's."""
        with dialect.sound_values(self.path), self._transaction(user_id, writing=False) as connection:
            yield connection

    # ------------------------------------------------------------------ row level security (PostgreSQL)
    def fence(self, role: str | None = None, password: str | None = None) -> None:
        """Put row level security in place, and give a plain role what it needs to work behind it.

        Args:
            role: made if it is not there; None for policies alone.
            password: of the role; None leaves it as it is.

        Raises:
            UsageError: the database has no such thing, or no policy holds for the role.
            StorageError: this role may not do it.
        """
        with self.writing(None) as connection:
            dialect.fence(connection, role, password)

    def passes_policies(self) -> bool:
        """Row level security is in place, but this engine's role passes it."""
        with self.reading(None) as connection:
            return dialect.passes_policies(connection)

    def close(self) -> None:
        """Give back every connection. Calling it twice is fine."""
        with _maybe(self._turn):
            self._closed = True
            self._engine.dispose()

    # ------------------------------------------------------------------ writing turns
    def add_turns(self, user_id: str, turns: Sequence[NewTurn], actor: str, *, queue: bool) -> list[NewTurn]:
        """Store the turns that are not there yet, with their entries, in one transaction.

        Args:
            user_id: whose turns.
            turns: in order of arrival.
            actor: what does it, for the history.
            queue: the new entries wait for the encoder.

        Returns:
            the new ones, in the order given.

        Raises:
            UsageError: when an id is there already with another role, speaker or text; nothing is
                written then.
        """
        with self.writing(user_id) as connection:
            known = self._hashes(connection, user_id, [t.id for t in turns])
            fresh: list[NewTurn] = []
            for turn in turns:
                if turn.id not in known:
                    known[turn.id] = turn.content_hash
                    fresh.append(turn)
                elif known[turn.id] != turn.content_hash:
                    rule = "was used before with another role, speaker or text; an id names one message of a user"
                    raise UsageError(f"{turn.origin}id", rule, turn.id)
            if fresh:
                rev = self.next_version(connection, user_id)
                by_session: dict[str, list[NewTurn]] = {}
                for turn in fresh:
                    by_session.setdefault(turn.session_id, []).append(turn)
                for session_id, members in by_session.items():
                    self._insert_turns(connection, user_id, session_id, members, rev, actor, queue=queue)
            return fresh

    def next_version(self, connection: Connection, user_id: str) -> int:
        """Count one more write of this user; returns the new version."""
        statement = dialect.upsert(connection, s.users).values(user_id=user_id, version=1, epoch=uuid.uuid4().hex)
        statement = statement.on_conflict_do_update(index_elements=["user_id"], set_={"version": s.users.c.version + 1})
        return int(connection.execute(statement.returning(s.users.c.version)).scalar_one())

    def _hashes(self, connection: Connection, user_id: str, ids: Sequence[str]) -> dict[str, str]:
        columns = select(s.turns.c.id, s.turns.c.content_hash).where(s.turns.c.user_id == user_id)
        found: dict[str, str] = {}
        for chunk in chunks(ids):
            found.update(
                (row.id, row.content_hash) for row in connection.execute(columns.where(s.turns.c.id.in_(chunk)))
            )
        return found

    def _insert_turns(
        self,
        connection: Connection,
        user_id: str,
        session_id: str,
        turns: Sequence[NewTurn],
        rev: int,
        actor: str,
        *,
        queue: bool,
    ) -> None:
        now = _now()
        first = self._grow_session(connection, user_id, session_id, turns, now)
        turn_rows, entry_rows, journal_rows, outbox_rows = [], [], [], []
        for seq, turn in enumerate(turns, first):
            said, made, change = turn_rows_of(user_id, turn, seq, rev, actor, now)
            turn_rows.append(said)
            entry_rows.append(made)
            journal_rows.append(change)
            if queue:
                outbox_rows.append({"user_id": user_id, "entry_id": made["id"], "attempts": 0})
        for table, rows in (
            (s.turns, turn_rows),
            (s.entries, entry_rows),
            (s.journal, journal_rows),
            (s.index_outbox, outbox_rows),
        ):
            if rows:
                connection.execute(insert(table), rows)

    def _grow_session(
        self, connection: Connection, user_id: str, session_id: str, turns: Sequence[NewTurn], now: str
    ) -> int:
        tokens = sum(t.tokens for t in turns)
        c = s.sessions.c
        statement = dialect.upsert(connection, s.sessions).values(
            user_id=user_id,
            session_id=session_id,
            created_at=now,
            last_updated=now,
            turns=len(turns),
            total_tokens=tokens,
            compressed_tokens=0,
            metadata={},
        )
        statement = statement.on_conflict_do_update(
            index_elements=["user_id", "session_id"],
            set_={"last_updated": now, "turns": c.turns + len(turns), "total_tokens": c.total_tokens + tokens},
        )
        connection.execute(statement)
        highest = select(func.max(s.turns.c.seq)).where(s.turns.c.user_id == user_id)
        last = connection.execute(highest.where(s.turns.c.session_id == session_id)).scalar()
        return 0 if last is None else int(last) + 1

    # ------------------------------------------------------------------ writing what was made from turns
    def insert_entries(
        self, connection: Connection, user_id: str, entries: Sequence[NewEntry], rev: int, actor: str
    ) -> list[str]:
        """Store entries that are not there yet, inside the caller's transaction; returns their ids, in order.

        An entry expires with the first of its turns.
        """
        now = _now()
        by_id = {
            e.topic_id if e.kind == "segment" and e.topic_id else entry_id(user_id, e.kind, e.sources, e.text): e
            for e in entries
        }
        known: set[str] = set()
        for chunk in chunks(list(by_id)):
            known.update(connection.execute(select(_E.id).where(_E.user_id == user_id, _E.id.in_(chunk))).scalars())
        fresh = {made: e for made, e in by_id.items() if made not in known}
        expiry = self._expiry(connection, user_id, [t for e in fresh.values() for t in e.sources])
        rows, journal_rows, outbox_rows = [], [], []
        for made, e in fresh.items():
            rows.append(
                entry_row(user_id, made, e)
                | {
                    "rev": rev,
                    "valid_from_us": to_us(e.timestamp),
                    "expires_at_us": min((expiry[t] for t in e.sources if t in expiry), default=None),
                }
            )
            journal_rows.append(
                {"user_id": user_id, "entry_id": made, "at": now, "actor": actor, "operation": "insert", "after": 1}
            )
            if not e.by_words:
                outbox_rows.append({"user_id": user_id, "entry_id": made, "attempts": 0})
        for table, table_rows in ((s.entries, rows), (s.journal, journal_rows), (s.index_outbox, outbox_rows)):
            if table_rows:
                connection.execute(insert(table), table_rows)
        return list(fresh)

    def _expiry(self, connection: Connection, user_id: str, turns: Sequence[str]) -> dict[str, int]:
        """When turns expire, by turn id; those that do."""
        of_entry = {entry_id(user_id, "turn", [t]): t for t in turns}
        statement = select(_E.id, _E.expires_at_us).where(_E.user_id == user_id, _E.expires_at_us.is_not(None))
        out: dict[str, int] = {}
        for chunk in chunks(list(of_entry)):
            out.update((of_entry[r.id], r.expires_at_us) for r in connection.execute(statement.where(_E.id.in_(chunk))))
        return out

    # ------------------------------------------------------------------ reading for the index
    def version(self, user_id: str) -> Version | None:
        """Where this user's memory stands; None when there is none."""
        with self.reading(user_id) as connection:
            return self._version(connection, user_id)

    def _version(self, connection: Connection, user_id: str) -> Version | None:
        row = connection.execute(_VERSION, {"user": user_id}).first()
        return None if row is None else Version(row.version, row.epoch)

    @contextmanager
    def changes(self, user_id: str, after: int) -> Iterator[Changes]:
        """What changed after a version, from one snapshot, which lasts as long as the block."""
        where = {"user": user_id, "after": after}
        in_parts = {} if after else {"yield_per": LOAD_ROWS}  # a whole memory; what is new is little
        with self.reading(user_id) as connection:
            version = self._version(connection, user_id)
            passages, pieces = connection.execute(_SIZES, where).one()
            with (
                connection.execute(_CHANGED_ENTRIES, where, execution_options=in_parts) as entry_rows,
                connection.execute(_CHANGED_PASSAGES, where, execution_options=in_parts) as passage_rows,
            ):
                yield Changes(
                    version=version,
                    passages=passages,
                    pieces=pieces // 4,
                    entry_rows=entry_rows.partitions(LOAD_ROWS),
                    passage_rows=passage_rows.partitions(LOAD_ROWS),
                )

    # ------------------------------------------------------------------ the outbox
    def pending(self, user_id: str, limit: int) -> list[Pending]:
        """Entries that wait for the encoder, the least tried first, then the oldest."""
        o, e = s.index_outbox.c, s.entries.c
        statement = (
            select(e.id, o.seq, e.speaker, e.memory, e.tokens)
            .join_from(s.index_outbox, s.entries, and_(o.user_id == e.user_id, o.entry_id == e.id))
            .where(o.user_id == user_id)
            .order_by(o.attempts, o.seq)
            .limit(limit)
        )
        with self.reading(user_id) as connection:
            rows = connection.execute(statement)
            return [Pending(row.id, row.seq, row.speaker or "", row.memory, row.tokens) for row in rows]

    def pending_count(self, user_id: str | None = None) -> int:
        """Entries that wait for the encoder."""
        statement = select(func.count()).select_from(s.index_outbox)
        if user_id is not None:
            statement = statement.where(s.index_outbox.c.user_id == user_id)
        with self.reading(user_id) as connection:
            return int(connection.execute(statement).scalar_one())

    def pending_users(self) -> list[str]:
        """Users with entries that wait for the encoder."""
        with self.reading(None) as connection:
            return list(connection.execute(select(s.index_outbox.c.user_id).distinct()).scalars())

    def save_encoded(self, user_id: str, encoded: Sequence[Encoded]) -> int:
        """Store the passages and take their tickets out of the outbox.

        Derived data: the transaction is atomic, and what a power cut takes back is still in the
        outbox. Entries whose ticket is gone were forgotten, or encoded by somebody else, meanwhile;
        they are passed over.

        Returns:
            entries stored.
        """
        o = s.index_outbox.c
        with self.writing(user_id, relaxed=True) as connection:
            valid: set[int] = set()
            for chunk in chunks([e.ticket for e in encoded]):
                found = select(o.seq).where(o.user_id == user_id, o.seq.in_(chunk))
                valid.update(connection.execute(found).scalars())
            kept = [e for e in encoded if e.ticket in valid]
            if not kept:
                return 0
            rev = self.next_version(connection, user_id)
            for chunk in chunks([e.ticket for e in kept]):
                connection.execute(delete(s.index_outbox).where(o.user_id == user_id, o.seq.in_(chunk)))
            connection.execute(insert(s.passages), [row for e in kept for row in passage_rows(user_id, e, rev)])
            return len(kept)

    def note_failure(self, user_id: str, ids: Sequence[str], error: str) -> None:
        """Count a failed attempt to encode these entries; they stay in the outbox."""
        c = s.index_outbox.c
        with self.writing(user_id, relaxed=True) as connection:
            for chunk in chunks(ids):
                rows = and_(c.user_id == user_id, c.entry_id.in_(chunk))
                connection.execute(
                    update(s.index_outbox).where(rows).values(attempts=c.attempts + 1, error=reason(error))
                )

    # ------------------------------------------------------------------ reading for people
    def entries_by_id(self, user_id: str, ids: Sequence[str]) -> dict[str, MemoryEntry]:
        """The entries of this user among the ids."""
        found: dict[str, MemoryEntry] = {}
        with self.reading(user_id) as connection:
            for chunk in chunks(ids):
                for row in connection.execute(_ENTRIES_BY_ID, {"user": user_id, "ids": chunk}):
                    found[row.id] = read_entry(row)
        return found

    def resolve(self, user_id: str, any_id: str) -> MemoryEntry | None:
        """The entry made from the turn with this id, or else the entry with this id."""
        of_message = entry_id(user_id, "turn", [any_id])
        found = self.entries_by_id(user_id, [of_message, any_id])
        return found.get(of_message) or found.get(any_id)

    def passages_of(self, user_id: str, entry: str) -> list[tuple[Passage, np.ndarray[Any, Any]]]:
        """Passages of an entry with their vectors, in order."""
        c = s.passages.c
        statement = select(c.start, c.end, c.vector).where(c.user_id == user_id, c.entry_id == entry).order_by(c.n)
        with self.reading(user_id) as connection:
            return [
                (Passage(row.start, row.end), np.frombuffer(row.vector, "<f4")) for row in connection.execute(statement)
            ]

    def list_entries(
        self, scope: Scope, filter: Filter, limit: int, offset: int, *, newest_first: bool = False
    ) -> list[MemoryEntry]:
        """Entries that pass the filter, oldest first unless asked otherwise."""
        order: list[Any] = [_E.timestamp_us, _E.seq, _E.id]
        if newest_first:
            order = [column.desc() for column in order]
        statement = select(s.entries).where(*conditions(scope, filter)).order_by(*order)
        out: list[MemoryEntry] = []
        with self.reading(scope.user_id) as connection:
            if filter.metadata is None:
                return [read_entry(row) for row in connection.execute(statement.limit(limit).offset(offset))]
            for row in connection.execute(statement) if limit else ():
                if matches_metadata(row.metadata, filter.metadata):
                    offset -= 1
                    if offset < 0:
                        out.append(read_entry(row))
                if len(out) == limit:
                    break
        return out

    def sessions_of(self, user_id: str) -> list[Session]:
        """The user's sessions, the one that was written to last first."""
        c = s.sessions.c
        statement = select(s.sessions).where(c.user_id == user_id).order_by(c.last_updated.desc(), c.session_id)
        with self.reading(user_id) as connection:
            return [
                Session(
                    id=row.session_id,
                    user_id=row.user_id,
                    created_at=datetime.fromisoformat(row.created_at),
                    last_updated=datetime.fromisoformat(row.last_updated),
                    turns=row.turns,
                    tokens=row.total_tokens,
                    compressed_tokens=row.compressed_tokens,
                    metadata=row.metadata,
                )
                for row in connection.execute(statement)
            ]

    def turns_of(self, user_id: str) -> Iterator[Turn]:
        """Every turn of the user, session by session, in order; read in batches."""
        t = s.turns.c
        last = ("", -1)
        while True:
            after = or_(t.session_id > last[0], and_(t.session_id == last[0], t.seq > last[1]))
            statement = select(s.turns).where(t.user_id == user_id, after).order_by(t.session_id, t.seq).limit(1000)
            with self.reading(user_id) as connection:
                rows = connection.execute(statement).all()
            if not rows:
                return
            yield from map(read_turn, rows)
            last = (rows[-1].session_id, rows[-1].seq)

    def history(self, user_id: str, entry: str) -> list[Change]:
        """What happened to an entry, oldest first."""
        j = s.journal.c
        statement = select(s.journal).where(j.user_id == user_id, j.entry_id == entry).order_by(j.seq)
        with self.reading(user_id) as connection:
            return [
                Change(r.entry_id, datetime.fromisoformat(r.at), r.actor, r.operation, r.before, r.after)
                for r in connection.execute(statement)
            ]

    def counts(self, user_id: str | None = None) -> dict[str, int]:
        """Rows by table, of one user or of all."""
        out = {}
        with self.reading(user_id) as connection:
            for table in USER_TABLES_SHOWN:
                statement = select(func.count()).select_from(table)
                if user_id is not None:
                    statement = statement.where(table.c.user_id == user_id)
                out[table.name] = int(connection.execute(statement).scalar_one())
        return out

    def counts_by_kind(self, user_id: str | None = None) -> dict[str, int]:
        """Entries by kind, of one user or of all; every kind is there."""
        statement = select(_E.kind, func.count()).group_by(_E.kind)
        if user_id is not None:
            statement = statement.where(_E.user_id == user_id)
        with self.reading(user_id) as connection:
            return dict.fromkeys(KINDS, 0) | {kind: n for kind, n in connection.execute(statement)}

    # ------------------------------------------------------------------ forgetting
    def forget(self, scope: Scope, ids: Sequence[str] | None = None, before: datetime | None = None) -> dict[str, int]:
        """Remove the turns that meet all conditions, with all that was made from them.

        Returns:
            rows removed, by table.
        """
        with self.writing(scope.user_id) as connection:
            if self._version(connection, scope.user_id) is None:
                return {table.name: 0 for table in s.USER_TABLES}
            if scope.session_id is None and ids is None and before is None:
                return {
                    table.name: connection.execute(delete(table).where(table.c.user_id == scope.user_id)).rowcount
                    for table in s.USER_TABLES
                }
            turns, entries = self._doomed(connection, scope, ids, before)
            return self._remove(connection, scope.user_id, turns, entries)

    def _doomed(
        self, connection: Connection, scope: Scope, ids: Sequence[str] | None, before: datetime | None
    ) -> tuple[list[str], list[str]]:
        e = s.entries.c
        where = [e.user_id == scope.user_id]
        if scope.session_id is not None:
            where.append(e.session_id == scope.session_id)
        if before is not None:
            where.append(e.timestamp_us < to_us(before))
        wanted = None if ids is None else self._entry_ids(connection, scope.user_id, ids)
        turns: set[str] = set()
        entries: set[str] = set()
        for row in connection.execute(select(e.id, e.kind, e.sources).where(*where)):
            if wanted is None or row.id in wanted:
                entries.add(row.id)
                if row.kind == "turn":
                    turns.update(row.sources)
        derived = select(e.id, e.sources).where(e.user_id == scope.user_id, e.kind != "turn")
        entries.update(made for made, sources in connection.execute(derived) if turns.intersection(sources))
        return sorted(turns), sorted(entries)

    def _entry_ids(self, connection: Connection, user_id: str, ids: Sequence[str]) -> set[str]:
        """The entries that are meant: an id is a message's where there is such a message, else an entry's."""
        of_message = {given: entry_id(user_id, "turn", [given]) for given in ids}
        known = self._hashes(connection, user_id, ids)
        return {of_message[given] if given in known else given for given in ids}

    def _remove(
        self, connection: Connection, user_id: str, turns: Sequence[str], entries: Sequence[str]
    ) -> dict[str, int]:
        gone = {table.name: 0 for table in s.USER_TABLES}

        def drop(column: Any, ids: Sequence[str]) -> None:
            for chunk in chunks(ids):
                rows = and_(column.table.c.user_id == user_id, column.in_(chunk))
                gone[column.table.name] += connection.execute(delete(column.table).where(rows)).rowcount

        gone["segments"] += self._release(connection, user_id, set(turns))
        touched: set[str] = set()
        for chunk in chunks(turns):
            of_turn = select(s.turns.c.session_id).where(s.turns.c.user_id == user_id, s.turns.c.id.in_(chunk))
            touched.update(connection.execute(of_turn.distinct()).scalars())
        for table in (s.index_outbox, s.journal, s.passages):
            drop(table.c.entry_id, entries)
        drop(s.update_queue.c.memory_id, entries)
        drop(s.update_queue.c.candidate_id, entries)
        self._reinstate(connection, user_id, entries)
        drop(s.entries.c.id, entries)
        drop(s.turns.c.id, turns)
        for session_id in sorted(touched):
            gone["sessions"] += self._recount_session(connection, user_id, session_id)
        connection.execute(
            update(s.users)
            .where(s.users.c.user_id == user_id)
            .values(version=s.users.c.version + 1, epoch=uuid.uuid4().hex)
        )
        return gone

    def _reinstate(self, connection: Connection, user_id: str, doomed: Sequence[str]) -> None:
        """What the doomed entries took the place of holds again."""
        replaced: dict[str, int] = {}
        for chunk in chunks(doomed):
            by = select(_E.id, _E.version).where(_E.user_id == user_id, _E.superseded_by.in_(chunk))
            replaced.update((row.id, row.version) for row in connection.execute(by))
        staying = {i: version for i, version in replaced.items() if i not in set(doomed)}
        for chunk in chunks(list(staying)):
            rows = and_(_E.user_id == user_id, _E.id.in_(chunk))
            freed = {"superseded_by": None, "valid_to_us": None, "version": _E.version + 1}
            connection.execute(update(s.entries).where(rows).values(**freed))
        if staying:
            shared = {"user_id": user_id, "at": _now(), "actor": "forget", "operation": "update"}
            changes = [shared | {"entry_id": i, "before": v, "after": v + 1} for i, v in staying.items()]
            connection.execute(insert(s.journal), changes)

    def _release(self, connection: Connection, user_id: str, doomed: set[str]) -> int:
        """Take turns out of the short-term buffer; those beside them go back to the sensory one."""
        c, t = s.segments.c, s.turns.c
        hit = [
            (row.id, row.turn_ids)
            for row in connection.execute(select(c.id, c.turn_ids).where(c.user_id == user_id))
            if doomed.intersection(row.turn_ids)
        ]
        for chunk in chunks([i for _, ids in hit for i in ids if i not in doomed]):
            of_turns = and_(t.user_id == user_id, t.id.in_(chunk))
            connection.execute(update(s.turns).where(of_turns).values(state="buffered"))
        removed = 0
        for chunk in chunks([i for i, _ in hit]):
            removed += connection.execute(delete(s.segments).where(c.user_id == user_id, c.id.in_(chunk))).rowcount
        return removed

    def _recount_session(self, connection: Connection, user_id: str, session_id: str) -> int:
        t, c = s.turns.c, s.sessions.c
        left = connection.execute(
            select(
                func.count(), func.coalesce(func.sum(t.tokens), 0), func.coalesce(func.sum(t.compressed_tokens), 0)
            ).where(t.user_id == user_id, t.session_id == session_id)
        ).one()
        of_session = and_(c.user_id == user_id, c.session_id == session_id)
        if left[0] == 0:
            return connection.execute(delete(s.sessions).where(of_session)).rowcount
        connection.execute(
            update(s.sessions).where(of_session).values(turns=left[0], total_tokens=left[1], compressed_tokens=left[2])
        )
        return 0

    # ------------------------------------------------------------------ maintenance, all users
    def read_meta(self, key: str) -> str | None:
        """One value of the ``meta`` table."""
        with self.reading(None) as connection:
            return migrations.read_meta(connection, key)

    def write_meta(self, values: Mapping[str, str]) -> None:
        """Set values of the ``meta`` table."""
        with self.writing(None) as connection:
            for key, value in values.items():
                migrations.write_meta(connection, key, value)

    def drop_meta(self, keys: Sequence[str]) -> None:
        """Remove values of the ``meta`` table."""
        with self.writing(None) as connection:
            connection.execute(delete(s.meta).where(s.meta.c.key.in_(list(keys))))

    def claim_meta(self, values: Mapping[str, str]) -> dict[str, str]:
        """Set the values that are not set yet, whoever comes first; returns what holds now."""
        with self.reading(None) as connection:
            found = {key: migrations.read_meta(connection, key) for key in values}
        if None in found.values():
            with self.writing(None) as connection:
                for key, value in values.items():
                    claim = dialect.upsert(connection, s.meta).values(key=key, value=value)
                    connection.execute(claim.on_conflict_do_nothing())
                found = {key: migrations.read_meta(connection, key) for key in values}
        return {key: value for key, value in found.items() if value is not None}

    def requeue(self) -> int:
        """Ask again for the passages that are neither there nor asked for.

        Returns:
            entries that were put into the outbox.
        """
        with self.reading(None) as connection:
            users = connection.execute(select(_LACKING.subquery().c.user_id).distinct()).scalars().all()
        return sum(self._requeue(user_id) for user_id in users)

    def _requeue(self, user_id: str) -> int:
        with self.writing(user_id) as connection:
            lacking = connection.execute(_LACKING.where(_E.user_id == user_id))
            rows = [{"user_id": user_id, "entry_id": row.id, "attempts": 0} for row in lacking]
            if rows:
                connection.execute(insert(s.index_outbox), rows)
            return len(rows)

    def drop_encoded(self) -> None:
        """Remove all passages, and ask for none."""
        with self.writing(None) as connection:
            dialect.keep_writers_out(connection)  # who encodes now would store what is no longer asked for
            connection.execute(delete(s.passages))
            connection.execute(delete(s.index_outbox))
            connection.execute(update(s.users).values(version=s.users.c.version + 1, epoch=uuid.uuid4().hex))

    def compact(self) -> None:
        """Write the database anew, so that nothing that was forgotten is left in its free space."""
        self._check_open()
        with dialect.translated(self.path), _maybe(self._turn):
            dialect.compact(self._engine)

    def lacking(self) -> int:
        """Entries that are neither encoded nor waiting for the encoder."""
        with self.reading(None) as connection:
            return int(connection.execute(select(func.count()).select_from(_LACKING.subquery())).scalar_one())

    def integrity(self) -> list[str]:
        """Contradictions in the database, in words; empty when it is sound."""
        e, t, c = s.entries.c, s.turns.c, s.sessions.c
        made = select(e.id).where(
            e.user_id == t.user_id, e.kind == "turn", e.session_id == t.session_id, e.seq == t.seq
        )
        said = select(t.id).where(t.user_id == e.user_id, t.session_id == e.session_id, t.seq == e.seq)
        counted = select(func.count()).where(t.user_id == c.user_id, t.session_id == c.session_id).scalar_subquery()
        checks = {
            "turns without an entry": select(func.count()).select_from(s.turns).where(~made.exists()),
            "entries without a turn": select(func.count())
            .select_from(s.entries)
            .where(e.kind == "turn", ~said.exists()),
            "sessions with a wrong count": select(func.count()).select_from(s.sessions).where(c.turns != counted),
        }
        with self.reading(None) as connection:
            found = dialect.integrity_errors(connection)
            for name, statement in checks.items():
                n = int(connection.execute(statement).scalar_one())
                if n:
                    found.append(f"{n} {name}")
            return found

    def failures(self, user_id: str | None = None) -> list[str]:
        """Distinct reasons why entries could not be encoded."""
        statement = select(s.index_outbox.c.error).where(s.index_outbox.c.error.is_not(None)).distinct().limit(5)
        if user_id is not None:
            statement = statement.where(s.index_outbox.c.user_id == user_id)
        with self.reading(user_id) as connection:
            return list(connection.execute(statement).scalars())


USER_TABLES_SHOWN = (s.sessions, s.turns, s.segments, s.entries, s.passages, s.index_outbox, s.journal)

_E, _P = s.entries.c, s.passages.c
_O = s.index_outbox.c
_LACKING = select(_E.user_id, _E.id).where(
    _E.by_words.is_not(True),
    ~select(_O.entry_id).where(_O.user_id == _E.user_id, _O.entry_id == _E.id).exists(),
    ~select(_P.entry_id).where(_P.user_id == _E.user_id, _P.entry_id == _E.id).exists(),
)
_VERSION = select(s.users.c.version, s.users.c.epoch).where(s.users.c.user_id == bindparam("user"))
_CHANGED_ENTRIES = (
    select(
        _E.id, _E.session_id, _E.seq, _E.kind, _E.memory, _E.role, _E.speaker, _E.timestamp, _E.timestamp_us,
        _E.tokens, _E.language, _E.importance, _E.event_start_us, _E.event_end_us, _E.valid_from_us, _E.valid_to_us,
        _E.superseded_by, _E.expires_at_us, _E.by_words, _E.sources, _E.metadata,
    )
    .where(_E.user_id == bindparam("user"), _E.rev > bindparam("after"))
    .order_by(_E.rev, _E.session_id, _E.seq, _E.id)
)  # fmt: skip
_CHANGED_PASSAGES = (
    select(_P.entry_id, _P.n, _P.start, _P.end, _P.vector, _P.piece_ids, _P.pieces)
    .where(_P.user_id == bindparam("user"), _P.rev > bindparam("after"))
    .order_by(_P.rev, _P.entry_id, _P.n)
)
_SIZES = select(func.count(), func.coalesce(func.sum(func.length(_P.piece_ids)), 0)).where(
    _P.user_id == bindparam("user"), _P.rev > bindparam("after")
)
_ENTRIES_BY_ID = select(s.entries).where(_E.user_id == bindparam("user"), _E.id.in_(bindparam("ids", expanding=True)))


def conditions(scope: Scope, filter: Filter) -> list[ColumnElement[bool]]:
    """The filter as SQL, always with the scope. Metadata is matched by the caller."""
    e = s.entries.c
    now = to_us(filter.as_of or datetime.now(timezone.utc))
    out: list[ColumnElement[bool]] = [e.user_id == scope.user_id]
    if scope.session_id is not None:
        out.append(e.session_id == scope.session_id)
    for column, values in (
        (e.session_id, filter.session_ids),
        (e.kind, filter.kinds),
        (e.role, filter.roles),
        (e.speaker, filter.speakers),
    ):
        if values is not None:
            out.append(column.in_([value for value in values if "\0" not in value]))  # no text that is stored has one
    if filter.since is not None:
        out.append(e.timestamp_us >= to_us(filter.since))
    if filter.until is not None:
        out.append(e.timestamp_us <= to_us(filter.until))
    if filter.min_importance is not None:
        out.append(e.importance >= filter.min_importance)
    if filter.as_of is not None:
        out.append(and_(e.timestamp_us <= now, or_(e.valid_from_us.is_(None), e.valid_from_us <= now)))
    if not filter.include_superseded:
        out.append(or_(e.valid_to_us.is_(None), e.valid_to_us > now))
        out.append(or_(e.expires_at_us.is_(None), e.expires_at_us > now))
    return out


def read_entry(row: Row[Any]) -> MemoryEntry:
    """One row of ``entries`` as the public type."""
    event = (from_us(row.event_start_us), from_us(row.event_end_us))
    return MemoryEntry(
        id=row.id,
        user_id=row.user_id,
        session_id=row.session_id,
        kind=row.kind,
        memory=row.memory,
        timestamp=datetime.fromisoformat(row.timestamp),
        session_time=datetime.fromisoformat(row.session_time),
        source_messages=tuple(row.sources),
        role=row.role,
        speaker=row.speaker,
        summary=row.summary,
        metadata=row.metadata,
        importance=row.importance,
        topic_id=row.topic_id,
        compressed=row.compressed,
        event_time=None if event[0] is None or event[1] is None else (event[0], event[1]),
        valid_from=from_us(row.valid_from_us),
        valid_to=from_us(row.valid_to_us),
        superseded_by=row.superseded_by,
        expires_at=from_us(row.expires_at_us),
        version=row.version,
    )


def read_turn(row: Row[Any]) -> Turn:
    """One row of ``turns`` as the public type."""
    return Turn(
        id=row.id,
        user_id=row.user_id,
        session_id=row.session_id,
        seq=row.seq,
        role=row.role,
        content=row.content,
        speaker=row.speaker,
        timestamp=datetime.fromisoformat(row.timestamp),
        session_time=datetime.fromisoformat(row.session_time),
        tokens=row.tokens,
        compressed_tokens=row.compressed_tokens,
        content_hash=row.content_hash,
        state=row.state,
        metadata=row.metadata,
    )


def passage_rows(user_id: str, encoded: Encoded, rev: int) -> Iterator[dict[str, Any]]:
    """Rows of ``passages`` for an entry."""
    for n, (passage, encoding) in enumerate(encoded.passages):
        yield {
            "user_id": user_id,
            "entry_id": encoded.entry_id,
            "n": n,
            "rev": rev,
            "start": passage.start,
            "end": passage.end,
            "vector": np.ascontiguousarray(encoding.vector, "<f4").tobytes(),
            "piece_ids": np.ascontiguousarray(encoding.piece_ids, "<u4").tobytes(),
            "pieces": np.ascontiguousarray(encoding.pieces, "i1").tobytes(),
        }


def chunks(ids: Sequence[T]) -> Iterator[list[T]]:
    """Distinct ids, as many at a time as one statement takes."""
    unique = list(dict.fromkeys(ids))
    for start in range(0, len(unique), _CHUNK):
        yield unique[start : start + _CHUNK]


def reason(error: str) -> str:
    """What went wrong as it is stored: not long, and any database can hold it."""
    return error[:500].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)


@contextmanager
def _maybe(lock: Any) -> Iterator[None]:
    if lock is None:
        yield
    else:
        with lock:
            yield
