"""Triggers that write ``projection_outbox``, by database.

In SQLite they exist only while there is an index to tell. In PostgreSQL only the owner of the tables could
make them, and the engine need not be: there they are always, and look whether there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_TOLD = "INSERT INTO projection_outbox (user_id, entry_id) VALUES"

# An entry is news when it is new, changed, gone, or has got its vectors.
_EVENTS = {
    "projection_new": ("INSERT ON entries", "NEW.user_id, NEW.id", ""),
    "projection_changed": ("UPDATE OF rev, valid_to_us ON entries", "NEW.user_id, NEW.id", ""),
    "projection_gone": ("DELETE ON entries", "OLD.user_id, OLD.id", ""),
    "projection_encoded": ("INSERT ON passages", "NEW.user_id, NEW.entry_id", "WHEN (NEW.n = 0)"),
}


def _sqlite(name: str) -> Sequence[str]:
    event, values, when = _EVENTS[name]
    return (f"CREATE TRIGGER {name} AFTER {event} FOR EACH ROW {when} BEGIN {_TOLD} ({values}); END",)


def _postgresql(name: str) -> Sequence[str]:
    event, values, when = _EVENTS[name]
    return (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS "
        f"$$ BEGIN IF EXISTS (SELECT FROM meta WHERE key = 'projection') THEN {_TOLD} ({values}); END IF; "
        "RETURN NULL; END $$",
        f"DROP TRIGGER IF EXISTS {name} ON {event.split()[-1]}",
        f"CREATE TRIGGER {name} AFTER {event} FOR EACH ROW {when} EXECUTE FUNCTION {name}()",
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
