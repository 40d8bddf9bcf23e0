"""What waits is found without a look at everything that was ever said."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.backlog import SqlBacklog
from lightmem_integrations.stores.sql.loading import load
from lightmem_integrations.stores.sql.outbox import SqlOutbox
from lightmem_integrations.stores.sql.store import SqlStore

NOW = datetime.now(timezone.utc)
LONG_AGO = "2024-01-01T00:00:00+00:00"
USERS = 2_000
WAITING = {3: "buffered", 5: "queued", 7: "held", 9: "pending"}


def rows(n: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Everybody said something long ago and it was worked off, but for a few, of whom one thing waits each."""
    waits = WAITING.get(n, "")
    user = {"user_id": f"user {n}"}
    said = user | {"session_id": "s", "seq": 0}
    at = {"timestamp": LONG_AGO, "timestamp_us": 0, "session_time": LONG_AGO, "tokens": 9, "metadata": {}}
    counts = {"turns": 1, "total_tokens": 9, "compressed_tokens": 0, "metadata": {}}
    yield s.sessions, user | counts | {"session_id": "s", "created_at": LONG_AGO, "last_updated": LONG_AGO}
    state = "buffered" if waits == "buffered" else "extracted"
    yield s.turns, said | at | {"id": "t", "role": "user", "content": "Hi.", "content_hash": "h", "state": state}
    state = waits if waits in ("queued", "held") else "parked"
    cut = {"id": "g", "turn_ids": ["t"], "tokens": 9, "state": state, "since_us": 0, "attempts": 0}
    yield s.segments, said | cut
    for i in ("e", "f"):
        fact = {"id": i, "rev": 1, "kind": "fact", "memory": "Hi.", "summary": "", "language": "en", "version": 1}
        yield s.entries, said | at | fact | {"sources": ["t"]}
    pair = {"memory_id": "e", "candidate_id": "f", "similarity": 0.9, "created_at": LONG_AGO}
    yield s.update_queue, user | pair | {"status": "pending" if waits == "pending" else "done"}


@pytest.fixture
def store(request: pytest.FixtureRequest, path: Path | str) -> Iterator[SqlStore]:
    filled = SqlStore(path)
    by_table: dict[Any, list[dict[str, Any]]] = {}
    for n in range(USERS):
        for table, row in rows(n):
            by_table.setdefault(table, []).append(row)
    with filled.writing(None) as connection:
        for table, many in by_table.items():
            load(connection, table, list(many[0]), many)
    if request.config.getoption("database") == "postgresql":
        request.getfixturevalue("server").run("ANALYZE")
    yield filled
    filled.close()


def plan(store: SqlStore, ask: Callable[[], Any]) -> list[str]:
    """How the database answers a question, line by line."""
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM" in statement:
            asked.append((statement, parameters))

    event.listen(store._engine, "before_cursor_execute", note)
    ask()
    event.remove(store._engine, "before_cursor_execute", note)
    with store.reading(None) as connection:
        word = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        return [str(row[-1]) for one in asked for row in connection.exec_driver_sql(f"{word} {one[0]}", one[1])]


def whole_tables(lines: list[str]) -> list[str]:
    return [line for line in lines if re.search(r"Seq Scan on|SCAN (?!.* USING )(?!anon|held|first|\()", line)]


@pytest.mark.parametrize(
    ("ask", "answer", "indexes"),
    [
        (lambda b: b.queued(1, NOW, 10), [("user 5", "s")], ["segments_queued"]),
        (lambda b: b.full(9, 10), [("user 3", "s")], ["turns_buffered"]),
        (
            lambda b: b.silent(NOW - timedelta(days=1), 10),
            [("user 3", "s"), ("user 7", "s")],
            ["turns_buffered", "segments_held"],
        ),
        (lambda b: b.undecided(10), ["user 9"], ["updates_pending"]),
    ],
    ids=["queued", "full", "silent", "undecided"],
)
def test_what_waits_is_found_by_an_index(store: SqlStore, ask: Any, answer: list[Any], indexes: list[str]) -> None:
    backlog = SqlBacklog(store)
    assert sorted(ask(backlog)) == answer
    lines = plan(store, lambda: ask(backlog))
    assert [name for name in indexes if not any(name in line for line in lines)] == []
    assert whole_tables(lines) == []


def test_a_claim_sorts_nothing_and_looks_at_no_other_rows(store: SqlStore) -> None:
    outbox = SqlOutbox(store)
    outbox.enqueue([(f"user {n % 3}", str(n)) for n in range(USERS)])
    lines = plan(store, lambda: outbox.claim("user 1", 10))
    assert whole_tables(lines) == []
    assert not [line for line in lines if re.search(r"Sort|TEMP B-TREE", line)]
