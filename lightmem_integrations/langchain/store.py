"""``LightMemStore``: LangGraph's key-value store over the same database and index as the conversations.

An item is a session of the engine, its versions are the turns of that session, and the last one holds: an
update is written before the version that it replaces is removed, so that a crash between the two loses
nothing. The text of the turn is what the item is found by; the value travels in its metadata.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import takewhile
from typing import Any
from urllib.parse import quote, unquote

from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    get_text_at_path,
)

from lightmem_integrations.core.types import Filter, MemoryEntry, Message, Scope
from lightmem_integrations.errors import UsageError
from lightmem_integrations.memory import LightMem

__all__ = ["LightMemStore", "from_label", "to_label"]

Namespace = tuple[str, ...]

_ALL = 2**31 - 1
# Keys of the metadata of an item's turn. Each label has its own, so that the engine can filter by a prefix.
_KEY, _VALUE, _CREATED, _INDEXED, _LABEL = (
    "store_key",
    "store_value",
    "store_created_at",
    "store_indexed",
    "store_label",
)

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda found, wanted: bool(found == wanted),
    "$ne": lambda found, wanted: bool(found != wanted),
    "$gt": lambda found, wanted: _number(found) > _number(wanted),
    "$gte": lambda found, wanted: _number(found) >= _number(wanted),
    "$lt": lambda found, wanted: _number(found) < _number(wanted),
    "$lte": lambda found, wanted: _number(found) <= _number(wanted),
}


class LightMemStore(BaseStore):
    """A LangGraph store in which what agents keep is found by meaning, and belongs to a user.

    Give it to ``create_agent(store=...)``, ``graph.compile(store=...)`` or langmem's tools. Items lie in
    the memory of an engine's user: ``search`` and ``context`` of that user find them beside what was said,
    ``forget`` removes them, ``export`` takes them along. Values are JSON of at most 64 KB.

    Search needs no ``index`` configuration. A filter is applied before ranking; without a query the item
    updated last comes first. A time to live, in minutes, counts from the last write: reads do not prolong it.

    Args:
        lightmem: the engine.
        user_id: whose memory a namespace is: one user for the whole store, or a function of the namespace
            that reads the user off its first labels, such as ``lambda namespace: from_label(namespace[1])``
            for ``("memories", user)``. With a function, a search or a listing whose prefix does not reach
            the user is refused, so that nobody reads across users.
        fields: paths of the values that items are found by, in LangGraph's syntax (``"text"``,
            ``"meta.title"``, ``"notes[*].text"``), unless ``put(index=...)`` names others; None for all.

    Raises:
        InvalidNamespaceError: a label is no string, is empty, or holds ``.`` or NUL; see ``to_label``.
        UsageError: a value that cannot be kept, or a namespace that names no user; nothing was written.

    Example:
        >>> from lightmem_integrations import LightMem, LightMemConfig
        >>> store = LightMemStore(LightMem(":memory:", LightMemConfig(embedder="none")), user_id="ana")
        >>> store.put(("memories",), "tea", {"content": "Ana drinks green tea."})
        >>> [item.key for item in store.search(("memories",), query="Which tea?")]
        ['tea']
    """

    supports_ttl = True

    def __init__(
        self,
        lightmem: LightMem,
        *,
        user_id: str | Callable[[Namespace], str],
        fields: Sequence[str] | None = None,
    ) -> None:
        if not callable(user_id):
            Scope(user_id)
        self._lightmem, self._user_id, self._fields = lightmem, user_id, fields
        self.ttl_config = TTLConfig(refresh_on_read=False)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations: reads see what held before the writes, and the last write to a key wins."""
        given = list(ops)
        for op in given:
            _check(op)
        puts = {(op.namespace, op.key): op for op in given if isinstance(op, PutOp)}
        writes = [(self._user(op.namespace), op, self._message(op)) for op in puts.values()]
        results = [self._read(op) for op in given]
        for user_id, op, message in writes:
            self._write(user_id, _session(op.namespace, op.key), message, op.ttl)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """``batch`` in a thread."""
        return await asyncio.to_thread(self.batch, list(ops))

    # ------------------------------------------------------------------ reading
    def _read(self, op: Op) -> Result:
        if isinstance(op, GetOp):
            entry = self._current(self._user(op.namespace), _session(op.namespace, op.key))
            return None if entry is None else Item(**_fields(entry))
        if isinstance(op, SearchOp):
            return self._search(op)
        return self._namespaces(op) if isinstance(op, ListNamespacesOp) else None

    def _current(self, user_id: str, session_id: str) -> MemoryEntry | None:
        newest = self._lightmem.list(user_id=user_id, session_id=session_id, limit=1, newest_first=True)
        return newest[0] if newest else None

    def _items(self, user_id: str, marks: Mapping[str, Any]) -> list[MemoryEntry]:
        """Items by their marks, the one updated last in front."""
        newest: dict[str, MemoryEntry] = {}
        for entry in self._lightmem.list(user_id=user_id, filter=_filter(marks), limit=_ALL, newest_first=True):
            if _KEY in entry.metadata:  # in conversations, tools speak as well
                newest.setdefault(entry.session_id, entry)
        return list(newest.values())

    def _search(self, op: SearchOp) -> list[SearchItem]:
        user_id, marks, end = self._user(op.namespace_prefix), _marks(op.namespace_prefix), op.offset + op.limit
        if not op.query or not op.query.strip():
            return [SearchItem(**_fields(e)) for e in self._matching(user_id, marks, op)[op.offset : end]]
        found = self._ranked(user_id, marks, op) if end > 0 else []
        if len(found) < end:  # the rest of the page is for what is not indexed, which has no score
            plain = self._matching(user_id, {**marks, _INDEXED: False}, op)
            found += [SearchItem(**_fields(entry)) for entry in plain]
        return found[op.offset : end]

    def _matching(self, user_id: str, marks: Mapping[str, Any], op: SearchOp) -> list[MemoryEntry]:
        """The same, of those that pass the filter of the operation."""
        return [entry for entry in self._items(user_id, marks) if _passes(entry.metadata[_VALUE], op.filter or {})]

    def _ranked(self, user_id: str, marks: Mapping[str, Any], op: SearchOp) -> list[SearchItem]:
        wanted = _filter({**marks, _INDEXED: True})
        if op.filter:
            wanted = replace(wanted, session_ids=[e.session_id for e in self._matching(user_id, marks, op)])
        hits = self._lightmem.search(
            op.query or "", user_id=user_id, k=op.offset + op.limit, profile="notes", filter=wanted
        )
        best: dict[str, float] = {}
        for hit in hits:
            best.setdefault(hit.entry.session_id, hit.score)
        found = []
        for session_id, score in best.items():
            # The truth has the last word: what was found may be a version that is being replaced.
            entry = self._current(user_id, session_id)
            if entry is not None:
                found.append(SearchItem(**_fields(entry), score=score))
        return found

    def _namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        conditions = op.match_conditions or ()
        prefix = next((c.path for c in conditions if c.match_type == "prefix"), ())
        known = tuple(takewhile(lambda label: label != "*", prefix))
        found = {_namespace(entry.metadata) for entry in self._items(self._user(known), _marks(known))}
        fitting = {ns[: op.max_depth] for ns in found if all(_matches(c, ns) for c in conditions)}
        return sorted(fitting)[op.offset : op.offset + op.limit]

    # ------------------------------------------------------------------ writing
    def _message(self, op: PutOp) -> Message | None:
        """What is stored for an item, checked; None removes it."""
        if op.value is None:
            return None
        if not isinstance(op.value, Mapping):
            raise UsageError("item.value", "must be a dict with JSON values", op.value)
        paths = self._fields if op.index is None else op.index
        text = "" if paths is False else _text(dict(op.value), paths)
        metadata = {**_marks(op.namespace), _KEY: op.key, _VALUE: dict(op.value), _INDEXED: bool(text)}
        name = "/".join((*op.namespace, op.key))
        return Message.from_any({"role": "tool", "content": text or name, "metadata": metadata}, where="item")

    def _write(self, user_id: str, session_id: str, message: Message | None, minutes: float | None) -> None:
        if message is None:
            self._lightmem.forget(user_id=user_id, session_id=session_id)
            return
        before, now = self._current(user_id, session_id), datetime.now(timezone.utc)
        if before is not None:  # the order of versions must not depend on a clock that was set back
            now = max(now, before.timestamp + timedelta(microseconds=1))
        created = before.metadata[_CREATED] if before else now.isoformat()
        message = replace(message, timestamp=now, metadata={**message.metadata, _CREATED: created})
        ttl = None if minutes is None else timedelta(minutes=minutes)
        self._lightmem.add(message, user_id=user_id, session_id=session_id, ttl=ttl)
        if before is not None:
            self._lightmem.forget(user_id=user_id, session_id=session_id, before=now)

    def _user(self, namespace: Namespace) -> str:
        if not callable(self._user_id):
            return self._user_id
        try:
            return self._user_id(namespace)
        except LookupError as error:
            raise UsageError("namespace", "must begin with the labels that name the user", namespace) from error


