"""What later facts make of earlier ones, in the truth: update queue, decisions, undo, and sweeping.

A decision is one transaction, and is done only if the entries that it rests on are as they were when it
was made. An entry that is replaced keeps its row; the journal has what it was before.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, and_, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.sql.elements import ColumnElement

from lightmem_integrations.core.consolidate import Holding, Outcome, Pair, StoredFact
from lightmem_integrations.core.ports import NewEntry
from lightmem_integrations.core.times import to_us
from lightmem_integrations.core.types import MemoryEntry, Scope
from lightmem_integrations.errors import UsageError
from lightmem_integrations.stores.sql import dialect
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.store import SqlStore, chunks, entry_id, entry_row, read_entry

_E, _P, _Q, _J = s.entries.c, s.passages.c, s.update_queue.c, s.journal.c


class SqlConsolidation:
    """Consolidation over one database. Every method but ``users`` is about one user."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    # ------------------------------------------------------------------ reading
    def facts(
        self,
        user_id: str,
        session_id: str | None = None,
        *,
        ids: Sequence[str] | None = None,
        vectors: bool = False,
        history: bool = False,
    ) -> list[StoredFact]:
        """Facts of a user that have not expired, oldest first.

        Args:
            user_id: whose.
            session_id: only of this session.
            ids: only these.
            vectors: with their embeddings, where they are encoded.
            history: also those that were replaced.
        """
        where = [_E.user_id == user_id, _E.kind == "fact", _lasting(_E)]
        if session_id is not None:
            where.append(_E.session_id == session_id)
        if not history:
            where.append(_E.superseded_by.is_(None))
        statement = select(s.entries).where(*where)
        with self._store.reading(user_id) as connection:
            parts = [statement] if ids is None else [statement.where(_E.id.in_(chunk)) for chunk in chunks(ids)]
            rows = sorted((row for part in parts for row in connection.execute(part)), key=_place)
            known = self._vectors(connection, user_id) if vectors else {}
        return [StoredFact(replace(read_entry(r), embedding=known.get(r.id)), r.seq, bool(r.by_words)) for r in rows]

    def _vectors(self, connection: Connection, user_id: str) -> dict[str, NDArray[np.float32]]:
        """(dim,) unit vectors of facts in force; a long one has the direction of the sum of its passages."""
        of_fact = and_(_P.user_id == _E.user_id, _P.entry_id == _E.id)
        statement = (
            select(_P.entry_id, _P.vector)
            .join_from(s.passages, s.entries, of_fact)
            .where(_P.user_id == user_id, _E.kind == "fact", _E.superseded_by.is_(None))
        )
        sums: dict[str, NDArray[np.float32]] = {}
        for row in connection.execute(statement.order_by(_P.entry_id, _P.n)):
            vector = np.frombuffer(row.vector, "<f4")
            sums[row.entry_id] = sums[row.entry_id] + vector if row.entry_id in sums else vector
        return {i: vector / max(float(np.linalg.norm(vector)), 1e-12) for i, vector in sums.items()}

    def summaries(self, user_id: str) -> list[MemoryEntry]:
        """Summaries across events that are in force."""
        where = and_(_E.user_id == user_id, _E.kind == "summary", _E.superseded_by.is_(None))
        with self._store.reading(user_id) as connection:
            return [read_entry(row) for row in connection.execute(select(s.entries).where(where, _lasting(_E)))]

    # ------------------------------------------------------------------ the update queue
    def enqueue(self, user_id: str, pairs: Sequence[Pair]) -> None:
        """Put pairs into the queue that were never there; nothing is written when there are none."""
        known = select(_Q.memory_id, _Q.candidate_id).where(_Q.user_id == user_id)
        with self._store.reading(user_id) as connection:
            seen = {tuple(row) for row in connection.execute(known)}
        new = {(p.earlier, p.later): p for p in reversed(pairs) if (p.earlier, p.later) not in seen}
        if not new:
            return
        now = _now()
        with self._store.writing(user_id, relaxed=True) as connection:
            there = self._versions(connection, user_id, [i for pair in new for i in pair])
            rows = [
                {
                    "user_id": user_id,
                    "memory_id": p.earlier,
                    "candidate_id": p.later,
                    "similarity": p.similarity,
                    "status": "pending",
                    "created_at": now,
                }
                for p in new.values()
                if p.earlier in there and p.later in there  # not forgotten meanwhile
            ]
            if rows:
                connection.execute(dialect.upsert(connection, s.update_queue).on_conflict_do_nothing(), rows)

    def waiting(self, user_id: str, earlier: str | None = None) -> dict[str, list[str]]:
        """Pairs of facts in force that are to be decided.

        A pair of which one was replaced waits unseen until that is undone.

        Args:
            user_id: whose.
            earlier: only of this fact.

        Returns:
            for each earlier fact, the oldest first, the later ones, the nearest first.
        """
        a, b = s.entries.alias("earlier"), s.entries.alias("later")
        statement = (
            select(_Q.memory_id, _Q.candidate_id)
            .join_from(s.update_queue, a, and_(a.c.user_id == _Q.user_id, a.c.id == _Q.memory_id))
            .join(b, and_(b.c.user_id == _Q.user_id, b.c.id == _Q.candidate_id))
            .where(_Q.user_id == user_id, _Q.status == "pending")
            .where(a.c.superseded_by.is_(None), b.c.superseded_by.is_(None), _lasting(a.c), _lasting(b.c))
            .order_by(a.c.timestamp_us, a.c.seq, a.c.id, _Q.similarity.desc(), b.c.timestamp_us, b.c.seq, b.c.id)
        )
        if earlier is not None:
            statement = statement.where(_Q.memory_id == earlier)
        found: dict[str, list[str]] = {}
        with self._store.reading(user_id) as connection:
            for row in connection.execute(statement):
                found.setdefault(row.memory_id, []).append(row.candidate_id)
        return found

    def _versions(self, connection: Connection, user_id: str, ids: Iterable[str]) -> dict[str, int]:
        """Versions of the entries that are there, which nobody changes before this transaction ends."""
        statement = select(_E.id, _E.version).where(_E.user_id == user_id).order_by(_E.id).with_for_update()
        found: dict[str, int] = {}
        for chunk in chunks(sorted(set(ids))):
            found.update((row.id, row.version) for row in connection.execute(statement.where(_E.id.in_(chunk))))
        return found

    # ------------------------------------------------------------------ decisions
    def commit(self, user_id: str, outcome: Outcome, actor: str) -> bool:
        """Do what was decided, in one transaction.

        Args:
            user_id: whose.
            outcome: the decision.
            actor: what made it, for the history.

        Returns:
            False, and nothing was done, when an entry has another version than was seen or is gone, a pair
            was settled by somebody else, or the new entry is there already.
        """
        with self._store.writing(user_id) as connection:
            if self._versions(connection, user_id, outcome.seen) != outcome.seen:
                return False
            pairs = and_(_Q.user_id == user_id, _PAIR.in_(outcome.settles), _Q.status == "pending")
            undecided = select(func.count()).select_from(s.update_queue).where(pairs)
            if connection.execute(undecided).scalar_one() != len(set(outcome.settles)):
                return False
            if outcome.by is not None and not self._replace(connection, user_id, outcome, outcome.by, actor):
                return False
            connection.execute(update(s.update_queue).where(pairs).values(status="done"))
            return True

    def _replace(self, connection: Connection, user_id: str, outcome: Outcome, by: str | NewEntry, actor: str) -> bool:
        """Let an entry take the place of others; False, and nothing done, when a new one is there already."""
        new = by if isinstance(by, str) else entry_id(user_id, by.kind, outcome.basis)
        if not isinstance(by, str) and self._versions(connection, user_id, [new]):
            return False
        rev = self._store.next_version(connection, user_id)
        replaced = self._rows(connection, user_id, outcome.replaced)
        if not isinstance(by, str):
            since = min((r.valid_from_us for r in replaced if r.valid_from_us is not None), default=to_us(by.timestamp))
            self._insert(connection, user_id, new, by, {"rev": rev, "valid_from_us": since}, replaced, actor)
        said = connection.execute(select(_E.timestamp_us).where(_E.user_id == user_id, _E.id == new)).scalar_one()
        for row in replaced:
            self._change(connection, row, {"superseded_by": new, "valid_to_us": said}, rev, actor, undoable=True)
        return True

    def _rows(self, connection: Connection, user_id: str, ids: Sequence[str]) -> list[Row[Any]]:
        statement = select(s.entries).where(_E.user_id == user_id)
        rows = [row for chunk in chunks(ids) for row in connection.execute(statement.where(_E.id.in_(chunk)))]
        return sorted(rows, key=_place)

    def _insert(
        self,
        connection: Connection,
        user_id: str,
        new: str,
        entry: NewEntry,
        values: Mapping[str, Any],
        replaced: Sequence[Row[Any]],
        actor: str,
    ) -> None:
        """Store a new entry, which expires with the first of its turns."""
        expires = self._first_expiry(connection, user_id, entry.sources)
        values = {**values, **entry_row(user_id, new, entry), "expires_at_us": expires}
        connection.execute(insert(s.entries).values(values))
        if not entry.by_words:
            connection.execute(insert(s.index_outbox).values(user_id=user_id, entry_id=new, attempts=0))
        undo = {"holds_again": [row.id for row in replaced]}
        self._note(connection, user_id, new, actor, "insert", after=1, undo=undo)

    def _first_expiry(self, connection: Connection, user_id: str, turns: Sequence[str]) -> int | None:
        earliest = select(func.min(_E.expires_at_us)).where(_E.user_id == user_id)
        ids = chunks([entry_id(user_id, "turn", [turn]) for turn in turns])
        found = [connection.execute(earliest.where(_E.id.in_(chunk))).scalar() for chunk in ids]
        return min((us for us in found if us is not None), default=None)

    def _change(
        self, connection: Connection, row: Row[Any], values: Mapping[str, Any], rev: int, actor: str, *, undoable: bool
    ) -> None:
        """Set columns of an entry, and note what they were."""
        this = and_(_E.user_id == row.user_id, _E.id == row.id)
        connection.execute(update(s.entries).where(this).values(rev=rev, version=row.version + 1, **values))
        undo = {"undo": {name: getattr(row, name) for name in values}} if undoable else {}
        self._note(connection, row.user_id, row.id, actor, "update", before=row.version, after=row.version + 1, **undo)

    def _note(
        self, connection: Connection, user_id: str, entry: str, actor: str, operation: str, **values: Any
    ) -> None:
        row = {"user_id": user_id, "entry_id": entry, "at": _now(), "actor": actor, "operation": operation}
        connection.execute(insert(s.journal).values({**row, **values}))

    # ------------------------------------------------------------------ taking back
    def undo(self, user_id: str, entry_id: str, actor: str) -> list[str]:
        """Take back the last change of an entry, in one transaction.

        Pairs of entries that were parted by it are settled: nobody merges them again.

        Args:
            user_id: whose.
            entry_id: an entry that was replaced, or that took the place of others.
            actor: who does it, for the history.

        Returns:
            ids of the entries that hold again.

        Raises:
            UsageError: nothing to undo, or a later change stands in the way.
        """
        with self._store.writing(user_id) as connection:
            rev = self._store.next_version(connection, user_id)
            row = next(iter(self._rows(connection, user_id, [entry_id])), None)
            if row is None:
                raise UsageError("entry_id", "must be of an entry that this user has", entry_id)
            made = row.superseded_by or row.id
            if made == row.id or row.id in self._made_of(connection, user_id, made):
                restored = self._dissolve(connection, user_id, made, actor)
            else:
                restored = [row]
            if not restored:
                raise UsageError("entry_id", "must be of an entry with a change to undo", entry_id)
            for old in restored:
                self._change(connection, old, self._before(connection, old), rev, actor, undoable=False)
            self._part(connection, user_id, restored)
            return [old.id for old in restored]

    def _made_of(self, connection: Connection, user_id: str, entry: str) -> list[str]:
        """The entries that this one was made to take the place of; none when it was said."""
        where = and_(_J.user_id == user_id, _J.entry_id == entry, _J.operation == "insert")
        noted = connection.execute(select(_J.undo).where(where).order_by(_J.seq.desc()).limit(1)).scalar()
        return list((noted or {}).get("holds_again", ()))

    def _before(self, connection: Connection, row: Row[Any]) -> dict[str, Any]:
        """What an entry was before it was replaced, as far as that changed it."""
        where = and_(_J.user_id == row.user_id, _J.entry_id == row.id, _J.operation == "update")
        noted = connection.execute(select(_J.undo).where(where).order_by(_J.seq.desc()).limit(1)).scalar()
        return {name: (noted or {}).get(name) for name in ("superseded_by", "valid_to_us")}

    def _dissolve(self, connection: Connection, user_id: str, made: str, actor: str) -> list[Row[Any]]:
        """Remove an entry that was made of others; returns those whose place it had taken."""
        if not self._made_of(connection, user_id, made):
            return []
        row = self._rows(connection, user_id, [made])[0]
        if row.superseded_by is not None:
            rule = f"must wait: what was made of it was replaced since; undo the change of {made} first"
            raise UsageError("entry_id", rule, made)
        replaced = select(s.entries).where(_E.user_id == user_id, _E.superseded_by == made)
        restored = sorted(connection.execute(replaced).all(), key=_place)
        if restored:
            queued = or_(_Q.memory_id == made, _Q.candidate_id == made)
            connection.execute(delete(s.update_queue).where(_Q.user_id == user_id, queued))
            for table in (s.index_outbox, s.passages):
                connection.execute(delete(table).where(table.c.user_id == user_id, table.c.entry_id == made))
            connection.execute(delete(s.entries).where(_E.user_id == user_id, _E.id == made))
            epoch = uuid.uuid4().hex  # a row went: readers start afresh
            connection.execute(update(s.users).where(s.users.c.user_id == user_id).values(epoch=epoch))
            self._note(connection, user_id, made, actor, "delete", before=row.version)
        return restored

    def _part(self, connection: Connection, user_id: str, rows: Sequence[Row[Any]]) -> None:
        """Settle the pairs among entries, so that what was taken apart stays apart."""
        now = _now()
        pairs = [
            {
                "user_id": user_id,
                "memory_id": earlier.id,
                "candidate_id": later.id,
                "similarity": 0.0,  # nobody measured it
                "status": "done",
                "created_at": now,
            }
            for earlier, later in combinations(rows, 2)
            if earlier.kind == later.kind == "fact"
        ]
        if pairs:
            upsert = dialect.upsert(connection, s.update_queue)
            key = ["user_id", "memory_id", "candidate_id"]
            connection.execute(upsert.on_conflict_do_update(index_elements=key, set_={"status": "done"}), pairs)

    # ------------------------------------------------------------------ sweeping
    def users(self) -> list[str]:
        """Everybody who has a memory."""
        with self._store.reading(None) as connection:
            return list(connection.execute(select(s.users.c.user_id).order_by(s.users.c.user_id)).scalars())

    def expired(self, user_id: str, now: datetime) -> list[str]:
        """Entries whose time is up, the oldest first."""
        statement = select(_E.id).where(_E.user_id == user_id, _E.expires_at_us <= to_us(now))
        with self._store.reading(user_id) as connection:
            return list(connection.execute(statement.order_by(_E.timestamp_us, _E.id)).scalars())

    def holdings(self, user_id: str) -> list[Holding]:
        """All entries, as retention sees them."""
        columns = (_E.id, _E.kind, _E.timestamp, _E.importance, _E.superseded_by, _E.sources)
        with self._store.reading(user_id) as connection:
            return [
                Holding(r.id, r.kind, datetime.fromisoformat(r.timestamp), r.importance, r.superseded_by, r.sources)
                for r in connection.execute(select(*columns).where(_E.user_id == user_id))
            ]

    def remove(self, user_id: str, ids: Sequence[str]) -> dict[str, int]:
        """Remove entries, and with a turn all that was made of it; returns the rows, by table."""
        return self._store.forget(Scope(user_id), ids)


_PAIR = tuple_(_Q.memory_id, _Q.candidate_id)


def _lasting(entry: Any) -> ColumnElement[bool]:
    """It has not expired."""
    return or_(entry.expires_at_us.is_(None), entry.expires_at_us > to_us(datetime.now(timezone.utc)))


def _place(row: Row[Any]) -> tuple[int, int, str]:
    """The order in which things were said, for sorting."""
    return row.timestamp_us, row.seq, row.id


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
