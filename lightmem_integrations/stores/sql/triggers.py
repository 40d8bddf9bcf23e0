"""Triggers that write ``projection_outbox``, by database.

In SQLite they exist only while there is an index to tell. In PostgreSQL only the owner of the tables could
make them, and the engine need not be: there they are always, and look whether there is one. There they also
run once a statement and not once a row, but for updates, where a list of columns forbids it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# By trigger: the event, its table, and the rows of it that name an entry that is news.
_EVENTS = {
    "projection_new": ("INSERT", "entries", "id", ""),
    "projection_changed": ("UPDATE OF rev, valid_to_us", "entries", "id", ""),
    "projection_gone": ("DELETE", "entries", "id", ""),
    # An entry that comes with its vectors, in one write of the user, is news once.
    "projection_encoded": (
        "INSERT",
        "passages",
        "entry_id",
        "{row}.n = 0 AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.user_id = {row}.user_id "
        "AND e.id = {row}.entry_id AND e.rev = {row}.rev)",
    ),
}


def _told(select: str) -> str:
    return f"INSERT INTO projection_outbox (user_id, entry_id) {select}"


def _sqlite(name: str) -> Sequence[str]:
    event, table, entry, where = _EVENTS[name]
    row = "OLD" if event == "DELETE" else "NEW"
    when = f"WHEN {where.format(row=row)}" if where else ""
    told = _told(f"VALUES ({row}.user_id, {row}.{entry})")
    return (f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW {when} BEGIN {told}; END",)


def _postgresql(name: str) -> Sequence[str]:
    event, table, entry, where = _EVENTS[name]
    if event.startswith("UPDATE"):
        told, each = _told(f"VALUES (NEW.user_id, NEW.{entry})"), "FOR EACH ROW"
    else:
        told = _told(
            f"SELECT r.user_id, r.{entry} FROM changed r" + (f" WHERE {where.format(row='r')}" if where else "")
        )
        each = f"REFERENCING {'OLD' if event == 'DELETE' else 'NEW'} TABLE AS changed FOR EACH STATEMENT"
    return (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS "
        f"$$ BEGIN IF EXISTS (SELECT FROM meta WHERE key = 'projection') THEN {told}; END IF; RETURN NULL; END $$",
        f"DROP TRIGGER IF EXISTS {name} ON {table}",
        f"CREATE TRIGGER {name} AFTER {event} ON {table} {each} EXECUTE FUNCTION {name}()",
    )


CREATE: Mapping[str, Sequence[str]] = {
    "sqlite": [statement for name in _EVENTS for statement in _sqlite(name)],
    "postgresql": (),
}

DROP: Mapping[str, Sequence[str]] = {
    "sqlite": [f"DROP TRIGGER IF EXISTS {name}" for name in _EVENTS],
    "postgresql": (),
}

ALWAYS: Mapping[str, Sequence[str]] = {
    "sqlite": (),
    "postgresql": [statement for name in _EVENTS for statement in _postgresql(name)],
}
"""What a migration makes; doing it again changes nothing."""
