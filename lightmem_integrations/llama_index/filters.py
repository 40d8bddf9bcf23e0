"""LlamaIndex ``MetadataFilters`` as a ``Filter`` of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from lightmem_integrations._adapters import as_filter
from lightmem_integrations.core.normalize import read_timestamp
from lightmem_integrations.core.types import Filter
from lightmem_integrations.errors import UsageError

__all__ = ["engine_filter"]

_NAMES = {"session_id": "session_ids", "kind": "kinds", "role": "roles", "speaker": "speakers"}
_BOUNDS = {FilterOperator.GTE: "since", FilterOperator.LTE: "until"}
_SUPPORTED = (
    "must be conditions that all hold: == on metadata; == or in on session_id, kind, role and speaker; "
    ">= or <= on timestamp; >= on importance"
)


def engine_filter(filters: MetadataFilters | Filter | Mapping[str, Any] | None) -> Filter:
    """What a memory must be, as the engine wants it. The user is never part of it.

    Args:
        filters: LlamaIndex ``MetadataFilters``, whose conditions may be nested and must all hold; a
            ``Filter``; a dict of metadata; None for anything.

    Raises:
        UsageError: an operator, a condition or a value that the engine cannot answer.
    """
    if not isinstance(filters, MetadataFilters):
        return as_filter(filters)
    conditions: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for one in _flat(filters):
        field, value = _condition(one)
        given = metadata if field is None else conditions
        key = one.key if field is None else field
        if key in given:
            raise UsageError("filters", f"must have one condition on {one.key}", one)
        given[key] = value
    return Filter(metadata=metadata or None, **conditions)


def _flat(filters: MetadataFilters) -> Iterator[MetadataFilter]:
    if filters.condition not in (None, FilterCondition.AND) and (
        len(filters.filters) > 1 or filters.condition != FilterCondition.OR
    ):
        raise UsageError("filters", _SUPPORTED, filters.condition)
    for one in filters.filters:
        if isinstance(one, MetadataFilters):
            yield from _flat(one)
        else:
            yield one


def _condition(one: MetadataFilter) -> tuple[str | None, Any]:
    """The field of ``Filter`` and its value; None for a condition on metadata."""
    key, operator, value = one.key, one.operator, one.value
    if key == "user_id":
        raise UsageError("filters", "must not name the user, which is given as user_id", value)
    if key in _NAMES:
        if operator == FilterOperator.EQ:
            return _NAMES[key], (value,)
        if operator == FilterOperator.IN and isinstance(value, list):
            return _NAMES[key], tuple(value)
    elif key == "timestamp":
        if operator in _BOUNDS:
            return _BOUNDS[operator], _time(value)
    elif key == "importance":
        if operator == FilterOperator.GTE:
            return "min_importance", value
    elif operator == FilterOperator.EQ and isinstance(value, str | int | float):
        return None, value
    raise UsageError("filters", _SUPPORTED, f"{key} {operator.value} {value!r}")


def _time(value: Any) -> datetime:
    return read_timestamp(value, "filters.timestamp")
