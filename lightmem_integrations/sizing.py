"""How much disk, memory and how many servers a number of users needs, and which of the figures rest on what.

Every figure says how it came about: ``measured`` on the made-up entries of ``lightmem bench scale`` or on
LoCoMo, ``computed`` from such figures, or ``assumed``, which yours should replace.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from lightmem_integrations.errors import UsageError

__all__ = ["Constants", "Figure", "Sizing", "database_bytes", "index_bytes", "size"]

How = Literal["given", "measured", "computed", "assumed"]


@dataclass(frozen=True, slots=True)
class Constants:
    """What the calculator multiplies with. Bytes, unless said otherwise.

    Attributes:
        chars_per_token, pieces_per_token: of a turn's text (WordPiece); a piece is a token vector that is kept.
        derived, derived_chars, notes_chars: segments and facts that rules make of a turn; characters of their
            texts and summaries; and of a turn's compressed text and what else is kept of it, per character of it.
        turn_row, entry_row, journal_row: on PostgreSQL, beside their text.
        passage_factor: a passage's row, and where its large values are kept, by the bytes of its values.
        indexes: of PostgreSQL, for a turn with its entry, passage and journal row.
        point_disk, point_memory: of Qdrant, for an entry, beside its vector: payload, words, graph and numbers.
        disk_room, memory_room: how much more to have, for writing anew, logs and peaks.
        node_memory, node_disk: of a Qdrant server; database_disk: of a PostgreSQL server.
        shard_entries: in one shard of Qdrant, at most.
        node_price: of a server of either kind, a month, in whatever money.
    """

    # LoCoMo (two dev conversations, 1,049 turns), with the default models and rules.
    chars_per_token: float = 4.2
    pieces_per_token: float = 0.44
    derived: float = 0.33
    derived_chars: float = 1.2
    notes_chars: float = 0.6
    # lightmem bench scale: 1,000,000 entries on PostgreSQL 15 and Qdrant 1.17.
    turn_row: int = 240
    entry_row: int = 240
    journal_row: int = 145
    passage_factor: float = 1.12
    indexes: int = 740
    point_disk: int = 900
    point_memory: int = 400
    # Assumptions.
    disk_room: float = 1.5
    memory_room: float = 1.5
    node_memory: int = 64 * 2**30
    node_disk: int = 2 * 10**12
    database_disk: int = 8 * 10**12
    shard_entries: int = 20_000_000
    node_price: float = 400.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the answer."""

    name: str
    value: float
    unit: str
    how: How


@dataclass(frozen=True, slots=True)
class Sizing:
    """The answer, in the order of the computation."""

    figures: tuple[Figure, ...]

    def __getitem__(self, name: str) -> float:
        return next(figure.value for figure in self.figures if figure.name == name)


def database_bytes(chars: float, pieces: float, *, dim: int, token_dim: int, constants: Constants) -> dict[str, float]:
    """Bytes on PostgreSQL for one turn with its entry and its vectors, by table; what is made of it comes on top.

    Args:
        chars: of the text.
        pieces: token vectors that are kept of it.
        dim: of a vector (float32).
        token_dim: of a token vector (int8, and 4 bytes that name the piece).
        constants: what to multiply with.
    """
    values = 4 * dim + pieces * (token_dim + 4)
    return {
        "turns": constants.turn_row + chars,
        "entries": constants.entry_row + chars,
        "journal": float(constants.journal_row),
        "passages": constants.passage_factor * values,
        "indexes": float(constants.indexes),
    }


def index_bytes(*, dim: int, constants: Constants) -> dict[str, float]:
    """Bytes in Qdrant for one entry with a vector: on disk (float16 and int8 beside it), and in memory (int8).

    In memory is what the server allocates; the files that it maps come on top, as far as there is room.
    """
    return {"disk": 3 * dim + constants.point_disk, "memory": dim + constants.point_memory}


def size(
    users: int,
    turns_per_day: float,
    *,
    tokens_per_turn: float = 40,
    days: int = 365,
    replicas: int = 2,
    dim: int = 384,
    token_dim: int = 64,
    constants: Constants | None = None,
) -> Sizing:
    """What so many users need after so many days.

    Args:
        users: who talk.
        turns_per_day: of each of them, both sides together.
        tokens_per_turn: on average (WordPiece).
        days: for which turns are kept.
        replicas: of the index; and of the database, which has a standby for each beyond the first.
        dim: length of a vector; that of all-MiniLM-L6-v2 unless given.
        token_dim: length of a token vector, likewise.
        constants: what to multiply with; None for those of this module.

    Raises:
        UsageError: a number that is not above 0.
    """
    for name, value in (
        *(("users", users), ("turns_per_day", turns_per_day), ("tokens_per_turn", tokens_per_turn)),
        *(("days", days), ("replicas", replicas), ("dim", dim)),
    ):
        if not 0 < value < 1e15:
            raise UsageError(name, "must be a number above 0", value)
    c = constants or Constants()
    out: list[Figure] = []

    def note(name: str, value: float, unit: str, how: How) -> float:
        out.append(Figure(name, value, unit, how))
        return value

    turns = note("turns", users * turns_per_day * days, "", "given")
    entries = note("entries", turns * (1 + c.derived), "", "computed")
    note("turns a second, on average", users * turns_per_day / 86_400, "1/s", "computed")

    chars = note("text of a turn", tokens_per_turn * c.chars_per_token, "bytes", "measured")
    pieces = note("token vectors of a turn", tokens_per_turn * c.pieces_per_token, "", "measured")
    tables = database_bytes(chars, pieces, dim=dim, token_dim=token_dim, constants=c)
    for name, value in tables.items():
        note(f"database: {name}, of a turn", value, "bytes", "measured")
    rows = c.derived * (c.entry_row + c.journal_row + c.indexes / 2)
    made = note(
        "database: what is made of a turn", rows + (c.derived_chars + c.notes_chars) * chars, "bytes", "computed"
    )
    a_turn = note("database: a turn in all", sum(tables.values()) + made, "bytes", "computed")
    disk = note("database: disk, with room", a_turn * turns * c.disk_room, "bytes", "computed")
    servers = note("database: servers that share the users", ceil(disk / c.database_disk), "", "assumed")
    note("database: servers, with standbys", servers * replicas, "", "assumed")

    # What rules make has no vector; its point is the rest of one.
    point = index_bytes(dim=dim, constants=c)
    without = index_bytes(dim=0, constants=c)
    of_turn = {name: point[name] + c.derived * without[name] for name in point}
    note("Qdrant: disk, of a turn and what is made of it", of_turn["disk"], "bytes", "computed")
    note("Qdrant: memory, of a turn and what is made of it", of_turn["memory"], "bytes", "computed")
    index_disk = note(
        "Qdrant: disk, all replicas, with room", of_turn["disk"] * turns * replicas * c.disk_room, "bytes", "computed"
    )
    index_memory = note(
        "Qdrant: memory, all replicas, with room",
        of_turn["memory"] * turns * replicas * c.memory_room,
        "bytes",
        "computed",
    )
    wanted = max(index_disk / c.node_disk, index_memory / c.node_memory)
    nodes = note("Qdrant: nodes", max(replicas, ceil(wanted)), "", "assumed")
    note("Qdrant: shards", max(4, ceil(nodes / replicas), ceil(entries / c.shard_entries)), "", "assumed")
    note("servers in all, a month", (nodes + servers * replicas) * c.node_price, "money", "assumed")
    return Sizing(tuple(out))
