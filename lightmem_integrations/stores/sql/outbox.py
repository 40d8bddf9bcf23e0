"""What an index outside of the database has yet to learn, and what it reads to learn it.

While a database has such an index, triggers write a row for every entry that is made, changed or
removed, in the transaction that does it: no write can be forgotten, whichever process or release
makes it. Without such an index nothing is written (see ``triggers``). Drainers claim rows, read what
the entries are now, tell the index, and take the rows away; all of it may be done twice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, and_, case, delete, func, insert, select, tuple_, update

from lightmem_integrations.stores.sql import dialect, migrations, triggers
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.store import SqlStore, chunks, reason

PROJECTION = "projection"
"""Key of ``meta``: which index the database has."""

LEASE_SECONDS = 10.0
"""A claim that was not renewed for so long is anybody's."""

_LEASE_US = int(LEASE_SECONDS * 1e6)

LOOK_ROWS = 10_000
"""Rows at the head of the outbox whose users are looked for."""

TRIES = 3
"""Failures after which a row is parked."""

_O, _E, _P = s.projection_outbox.c, s.entries.c, s.passages.c


@dataclass(frozen=True, slots=True)
class Claim:
    """Rows of one user that were claimed: their numbers, and the entries that they name."""

    user_id: str
    rows: tuple[tuple[int, str], ...]

    @property
    def seqs(self) -> list[int]:
        """The numbers of the rows."""
        return [seq for seq, _ in self.rows]

    @property
    def entries(self) -> list[str]:
        """Distinct entry ids."""
        return list(dict.fromkeys(entry for _, entry in self.rows))

    def halves(self) -> tuple[Claim, Claim]:
        """The claim in two parts, neither of which shares an entry with the other."""
        first = set(self.entries[: len(self.entries) // 2])
        parts = tuple(tuple(row for row in self.rows if (row[1] in first) == here) for here in (True, False))
        return Claim(self.user_id, parts[0]), Claim(self.user_id, parts[1])


@dataclass(frozen=True, slots=True)
class Projected:
    """An entry as an index sees it: its row, and (passages, dim) vectors, with no rows while it waits for them."""

    row: Row[Any]
    vectors: NDArray[np.float32]


class SqlOutbox:
    """The outbox of one database."""

    def __init__(self, store: SqlStore) -> None:
        self._store, self._owner = store, uuid.uuid4().hex

    # ------------------------------------------------------------------ which index there is
    def index(self) -> str | None:
        """Name of the index that the database has; None without one."""
        return self._store.read_meta(PROJECTION)

    def attach(self, name: str, *, enqueue: bool) -> None:
        """Write down from now on what the index has to learn; ``enqueue`` all that is there, too."""
        with self._store.writing(None) as connection:
            dialect.keep_writers_out(connection)  # who writes now would tell no trigger
            if migrations.read_meta(connection, PROJECTION) is None:
                for statement in triggers.CREATE[connection.dialect.name]:
                    connection.exec_driver_sql(statement)
            migrations.write_meta(connection, PROJECTION, name)
            if enqueue:
                connection.execute(delete(s.projection_outbox))
                everything = select(_E.user_id, _E.id)
                connection.execute(insert(s.projection_outbox).from_select(["user_id", "entry_id"], everything))

    def detach(self) -> None:
        """The database has no such index any more."""
        with self._store.writing(None) as connection:
            dialect.keep_writers_out(connection)
            for statement in triggers.DROP[connection.dialect.name]:
                connection.exec_driver_sql(statement)
            connection.execute(delete(s.meta).where(s.meta.c.key == PROJECTION))
            connection.execute(delete(s.projection_outbox))

    def enqueue(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Have entries looked at again, given as (user, entry) pairs."""
        if pairs:
            with self._store.writing(None) as connection:
                rows = [{"user_id": user, "entry_id": entry} for user, entry in dict.fromkeys(pairs)]
                connection.execute(insert(s.projection_outbox), rows)

    # ------------------------------------------------------------------ draining
    def backlog(self, user_id: str | None = None, at_most: int | None = None) -> int:
        """Rows that wait and are not parked; counted up to ``at_most``."""
        return self._count(user_id, _O.attempts < TRIES, at_most)

    def parked(self, user_id: str | None = None) -> int:
        """Rows that failed too often."""
        return self._count(user_id, _O.attempts >= TRIES)

    def refused(self, user_id: str, limit: int) -> list[str]:
        """Entries of parked rows, the last ones first."""
        statement = select(_O.entry_id).where(_O.user_id == user_id, _O.attempts >= TRIES)
        with self._store.reading(user_id) as connection:
            return list(connection.execute(statement.order_by(_O.seq.desc()).limit(limit)).scalars())

    def _count(self, user_id: str | None, which: Any, at_most: int | None = None) -> int:
        rows = select(_O.seq).where(which).limit(at_most)
        if user_id is not None:
            rows = rows.where(_O.user_id == user_id)
        with self._store.reading(user_id) as connection:
            return int(connection.execute(select(func.count()).select_from(rows.subquery())).scalar_one())

    def users(self, limit: int = 1000) -> list[str]:
        """Users with rows that wait and that nobody is at, those of the first rows."""
        busy = select(_O.user_id).where(_leased(_now()))
        free = select(_O.user_id, _O.seq).where(_O.attempts < TRIES, _O.user_id.not_in(busy))
        first = free.order_by(_O.seq).limit(LOOK_ROWS).subquery().c
        statement = select(first.user_id).group_by(first.user_id).order_by(func.min(first.seq)).limit(limit)
        with self._store.reading(None) as connection:
            return list(connection.execute(statement).scalars())

    def claim(self, user_id: str, limit: int) -> Claim | None:
        """Take the user's first rows; None when there are none, or somebody else is at them.

        One drainer at a time is at a user's rows, so that what one has read cannot overtake what
        another has read since.
        """
        now = _now()
        mine = and_(_O.user_id == user_id, _O.attempts < TRIES)
        taken = and_(_O.user_id == user_id, _leased(now), _O.owner != self._owner)
        with self._store.writing(user_id, relaxed=True) as connection:
            if connection.execute(select(_O.seq).where(taken).limit(1)).first():
                return None
            first = select(_O.seq, _O.entry_id).where(mine).order_by(_O.attempts, _O.seq).limit(limit)
            rows = connection.execute(first).all()
            if not rows:
                return None
            lease = {"owner": self._owner, "lease_us": now + _LEASE_US}
            for chunk in chunks([row.seq for row in rows]):
                connection.execute(update(s.projection_outbox).where(_O.seq.in_(chunk)).values(**lease))
        return Claim(user_id, tuple((row.seq, row.entry_id) for row in rows))

    def done(self, claim: Claim) -> bool:
        """Take claimed rows away; False if somebody else had taken one over."""
        removed = 0
        with self._store.writing(claim.user_id, relaxed=True) as connection:
            for chunk in chunks(claim.seqs):
                rows = and_(_O.user_id == claim.user_id, _O.owner == self._owner, _O.seq.in_(chunk))
                removed += connection.execute(delete(s.projection_outbox).where(rows)).rowcount
        return removed == len(claim.rows)

    def release(self, claim: Claim, error: str, *, failed: bool) -> None:
        """Give claimed rows back; ``failed`` ones have one more failure."""
        with self._store.writing(claim.user_id, relaxed=True) as connection:
            for chunk in chunks(claim.seqs):
                rows = and_(_O.user_id == claim.user_id, _O.owner == self._owner, _O.seq.in_(chunk))
                free: dict[str, Any] = {"owner": None, "lease_us": None, "error": reason(error)}
                if failed:
                    free["attempts"] = _O.attempts + 1
                connection.execute(update(s.projection_outbox).where(rows).values(**free))

    def unpark(self) -> int:
        """Give parked rows another try; returns how many."""
        with self._store.writing(None) as connection:
            parked = update(s.projection_outbox).where(_O.attempts >= TRIES)
            return int(connection.execute(parked.values(attempts=0)).rowcount)

    def reasons(self) -> list[str]:
        """Distinct reasons why rows could not be told to the index."""
        statement = select(_O.error).where(_O.error.is_not(None)).distinct().limit(5)
        with self._store.reading(None) as connection:
            return list(connection.execute(statement).scalars())

    # ------------------------------------------------------------------ reading for the index
    def projected(self, user_id: str, ids: Sequence[str]) -> list[Projected]:
        """What entries are now; those that are gone are missing."""
        found: list[Projected] = []
        with self._store.reading(user_id) as connection:
            for chunk in chunks(ids):
                of_entries = and_(_E.user_id == user_id, _E.id.in_(chunk))
                found += _projected(connection, of_entries, and_(_P.user_id == user_id, _P.entry_id.in_(chunk)))
        return found

    def projected_among(self, pairs: Sequence[tuple[str, str]]) -> list[Projected]:
        """What entries of everybody, given as (user, entry) pairs, are now; those that are gone are missing."""
        found: list[Projected] = []
        with self._store.reading(None) as connection:
            for chunk in chunks(pairs):
                of_entries, of_passages = (
                    dialect.among(connection, names, chunk)
                    for names in ((_E.user_id, _E.id), (_P.user_id, _P.entry_id))
                )
                found += _projected(connection, of_entries, of_passages)
        return found

    def revisions(self, after: tuple[str, str], limit: int) -> list[tuple[str, str, int]]:
        """(user, entry, revision) of the next entries of everybody, in order."""
        later = tuple_(_E.user_id, _E.id) > tuple_(*after)
        statement = select(_E.user_id, _E.id, _revision()).where(later).order_by(_E.user_id, _E.id).limit(limit)
        with self._store.reading(None) as connection:
            return [(user, entry, int(rev)) for user, entry, rev in connection.execute(statement)]

    def revisions_of(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Revisions of those of these (user, entry) pairs that are there."""
        found: dict[tuple[str, str], int] = {}
        with self._store.reading(None) as connection:
            for chunk in chunks(pairs):
                named = dialect.among(connection, (_E.user_id, _E.id), chunk)
                statement = select(_E.user_id, _E.id, _revision()).where(named)
                found.update(((user, entry), int(rev)) for user, entry, rev in connection.execute(statement))
        return found

    def count(self) -> int:
        """Entries of everybody."""
        with self._store.reading(None) as connection:
            return int(connection.execute(select(func.count()).select_from(s.entries)).scalar_one())


# What a point is made of.
_COLUMNS: tuple[Any, ...] = (
    _E.user_id, _E.id, _E.version, _E.session_id, _E.kind, _E.memory, _E.role, _E.speaker, _E.language, _E.timestamp,
    _E.timestamp_us, _E.importance, _E.event_start_us, _E.event_end_us, _E.valid_to_us, _E.expires_at_us, _E.by_words,
    _E.metadata,
)  # fmt: skip


def _projected(connection: Connection, of_entries: Any, of_passages: Any) -> list[Projected]:
    vectors: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
    encoded = select(_P.user_id, _P.entry_id, _P.vector).where(of_passages).order_by(_P.user_id, _P.entry_id, _P.n)
    for user, entry, vector in connection.execute(encoded):
        vectors.setdefault((user, entry), []).append(np.frombuffer(vector, "<f4"))
    rows = connection.execute(select(*_COLUMNS).where(of_entries)).all()
    return [Projected(row, np.array(vectors.get((row.user_id, row.id), ()), np.float32)) for row in rows]


def revision_of(row: Any, passages: int) -> int:
    """A number that differs when an entry has changed in a way that an index must know of."""
    return 2 * int(row.version) + (passages > 0)


def _revision() -> Any:
    encoded = select(_P.n).where(_P.user_id == _E.user_id, _P.entry_id == _E.id, _P.n == 0).exists()
    return (2 * _E.version + case((encoded, 1), else_=0)).label("revision")


def _leased(now: int) -> Any:
    """Rows that somebody is at. A lease that is longer than any was given before a clock went back."""
    return and_(_O.owner.is_not(None), _O.lease_us.between(now, now + _LEASE_US))


def _now() -> int:
    return time.time_ns() // 1000