def to_label(value: object) -> str:
    """Any id as a namespace label, which may not hold a ``.``: ``"ana@example.org"`` as ``"ana%40example%2Eorg"``."""
    return quote(str(value), safe="").replace(".", "%2E")


def from_label(label: str) -> str:
    """The id that ``to_label`` made a label of."""
    return unquote(label, errors="strict")


# ------------------------------------------------------------------ names
def _check(op: Op) -> None:
    """LangGraph's rules for namespaces, which ``batch`` does not apply itself, and what we do not do."""
    if isinstance(op, SearchOp):
        paths = [op.namespace_prefix]
        for condition in (op.filter or {}).values():
            _check_operators(condition)
    elif isinstance(op, ListNamespacesOp):
        paths = [condition.path for condition in op.match_conditions or ()]
    elif isinstance(op, GetOp | PutOp):
        paths = [op.namespace]
        if not op.namespace:
            raise InvalidNamespaceError("Namespace cannot be empty.")
        if isinstance(op, PutOp) and op.ttl is not None and not op.ttl > 0:
            raise UsageError("ttl", "must be minutes above 0", op.ttl)
    else:
        raise ValueError(f"Unknown operation type: {type(op)}")
    for path in paths:
        for label in path:
            if not isinstance(label, str) or not label or "." in label or "\0" in label:
                raise InvalidNamespaceError(
                    f"Namespace labels must be non-empty strings without '.' and NUL; to_label() makes one of any id "
                    f"(got {label!r} in {path!r})."
                )


