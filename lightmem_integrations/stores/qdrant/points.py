"""An entry as a point of Qdrant, and a filter as Qdrant knows it. No text leaves the database.

What is compared for equality (session, kind, role, speaker, metadata) is in ``marks``: a 64-bit hash
of the field and its value, so that one index serves all of them. Whatever Qdrant finds is checked again
with the entries themselves, so that two values with one hash do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from math import ceil
from typing import Any

from lightmem_integrations.core.index import weighted_terms
from lightmem_integrations.core.times import to_us
from lightmem_integrations.core.types import Filter, Scope
from lightmem_integrations.stores.sql.outbox import Projected, revision_of

DENSE, SPARSE = "dense", "bm25"

K1, B, AVERAGE_TERMS = 1.5, 0.75, 32
"""Of BM25's term weights; the average length of a turn is fixed, so that a weight never changes."""

FOREVER = 2**62
BATCH_POINTS = 256
BATCH_NUMBERS = 200_000
"""Numbers in one batch: 0.8 MB, or below 5 MB as JSON."""

POINT_NUMBERS = 150_000
"""Numbers in the vectors of one entry; a server takes no more than a million. It is that of a text of 200 pages."""


# ------------------------------------------------------------------------------ points
def point(projected: Projected) -> Any:
    """The point of an entry: its passages' vectors, its terms, and what filters ask for."""
    from qdrant_client import models

    row, vectors = projected.row, projected.vectors
    found: dict[str, Any] = {}
    if len(vectors):
        found[DENSE] = vectors[:: ceil(vectors.size / POINT_NUMBERS)].tolist()
    terms = _weights(weighted_terms(row))
    if terms:
        found[SPARSE] = models.SparseVector(indices=list(terms), values=list(terms.values()))
    payload = {
        "user_id": row.user_id,
        "revision": revision_of(row, len(vectors)),
        "marks": sorted(set(_marks_of(row))),
        "time": row.timestamp_us,
        "ends": min(FOREVER if end is None else end for end in (row.valid_to_us, row.expires_at_us)),
    }
    if row.importance is not None:
        payload["importance"] = row.importance
    return models.PointStruct(id=row.id, vector=found, payload=payload)


def batches(points: Iterable[Any]) -> Iterator[list[Any]]:
    """Points in batches that a server takes at once."""
    batch: list[Any] = []
    numbers = 0
    for one in points:
        size = sum(map(len, one.vector.get(DENSE, ()))) + 2 * len(getattr(one.vector.get(SPARSE), "values", ()))
        if batch and (len(batch) == BATCH_POINTS or numbers + size > BATCH_NUMBERS):
            yield batch
            batch, numbers = [], 0
        batch.append(one)
        numbers += size
    if batch:
        yield batch


def _weights(bag: Mapping[str, float]) -> dict[int, float]:
    """BM25's weight of each term, without the IDF, which Qdrant adds; by the ids of Qdrant's own BM25."""
    length = sum(bag.values())
    norm = K1 * (1 - B + B * length / AVERAGE_TERMS)
    weights: dict[int, float] = {}
    for term, frequency in bag.items():
        weights[_term_id(term)] = weights.get(_term_id(term), 0.0) + frequency * (K1 + 1) / (frequency + norm)
    return weights


def sparse_query(terms: Mapping[str, float]) -> Any:
    """The sparse vector of a query's terms."""
    from qdrant_client import models

    weights: dict[int, float] = {}
    for term, weight in terms.items():
        weights[_term_id(term)] = max(weight, weights.get(_term_id(term), 0.0))
    return models.SparseVector(indices=list(weights), values=list(weights.values()))


def _term_id(term: str) -> int:
    import mmh3

    return abs(mmh3.hash(term))


# ------------------------------------------------------------------------------ marks
def _mark(field: str, value: str) -> int:
    import mmh3

    return int(mmh3.hash64(f"{field}={value}".encode("utf-8", "surrogatepass"))[0])


def _marks_of(row: Any) -> Iterator[int]:
    yield _mark("session", row.session_id)
    yield _mark("kind", row.kind)
    if row.kind == "fact" and not row.by_words:
        yield _KEY
    if row.role:
        yield _mark("role", row.role)
    yield _mark("speaker", row.speaker or "")
    for key, value in (row.metadata or {}).items():
        yield _mark(f"metadata.{key}", _plain(value))


def _plain(value: Any) -> str:
    """Equal for values that are equal in a filter: 1 and 1.0 are, 1 and True are not; all others look the same."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(float(value)) if abs(value) < 2**53 else "large"
    return json.dumps(value) if isinstance(value, str) else "other"


_NOBODY = 0  # no entry has it: a server does not know the type of an empty list
_KEY = 0x6C69676874  # facts in words of their own, which lead to their turns


# ------------------------------------------------------------------------------ filters
def conditions(scope: Scope, filter: Filter, *, keys: bool) -> Any:
    """The filter of a search, always with the user. ``keys`` asks for facts that lead to turns as well."""
    from qdrant_client import models

    def has(marks: Sequence[int]) -> Any:
        return models.FieldCondition(key="marks", match=models.MatchAny(any=list(marks) or [_NOBODY]))

    def between(field: str, **limits: int | float) -> Any:
        return models.FieldCondition(key=field, range=models.Range(**limits))

    must: list[Any] = [models.FieldCondition(key="user_id", match=models.MatchValue(value=scope.user_id))]
    must += [has(marks) for marks in _wanted_marks(scope, filter, keys=keys)]
    if filter.since is not None:
        must.append(between("time", gte=to_us(filter.since)))
    last = [to_us(moment) for moment in (filter.until, filter.as_of) if moment is not None]
    if last:
        must.append(between("time", lte=min(last)))
    if filter.min_importance is not None:
        must.append(between("importance", gte=filter.min_importance - 1e-6))
    if not filter.include_superseded:
        must.append(between("ends", gt=to_us(filter.as_of or datetime.now(timezone.utc))))
    return models.Filter(must=must)


def _wanted_marks(scope: Scope, filter: Filter, *, keys: bool) -> Iterator[list[int]]:
    sessions = [scope.session_id] if scope.session_id is not None else None
    for field, values in (
        ("session", sessions),
        ("session", filter.session_ids),
        ("role", filter.roles),
        ("speaker", filter.speakers),
    ):
        if values is not None:
            yield [_mark(field, value) for value in values]
    kinds = [_mark("kind", kind) for kind in filter.kinds or ("turn",)]
    yield [*kinds, _KEY] if keys else kinds
    for key, value in (filter.metadata or {}).items():
        yield [_mark(f"metadata.{key}", _plain(value))]


def of_user(user_id: str) -> Any:
    """The filter for everything of a user."""
    from qdrant_client import models

    return models.Filter(must=[models.FieldCondition(key="user_id", match=models.MatchValue(value=user_id))])
