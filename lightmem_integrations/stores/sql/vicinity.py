"""Entries with what was said around them: what is read of a memory that is too large to be read whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, get_type_hints

from sqlalchemy import Connection, Row, and_, or_, select

from lightmem_integrations.core.index import EntryRow, StoredPassage
from lightmem_integrations.stores.exact import stored_passage
from lightmem_integrations.stores.sql import dialect
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.store import SqlStore, entry_id

_E, _P = s.entries.c, s.passages.c

_PLACE = select(_E.id, _E.kind, _E.session_id, _E.seq, _E.sources)
_ENTRY = select(*(_E[name] for name in get_type_hints(EntryRow)))
_PASSAGE = select(_P.entry_id, _P.start, _P.end, _P.vector, _P.piece_ids, _P.pieces)

Rows = Sequence[Row[Any]]
Passages = list[tuple[str, list[StoredPassage]]]


def vicinity(
    store: SqlStore, user_id: str, ids: Iterable[str], reach: int, kinds: Sequence[str]
) -> tuple[Rows, Passages]:
    """Entries, the turns that they were made from, the turns around those, and what was made of them.

    Args:
        store: the truth.
        user_id: whose; what another user has is not there.
        ids: of entries of any kind.
        reach: turns before and after each turn, in the same session.
        kinds: of what was made of these turns; facts in words of their own come in any case.

    Returns:
        rows of entries, in the order of time; and their passages.
    """
    with store.reading(user_id) as connection:
        asked = _by_id(connection, _PLACE, user_id, ids)
        notes = [row for row in asked if row.kind != "turn"]
        sources = {entry_id(user_id, "turn", [turn]) for row in notes for turn in row.sources}
        asked = [*asked, *_by_id(connection, _PLACE, user_id, sources.difference(row.id for row in asked))]
        centres: dict[str, list[int]] = {}
        for row in asked:
            if row.kind == "turn":
                centres.setdefault(row.session_id, []).append(row.seq)
        found = [*_by_id(connection, _ENTRY, user_id, [row.id for row in notes])]
        found += _around(connection, user_id, centres, reach, kinds)
        rows = {row.id: row for row in found}
        passages = _passages(connection, user_id, list(rows))
    return sorted(rows.values(), key=attrgetter("timestamp_us", "session_id", "seq", "id")), passages


def entries(store: SqlStore, user_id: str, ids: Iterable[str]) -> Rows:
    """The user's entries among the ids."""
    with store.reading(user_id) as connection:
        return _by_id(connection, _ENTRY, user_id, ids)


def newest(store: SqlStore, user_id: str, limit: int) -> Rows:
    """The user's last turns, the oldest of them first."""
    last = _ENTRY.where(_E.user_id == user_id, _E.kind == "turn")
    with store.reading(user_id) as connection:
        rows = connection.execute(last.order_by(_E.timestamp_us.desc(), _E.id).limit(limit)).all()
    return rows[::-1]


def _by_id(connection: Connection, statement: Any, user_id: str, ids: Iterable[str]) -> Rows:
    wanted = [(i,) for i in ids]
    if not wanted:
        return []
    return connection.execute(statement.where(_E.user_id == user_id, dialect.among(connection, [_E.id], wanted))).all()


def _around(
    connection: Connection, user_id: str, centres: Mapping[str, Sequence[int]], reach: int, kinds: Sequence[str]
) -> Rows:
    wanted = or_(_E.kind.in_(["turn", *kinds]), and_(_E.kind == "fact", _E.by_words.is_(False)))
    places = {
        (session, seq)
        for session, seqs in centres.items()
        for centre in seqs
        for seq in range(centre - reach, centre + reach + 1)
    }
    near = dialect.among(connection, [_E.session_id, _E.seq], sorted(places))
    return connection.execute(_ENTRY.where(_E.user_id == user_id, wanted, near)).all()


def _passages(connection: Connection, user_id: str, ids: Sequence[str]) -> Passages:
    statement = _PASSAGE.where(_P.user_id == user_id, dialect.among(connection, [_P.entry_id], [(i,) for i in ids]))
    rows = connection.execute(statement.order_by(_P.entry_id, _P.n)).all()
    by_entry = groupby(rows, key=attrgetter("entry_id"))
    return [(i, [stored_passage(row) for row in group]) for i, group in by_entry]
