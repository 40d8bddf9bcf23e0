"""Entries with what was said around them: what is read of a memory that is too large to be read whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select

from lightmem_integrations.core.index import StoredPassage
from lightmem_integrations.stores.exact import stored_passage
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.store import SqlStore, chunks, entry_id

_E, _P = s.entries.c, s.passages.c

Passages = list[tuple[str, list[StoredPassage]]]


def vicinity(
    store: SqlStore, user_id: str, ids: Iterable[str], reach: int, kinds: Sequence[str]
) -> tuple[Sequence[Row[Any]], Passages, dict[str, int]]:
    """Entries, the turns that they were made from, the turns around those, and what was made of them.

    Args:
        store: the truth.
        user_id: whose; what another user has is not there.
        ids: of entries of any kind.
        reach: turns before and after each turn, in the same session.
        kinds: of what was made of these turns; facts in words of their own come in any case.

    Returns:
        rows of entries; their passages; and for each id how many turns away the nearest asked one is,
        0 for what was asked for.
    """
    with store.reading(user_id) as connection:
        asked = _by_id(connection, user_id, ids)
        known = {row.id for row in asked}
        sources = [entry_id(user_id, "turn", [turn]) for row in asked if row.kind != "turn" for turn in row.sources]
        asked += _by_id(connection, user_id, [i for i in sources if i not in known])
        centres: dict[str, list[int]] = {}
        for row in asked:
            if row.kind == "turn":
                centres.setdefault(row.session_id, []).append(row.seq)
        rows = {row.id: row for row in asked}
        rows.update((row.id, row) for row in _between(connection, user_id, _spans(centres, reach), kinds))
        passages = _passages(connection, user_id, list(rows))
    distance = {i: _distance(row, centres) if row.kind == "turn" else 0 for i, row in rows.items()}
    ordered = sorted(rows.values(), key=lambda row: (row.timestamp_us, row.session_id, row.seq, row.id))
    return ordered, passages, distance


def entries(store: SqlStore, user_id: str, ids: Iterable[str]) -> Sequence[Row[Any]]:
    """The user's entries among the ids."""
    with store.reading(user_id) as connection:
        return _by_id(connection, user_id, ids)


def newest(store: SqlStore, user_id: str, limit: int) -> Sequence[Row[Any]]:
    """The user's last turns, the oldest of them first."""
    last = select(s.entries).where(_E.user_id == user_id, _E.kind == "turn")
    with store.reading(user_id) as connection:
        rows = connection.execute(last.order_by(_E.timestamp_us.desc(), _E.id).limit(limit)).all()
    return rows[::-1]


def _by_id(connection: Connection, user_id: str, ids: Iterable[str]) -> list[Row[Any]]:
    found: list[Row[Any]] = []
    for chunk in chunks(list(ids)):
        found += connection.execute(select(s.entries).where(_E.user_id == user_id, _E.id.in_(chunk)))
    return found


def _spans(centres: Mapping[str, Sequence[int]], reach: int) -> list[tuple[str, int, int]]:
    """(session, first, last) for runs of positions within reach of a centre."""
    out: list[tuple[str, int, int]] = []
    for session, seqs in centres.items():
        for seq in sorted(seqs):
            if out and out[-1][0] == session and seq - reach <= out[-1][2] + 1:
                out[-1] = (session, out[-1][1], seq + reach)
            else:
                out.append((session, seq - reach, seq + reach))
    return out


def _between(
    connection: Connection, user_id: str, spans: Sequence[tuple[str, int, int]], kinds: Sequence[str]
) -> Iterable[Row[Any]]:
    wanted = or_(_E.kind.in_(["turn", *kinds]), and_(_E.kind == "fact", _E.by_words.is_(False)))
    for chunk in chunks(spans):
        near = [and_(_E.session_id == session, _E.seq.between(first, last)) for session, first, last in chunk]
        yield from connection.execute(select(s.entries).where(_E.user_id == user_id, wanted, or_(*near)))


def _passages(connection: Connection, user_id: str, ids: Sequence[str]) -> Passages:
    out: Passages = []
    for chunk in chunks(ids):
        of_entries = select(s.passages).where(_P.user_id == user_id, _P.entry_id.in_(chunk))
        rows = connection.execute(of_entries.order_by(_P.entry_id, _P.n))
        out += [(i, [stored_passage(row) for row in group]) for i, group in groupby(rows, key=lambda row: row.entry_id)]
    return out


def _distance(row: Row[Any], centres: Mapping[str, Sequence[int]]) -> int:
    return min(abs(int(row.seq) - seq) for seq in centres[row.session_id])
