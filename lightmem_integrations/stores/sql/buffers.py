"""Sensory buffer, short-term buffer and queue of the extractor, in the truth.

The sensory buffer is the turns in state ``buffered``; the short-term buffer and the queue are the rows
of ``segments``. Nothing is kept in the process, so that several may feed one session: what two of them
work out at the same time, the first one commits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BindParameter,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from lightmem_integrations.core.ports import ClosedSegment, NewEntry, QueuedSegment, TurnNote, Waiting
from lightmem_integrations.core.times import from_us, to_us
from lightmem_integrations.core.types import Turn
from lightmem_integrations.stores.sql import dialect
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.store import SqlStore, chunks, entry_id, read_turn, reason

LEASE_MOST_US = 60_000_000
"""No lease is given for longer: what one leaves more of was given before a clock went back, and is anybody's."""

_T, _E, _S, _P = s.turns.c, s.entries.c, s.segments.c, s.passages.c


class SqlBuffers:
    """The buffers of one database. Every method but ``waiting`` and ``renew`` is about one user."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    # ------------------------------------------------------------------ reading turns
    def buffered(self, user_id: str, session_id: str, limit: int) -> list[Turn]:
        """The first turns of the session's sensory buffer, in order."""
        with self._store.reading(user_id) as connection:
            rows = connection.execute(_BUFFERED, {"user": user_id, "session": session_id, "most": limit})
            return [read_turn(row) for row in rows]

    def before(self, user_id: str, session_id: str, seq: int, n: int) -> list[Turn]:
        """The ``n`` turns of the session before a position, in order."""
        with self._store.reading(user_id) as connection:
            where = {"user": user_id, "session": session_id, "head": seq, "most": n}
            rows = connection.execute(_BEFORE, where).all()
        return [read_turn(row) for row in reversed(rows)]

    def turns(self, user_id: str, ids: Sequence[str]) -> dict[str, Turn]:
        """This user's turns among the ids."""
        found: dict[str, Turn] = {}
        with self._store.reading(user_id) as connection:
            for chunk in chunks(ids):
                rows = connection.execute(_TURNS, {"user": user_id, "ids": chunk})
                found.update((row.id, read_turn(row)) for row in rows)
        return found

    def compressed(self, user_id: str, ids: Sequence[str]) -> dict[str, str]:
        """The compressed texts of turns, by turn id, where there are any."""
        of_entry = {entry_id(user_id, "turn", [i]): i for i in ids}
        with self._store.reading(user_id) as connection:
            rows = [
                row
                for chunk in chunks(list(of_entry))
                for row in connection.execute(_COMPRESSED, {"user": user_id, "ids": chunk})
            ]
        return {of_entry[row.id]: row.compressed for row in rows}

    def vectors(self, user_id: str, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """(dim,) float32 unit vectors of turns by turn id, of those that are encoded.

        A long turn has the direction of the sum of its passages.
        """
        of_entry = {entry_id(user_id, "turn", [i]): i for i in ids}
        sums: dict[str, NDArray[np.float32]] = {}
        with self._store.reading(user_id) as connection:
            for chunk in chunks(list(of_entry)):
                for row in connection.execute(_VECTORS, {"user": user_id, "ids": chunk}):
                    vector = np.frombuffer(row.vector, "<f4")
                    sums[row.entry_id] = sums[row.entry_id] + vector if row.entry_id in sums else vector
        return {of_entry[i]: v / max(float(np.linalg.norm(v)), 1e-12) for i, v in sums.items()}

    def waiting(self, user_id: str | None = None, session_id: str | None = None) -> list[Waiting]:
        """Sessions with something in their buffers, the longest waiting first."""
        found: dict[tuple[str, str], dict[str, int]] = {}
        since: dict[tuple[str, str], int] = {}
        turns = (
            select(
                _T.user_id, _T.session_id, func.count().label("n"), func.min(s.sessions.c.last_updated).label("since")
            )
            .join_from(
                s.turns,
                s.sessions,
                and_(_T.user_id == s.sessions.c.user_id, _T.session_id == s.sessions.c.session_id),
            )
            .where(_T.state == "buffered", *_of(_T, user_id, session_id))
            .group_by(_T.user_id, _T.session_id)
        )
        segments = (
            select(_S.user_id, _S.session_id, _S.state, func.count().label("n"), func.min(_S.since_us).label("since"))
            .where(*_of(_S, user_id, session_id))
            .group_by(_S.user_id, _S.session_id, _S.state)
        )
        with self._store.reading(user_id) as connection:
            for row in connection.execute(turns):
                found.setdefault((row.user_id, row.session_id), {})["turns"] = row.n
                since[row.user_id, row.session_id] = to_us(datetime.fromisoformat(row.since))
            for row in connection.execute(segments):
                key = (row.user_id, row.session_id)
                found.setdefault(key, {})[row.state] = row.n
                since[key] = min(since.get(key, row.since), row.since)
        rows = [
            Waiting(
                user_id=user,
                session_id=session,
                turns=counts.get("turns", 0),
                held=counts.get("held", 0),
                queued=counts.get("queued", 0),
                parked=counts.get("parked", 0),
                since=from_us(since[user, session]) or datetime.now(timezone.utc),
            )
            for (user, session), counts in found.items()
        ]
        return sorted(rows, key=lambda w: (w.since, w.user_id, w.session_id))

    def totals(self, user_id: str | None = None) -> dict[str, int]:
        """Turns in sensory buffers, and segments by state."""
        waiting = self.waiting(user_id)
        return {name: sum(getattr(w, name) for w in waiting) for name in ("turns", "held", "queued", "parked")}

    def compression(self, user_id: str | None = None) -> dict[str, int]:
        """Tokens of compressed turns ``before`` and ``after``, and turns that ``failed``."""
        before = select(func.sum(_T.tokens), func.sum(_T.compressed_tokens)).where(_T.compressed_tokens.is_not(None))
        sessions = select(s.sessions.c.metadata).where(*_of(s.sessions.c, user_id, None))
        with self._store.reading(user_id) as connection:
            tokens = connection.execute(before.where(*_of(_T, user_id, None))).one()
            failed = sum(m.get("not_compressed", 0) for m in connection.execute(sessions).scalars())
        return {"before": int(tokens[0] or 0), "after": int(tokens[1] or 0), "failed": failed}

    def reasons(self, user_id: str | None = None) -> list[str]:
        """Distinct reasons why segments could not be extracted."""
        statement = select(_S.error).where(_S.error.is_not(None), *_of(_S, user_id, None)).distinct().limit(5)
        with self._store.reading(user_id) as connection:
            return list(connection.execute(statement).scalars())

    def left_behind(self, user_id: str, session_id: str, before: datetime) -> list[str]:
        """Other sessions of the user with something to flush.

        Those that the given session was begun after, and those that were not written to since
        ``before``; the one written to least lately first.
        """
        c = s.sessions.c
        begun = select(c.created_at).where(c.user_id == user_id, c.session_id == session_id).scalar_subquery()
        turns = select(_T.session_id).where(_T.user_id == user_id, _T.state == "buffered")
        held = select(_S.session_id).where(_S.user_id == user_id, _S.state == "held")
        statement = (
            select(c.session_id)
            .where(c.user_id == user_id, c.session_id != session_id, c.session_id.in_(turns.union(held)))
            .where(or_(c.last_updated < begun, c.last_updated < before.astimezone(timezone.utc).isoformat()))
            .order_by(c.last_updated, c.session_id)
        )
        with self._store.reading(user_id) as connection:
            return list(connection.execute(statement).scalars())

    # ------------------------------------------------------------------ filling
    def hold(self, user_id: str, session_id: str, segments: Sequence[ClosedSegment]) -> bool:
        """Move turns from the sensory into the short-term buffer, in one transaction.

        Returns:
            False, and nothing was done, if one of them was moved or forgotten meanwhile.
        """
        ids = [i for segment in segments for i in segment.turn_ids]
        with self._store.writing(user_id, relaxed=True) as connection:
            seqs: dict[str, int] = {}
            for chunk in chunks(ids):
                where = {"user": user_id, "session": session_id, "ids": chunk}
                seqs.update((row.id, row.seq) for row in connection.execute(_PLACES, where))
            if len(seqs) != len(ids):
                return False
            now = time.time_ns() // 1000
            rows, turns, entries = [], [], []
            for segment in segments:
                made = entry_id(user_id, "segment", segment.turn_ids)
                rows.append(
                    {
                        "user_id": user_id,
                        "id": made,
                        "session_id": session_id,
                        "seq": seqs[segment.turn_ids[0]],
                        "turn_ids": list(segment.turn_ids),
                        "tokens": segment.tokens,
                        "state": "held",
                        "since_us": now,
                        "attempts": 0,
                    }
                )
                for turn, compression in zip(segment.turn_ids, segment.compressions, strict=True):
                    kept = None if compression is None else compression.tokens_after
                    text = None if compression is None else compression.text
                    turns.append({"of_user": user_id, "of_turn": turn, "kept": kept})
                    of_entry = entry_id(user_id, "turn", [turn])
                    entries.append({"of_user": user_id, "of_entry": of_entry, "text": text, "topic": made})
            connection.execute(insert(s.segments), rows)
            connection.execute(_SEGMENTED, turns)
            connection.execute(_ANNOTATED, entries)
            self._count_compressed(connection, user_id, session_id, segments)
            return True

    def _count_compressed(
        self, connection: Connection, user_id: str, session_id: str, segments: Sequence[ClosedSegment]
    ) -> None:
        made = [c for segment in segments for c in segment.compressions if c is not None]
        if not made:
            return
        c = s.sessions.c
        of_session = and_(c.user_id == user_id, c.session_id == session_id)
        values: dict[str, Any] = {"compressed_tokens": c.compressed_tokens + sum(m.tokens_after for m in made)}
        failed = sum(m.failed for m in made)
        if failed:
            known = connection.execute(select(c.metadata).where(of_session)).scalar_one()
            values["metadata"] = {**known, "not_compressed": known.get("not_compressed", 0) + failed}
        connection.execute(update(s.sessions).where(of_session).values(**values))

    def enqueue(self, user_id: str, session_id: str, at_least: int) -> int:
        """Queue the session's held segments if they have so many tokens together; returns how many."""
        where = {"user": user_id, "session": session_id}
        with self._store.reading(user_id) as connection:
            count, tokens = connection.execute(_HELD, where).one()
        if not count or tokens < at_least:
            return 0
        with self._store.writing(user_id, relaxed=True) as connection:
            return int(connection.execute(_ENQUEUED, where).rowcount)

    # ------------------------------------------------------------------ emptying
    def claim(
        self, user_id: str, owner: str, lease_seconds: float, limits: tuple[int, int], at_least: int
    ) -> list[QueuedSegment]:
        """Take the user's first queued segments, of any session, in order.

        Args:
            user_id: whose; their segments are worked on by one owner at a time.
            owner: who takes them.
            lease_seconds: for how long, unless ``renew`` is called; after that, anybody may.
            limits: segments at most, and tokens after which no further one is taken.
            at_least: take none unless the user's queue has so many tokens.

        Returns:
            none when not enough is queued, or somebody else has some of them.
        """
        now = time.time_ns() // 1000
        queued = and_(_S.user_id == user_id, _S.state == "queued")
        with self._store.writing(user_id, relaxed=True) as connection:
            free = select(s.segments).where(queued).order_by(_S.session_id, _S.seq).with_for_update(skip_locked=True)
            rows = _longest_waiting_first(connection.execute(free).all())
            there = connection.execute(select(func.count()).select_from(s.segments).where(queued)).scalar_one()
            if len(rows) < there or sum(row.tokens for row in rows) < at_least:
                return []
            if any(row.owner not in (None, owner) and now < (row.lease_us or 0) <= now + LEASE_MOST_US for row in rows):
                return []
            taken: list[QueuedSegment] = []
            for row in rows:
                full = len(taken) == limits[0] or sum(t.tokens for t in taken) >= limits[1]
                if full or (taken and (row.attempts or taken[-1].attempts)):  # what failed is tried alone
                    break
                taken.append(QueuedSegment(row.id, row.seq, tuple(row.turn_ids), row.tokens, row.attempts))
            lease = now + int(lease_seconds * 1e6)
            for chunk in chunks([t.id for t in taken]):
                mine = and_(_S.user_id == user_id, _S.id.in_(chunk))
                connection.execute(update(s.segments).where(mine).values(owner=owner, lease_us=lease))
            return taken

    def renew(self, owner: str, lease_seconds: float) -> None:
        """Keep what was claimed for another while."""
        lease = time.time_ns() // 1000 + int(lease_seconds * 1e6)
        # Of several users, so in nobody's turn: what somebody else is at needs no longer lease.
        owned = select(_S.user_id, _S.id).where(_S.owner == owner).with_for_update(skip_locked=True)
        with self._store.writing(None, relaxed=True) as connection:
            connection.execute(update(s.segments).where(tuple_(_S.user_id, _S.id).in_(owned)).values(lease_us=lease))

    def finish(
        self,
        user_id: str,
        owner: str,
        ids: Sequence[str],
        entries: Sequence[NewEntry],
        notes: Mapping[str, TurnNote],
        actor: str,
    ) -> list[str] | None:
        """Store what was made of claimed segments and take them off the queue, in one transaction.

        Args:
            user_id: whose.
            owner: who claimed them.
            ids: the segments.
            entries: what was made of them.
            notes: what was found out about their turns, by turn id; every turn has one.
            actor: what did it, for the history.

        Returns:
            ids of the new entries; None, and nothing was done, when the claim was lost: the lease ran
            out and somebody else took over, or a turn was forgotten.
        """
        with self._store.writing(user_id) as connection:
            found: list[str] = []
            for chunk in chunks(ids):
                where = {"user": user_id, "taker": owner, "ids": chunk}
                found += connection.execute(_OWNED, where).scalars()
            if len(found) != len(set(ids)):
                return None
            rev = self._store.next_version(connection, user_id)
            made = self._store.insert_entries(connection, user_id, entries, rev, actor)
            annotated = []
            for turn, note in notes.items():
                start, end = note.event_time or (None, None)
                annotated.append(
                    {
                        "of_user": user_id,
                        "of_entry": entry_id(user_id, "turn", [turn]),
                        "new_rev": rev,
                        "starts": None if start is None else to_us(start),
                        "ends": None if end is None else to_us(end),
                    }
                )
            if annotated:
                connection.execute(_EXTRACTED, [{"of_user": user_id, "of_turn": turn} for turn in notes])
                connection.execute(_NOTED, annotated)
            for chunk in chunks(ids):
                connection.execute(_DONE, {"user": user_id, "ids": chunk})
            return made

    def fail(self, user_id: str, owner: str, ids: Sequence[str], error: str, *, tries: int) -> None:
        """Give claimed segments back, with the reason.

        Args:
            user_id: whose.
            owner: who claimed them.
            ids: the segments.
            error: why they failed.
            tries: after so many failures they are parked; 0 does not count this one.
        """
        with self._store.writing(user_id, relaxed=True) as connection:
            for chunk in chunks(ids):
                mine = and_(_S.user_id == user_id, _S.owner == owner, _S.id.in_(chunk))
                values: dict[str, Any] = {"owner": None, "lease_us": None, "error": reason(error)}
                if tries:
                    values["attempts"] = _S.attempts + 1
                connection.execute(update(s.segments).where(mine).values(**values))
                if tries:
                    worn = and_(_S.user_id == user_id, _S.id.in_(chunk), _S.attempts >= tries)
                    connection.execute(update(s.segments).where(worn).values(state="parked"))

    def unpark(self, user_id: str | None = None) -> int:
        """Queue parked segments again, with their failures forgiven; returns how many."""
        where = [_S.state == "parked", *_of(_S, user_id, None)]
        with self._store.writing(user_id, relaxed=True) as connection:
            freed = update(s.segments).where(*where).values(state="queued", attempts=0)
            return int(connection.execute(freed).rowcount)

    # ------------------------------------------------------------------ the quota of language models
    def used(self, day: str) -> int:
        """Tokens that language models charged on a UTC date."""
        with self._store.reading(None) as connection:
            found = connection.execute(select(s.llm_usage.c.tokens).where(s.llm_usage.c.day == day)).scalar()
        return int(found or 0)

    def add(self, day: str, tokens: int) -> int:
        """Add to a day, whichever process does it; returns its new total."""
        with self._store.writing(None, relaxed=True) as connection:
            statement = dialect.upsert(connection, s.llm_usage).values(day=day, tokens=tokens)
            statement = statement.on_conflict_do_update(
                index_elements=["day"], set_={"tokens": s.llm_usage.c.tokens + tokens}
            )
            return int(connection.execute(statement.returning(s.llm_usage.c.tokens)).scalar_one())


# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it.
_USER: BindParameter[str] = bindparam("user")
_SESSION: BindParameter[str] = bindparam("session")
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_OF_SESSION = select(s.turns).where(_T.user_id == _USER, _T.session_id == _SESSION).limit(bindparam("most"))
_BUFFERED = _OF_SESSION.where(_T.state == "buffered").order_by(_T.seq)
_BEFORE = _OF_SESSION.where(_T.seq < bindparam("head")).order_by(_T.seq.desc())
_TURNS = select(s.turns).where(_T.user_id == _USER, _T.id.in_(_IDS))
_PLACES = select(_T.id, _T.seq).where(
    _T.user_id == _USER, _T.session_id == _SESSION, _T.id.in_(_IDS), _T.state == "buffered"
)
_COMPRESSED = select(_E.id, _E.compressed).where(_E.user_id == _USER, _E.compressed.is_not(None), _E.id.in_(_IDS))
_VECTORS = select(_P.entry_id, _P.vector).where(_P.user_id == _USER, _P.entry_id.in_(_IDS)).order_by(_P.entry_id, _P.n)
_IS_HELD = and_(_S.user_id == _USER, _S.session_id == _SESSION, _S.state == "held")
_HELD = select(func.count(), func.coalesce(func.sum(_S.tokens), 0)).where(_IS_HELD)
_ENQUEUED = update(s.segments).where(_IS_HELD).values(state="queued")
_AMONG = and_(_S.user_id == _USER, _S.id.in_(_IDS))
_OWNED = select(_S.id).where(_AMONG, _S.owner == bindparam("taker"), _S.state == "queued")
_DONE = delete(s.segments).where(_AMONG)
_SEGMENTED = (
    update(s.turns)
    .where(_T.user_id == bindparam("of_user"), _T.id == bindparam("of_turn"))
    .values(state="segmented", compressed_tokens=bindparam("kept"))
)
_EXTRACTED = (
    update(s.turns).where(_T.user_id == bindparam("of_user"), _T.id == bindparam("of_turn")).values(state="extracted")
)
_ANNOTATED = (
    update(s.entries)
    .where(_E.user_id == bindparam("of_user"), _E.id == bindparam("of_entry"))
    .values(compressed=bindparam("text"), topic_id=bindparam("topic"))
)
_NOTED = (
    update(s.entries)
    .where(_E.user_id == bindparam("of_user"), _E.id == bindparam("of_entry"))
    .values(
        rev=bindparam("new_rev"),
        event_start_us=bindparam("starts"),
        event_end_us=bindparam("ends"),
    )
)


def _longest_waiting_first(rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Segments, given in the order of their sessions, which is kept though a clock went back meanwhile."""
    since: dict[str, int] = {}
    placed: list[tuple[int, Row[Any]]] = []
    for row in rows:
        since[row.session_id] = max(row.since_us, since.get(row.session_id, row.since_us))
        placed.append((since[row.session_id], row))
    return [row for _, row in sorted(placed, key=lambda place: place[0])]


def _of(columns: Any, user_id: str | None, session_id: str | None) -> list[Any]:
    out = [] if user_id is None else [columns.user_id == user_id]
    return out if session_id is None else [*out, columns.session_id == session_id]
