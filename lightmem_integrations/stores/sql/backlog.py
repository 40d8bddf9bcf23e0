"""What waits of everybody: whom a worker has to look at, and no more than that."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import and_, case, func, literal_column, or_, select, union
from sqlalchemy.orm import aliased

from lightmem_integrations.core.times import to_us
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.buffers import LEASE_MOST_US
from lightmem_integrations.stores.sql.store import SqlStore

Key = tuple[str, str]

_T, _S, _C, _O, _Q = s.turns.c, s.segments.c, s.sessions.c, s.index_outbox.c, s.update_queue.c

# As the partial indexes have it: a parameter would hide from the database that one of them serves.
_BUFFERED = _T.state == literal_column("'buffered'")
_QUEUED, _HELD = _S.state == literal_column("'queued'"), _S.state == literal_column("'held'")
_PENDING = _Q.status == literal_column("'pending'")


class SqlBacklog:
    """The work that waits in one database. A ``limit`` is the most that one answer names."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    def unencoded(self, limit: int) -> list[str]:
        """Users with entries that wait for the encoder, those that were tried least first."""
        statement = select(_O.user_id).group_by(_O.user_id).order_by(func.min(_O.attempts)).limit(limit)
        with self._store.reading(None) as connection:
            return list(connection.execute(statement).scalars())

    def queued(self, at_least: int, before: datetime, limit: int) -> list[Key]:
        """Users whose queue nobody is at, each with one of its sessions, the longest waiting first.

        Args:
            at_least: tokens in the queue,
            before: or else the time since which something of it waits.
            limit: users.
        """
        now = time.time_ns() // 1000
        taken = func.sum(case((_S.lease_us.between(now, now + LEASE_MOST_US), 1), else_=0))
        since = func.min(_S.since_us)
        is_due = or_(func.sum(_S.tokens) >= at_least, since <= to_us(before))
        statement = select(_S.user_id, func.min(_S.session_id)).where(_QUEUED).group_by(_S.user_id)
        return self._keys(statement.having(and_(taken == 0, is_due)).order_by(since).limit(limit))

    def full(self, tokens: int, limit: int) -> list[Key]:
        """Sessions with so many tokens in their sensory buffers."""
        of_session = select(_T.user_id, _T.session_id).where(_BUFFERED)
        statement = of_session.group_by(_T.user_id, _T.session_id).having(func.sum(_T.tokens) >= tokens)
        return self._keys(statement.limit(limit))

    def silent(self, before: datetime, limit: int) -> list[Key]:
        """Sessions with something in their buffers that were not written to since a time."""
        said, cut = select(_T.user_id, _T.session_id).where(_BUFFERED), select(_S.user_id, _S.session_id).where(_HELD)
        held = union(said, cut).subquery()
        of_session = and_(held.c.user_id == _C.user_id, held.c.session_id == _C.session_id)
        since = before.astimezone(timezone.utc).isoformat()
        statement = select(_C.user_id, _C.session_id).join_from(held, s.sessions, of_session)
        return self._keys(statement.where(_C.last_updated < since).limit(limit))

    def undecided(self, limit: int) -> list[str]:
        """Users with pairs of facts in force that are to be compared."""
        earlier, later = aliased(s.entries).c, aliased(s.entries).c
        statement = (
            select(_Q.user_id)
            .join_from(s.update_queue, earlier.id.table, _is(earlier, _Q.memory_id))
            .join(later.id.table, _is(later, _Q.candidate_id))
            .where(_PENDING, earlier.superseded_by.is_(None), later.superseded_by.is_(None))
        )
        with self._store.reading(None) as connection:
            return list(connection.execute(statement.distinct().limit(limit)).scalars())

    def _keys(self, statement: Any) -> list[Key]:
        with self._store.reading(None) as connection:
            return [(user, session) for user, session in connection.execute(statement)]


def _is(entry: Any, id: Any) -> Any:
    return and_(entry.user_id == _Q.user_id, entry.id == id)