def _session(namespace: Namespace, key: str) -> str:
    """The session of an item. A hash, since the labels together may be longer than an id."""
    name = json.dumps([*namespace, key])
    return f"store-{hashlib.sha256(name.encode('ascii')).hexdigest()}"


def _marks(namespace: Namespace) -> dict[str, Any]:
    return {f"{_LABEL}_{n}": label for n, label in enumerate(namespace)}


def _namespace(metadata: Mapping[str, Any]) -> Namespace:
    def labels() -> Iterator[str]:
        n = 0
        while (label := metadata.get(f"{_LABEL}_{n}")) is not None:
            yield label
            n += 1

    return tuple(labels())


def _filter(marks: Mapping[str, Any]) -> Filter:
    return Filter(kinds=["turn"], roles=["tool"], metadata=marks)


def _matches(condition: MatchCondition, namespace: Namespace) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return len(namespace) >= len(path) and all(p in ("*", label) for p, label in zip(path, part, strict=True))


# ------------------------------------------------------------------ values
def _fields(entry: MemoryEntry) -> dict[str, Any]:
    return {
        "namespace": _namespace(entry.metadata),
        "key": entry.metadata[_KEY],
        "value": entry.metadata[_VALUE],
        "created_at": datetime.fromisoformat(entry.metadata[_CREATED]),
        "updated_at": entry.timestamp,
    }


def _text(value: Mapping[str, Any], paths: Sequence[str] | None) -> str:
    """What an item is found by: the texts at the paths, or all that the value says; "" for nothing."""
    if paths is not None:
        return "\n".join(text for path in paths for text in get_text_at_path(value, path) if text.strip())
    leaves = [(name, text) for name, text in _leaves("", value) if text.strip()]
    return leaves[0][1] if len(leaves) == 1 else "\n".join(f"{name}: {text}" for name, text in leaves)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(str(key), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(name, inner)
    elif value is not None:
        yield name, str(value)


def _passes(found: Any, wanted: Any) -> bool:
    """LangGraph's filter: equal values, at any depth, and operators in their place."""
    if isinstance(wanted, Mapping):
        if any(str(key).startswith("$") for key in wanted):
            return all(_OPERATORS[key](found, value) for key, value in wanted.items())
        return isinstance(found, Mapping) and all(_passes(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        same = isinstance(found, list | tuple) and len(found) == len(wanted)
        return same and all(_passes(a, b) for a, b in zip(found, wanted, strict=True))
    return bool(found == wanted)


def _check_operators(wanted: Any) -> None:
    if isinstance(wanted, Mapping):
        for key, value in wanted.items():
            if str(key).startswith("$") and key not in _OPERATORS:
                raise ValueError(f"Unsupported operator: {key} (expected one of {', '.join(_OPERATORS)})")
            _check_operators(value)
    elif isinstance(wanted, list | tuple):
        for value in wanted:
            _check_operators(value)


def _number(value: Any) -> float:
    """The value as a number; NaN, which no comparison holds for, where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
