"""Reads every form of a message that callers have, and refuses what cannot be kept.

Frameworks are recognised by their attributes and never imported, so this module needs none of them.
All checks run before anything is returned: whoever gets a ``Message`` from here can store it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import date, datetime, timedelta, timezone
from numbers import Real
from typing import Any, TypeGuard, TypeVar

from lightmem_integrations.core.types import ROLES, Message, Role, check_identifier
from lightmem_integrations.errors import UsageError

__all__ = [
    "MAX_CONTENT_CHARS",
    "MAX_METADATA_BYTES",
    "TURN_SPACING",
    "YEARS",
    "content_hash",
    "normalize",
    "read_message",
    "read_timestamp",
    "spaced",
]

MAX_CONTENT_CHARS = 1_000_000
MAX_METADATA_BYTES = 64 * 1024
TURN_SPACING = timedelta(milliseconds=500)
YEARS = (1900, 2200)

_ROLES: dict[str, Role] = {
    **{role: role for role in ROLES},
    "human": "user",
    "ai": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "function": "tool",
    "developer": "system",
}
# What is left of the types "message", "chat" and "ChatMessageChunk", which leave the role to ``role``.
_TYPES_WITHOUT_ROLE = ("", "chat")

_TIME_KEYS = ("timestamp", "time_stamp")
_SPEAKER_KEYS = ("speaker", "speaker_name", "name")
_METADATA_KEYS = ("importance", "speaker_id")
# What a framework's message may carry for us in ``additional_kwargs``; the rest there is the model's.
_CARRIED_KEYS = ("id", "metadata", *_TIME_KEYS, *_SPEAKER_KEYS, *_METADATA_KEYS)
_READ_KEYS = ("role", "type", "content", "blocks", "refusal", "additional_kwargs", *_CARRIED_KEYS)
# Fields that OpenAI, Anthropic and LangChain put on a message and that hold none of what was said.
_IGNORED_KEYS = (
    *("annotations", "audio", "function_call", "tool_calls", "tool_call_id", "parsed", "status"),
    *("reasoning", "reasoning_content", "model", "stop_reason", "stop_sequence", "usage"),
    *("response_metadata", "usage_metadata", "invalid_tool_calls", "tool_call_chunks", "chunk_position"),
    *("artifact", "example"),
)

_TEXT_TYPES = ("text", "input_text", "output_text")
_UNSAID_PART = re.compile(r"tool|function|thinking|reasoning|_call")
_ATTACHMENT = re.compile(r"image|audio|video|file|document")
_PART_TYPE = re.compile(r"[a-z][a-z0-9_-]{0,39}")

_TIME_FORMS = (
    "must be a datetime, a date, epoch seconds, or text such as 2023-05-20T00:44:00+02:00 or 2023/05/20 (Sat) 00:44"
)
_TIME = re.compile(
    r"""(?P<year>[0-9]{4}) (?P<separator>[-/]) (?P<month>[0-9]{1,2}) (?P=separator) (?P<day>[0-9]{1,2})
        (?: [ ]* \( (?P<weekday>[a-z]{3,9}) \) )?
        (?: (?: [ ]+ | t ) (?P<hour>[0-9]{1,2}) : (?P<minute>[0-9]{2})
            (?: : (?P<second>[0-9]{2}) (?: [.,] (?P<fraction>[0-9]{1,9}) )? )?
            [ ]* (?P<offset> z | [+-][0-9]{2} (?: :? [0-5][0-9] )? )?
        )?""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIRST_SECOND = datetime(YEARS[0], 1, 1, tzinfo=timezone.utc).timestamp()
_LAST_SECOND = datetime(YEARS[1] + 1, 1, 1, tzinfo=timezone.utc).timestamp()

T = TypeVar("T")


def normalize(messages: Any, *, now: datetime) -> list[Message]:
    """Read and check everything that one ``add`` was given, before any of it is written.

    Args:
        messages: one message, or an iterable of messages, in any form that ``read_message`` reads.
            A tuple of two or three with text in front is one message, ``("user", "hi")``; a list is
            always several.
        now: time for the messages that have none; naive means UTC.

    Returns:
        At least one message, in the caller's order, each with a timezone-aware timestamp. Identical
        repeats of an id are all returned.

    Raises:
        UsageError: naming ``messages[i].field``, the rule and the value; also when there is no
            message, and when two messages have one id and differ in role, speaker or content.
    """
    arrival = read_timestamp(now, "now")
    read = [read_message(value, f"messages[{i}]") for i, value in enumerate(_each(messages))]
    if not read:
        raise UsageError("messages", "must hold at least one message", "none")
    _check_repeats(read)
    return [message if message.timestamp else replace(message, timestamp=arrival) for message in read]


def read_message(value: Any, where: str = "message") -> Message:
    """Read one message of any form and check it.

    Forms:
        * a ``Message``;
        * a string, said by the user;
        * ``(role, content)`` or ``(role, content, timestamp)``, a tuple or a list;
        * a dict of OpenAI, Anthropic or LightMem, with ``role`` and ``content``, and any of
          ``timestamp``/``time_stamp``, ``speaker``/``speaker_name``/``name``, ``speaker_id``, ``id``,
          ``importance``, ``metadata``;
        * a LangChain message, or the dict that LangChain makes of one;
        * a LlamaIndex ``ChatMessage``, or its dump.

    Content that comes as parts becomes the lines of its text parts; an attachment leaves
    ``[image]``, ``[audio]``, ``[video]`` or ``[file]`` (its data or address is not kept); tool calls
    and thinking are left out. A message with no text at all, such as a bare tool call, is refused.
    ``importance`` and ``speaker_id`` go into ``metadata``; an empty speaker means none. Messages of
    frameworks may carry ``timestamp`` and the other keys in ``additional_kwargs``.

    Args:
        value: the message; never modified.
        where: how to call it in an error.

    Returns:
        The message; its metadata is a copy. A timestamp keeps its UTC offset; naive means UTC.

    Raises:
        UsageError: naming the field, the rule and the value.
    """
    data = _with_carried(_as_dict(value, where), where)
    role: Role | None = _agreed(data, ("role", "type"), where, _role)
    if role is None:
        raise UsageError(f"{where}.role", f"is required: one of {', '.join(ROLES)}", data.get("role"))
    speaker_id = _agreed(data, ("speaker_id",), where, _speaker)
    return Message(
        role=role,
        content=_content(data, f"{where}.content"),
        speaker=_agreed(data, _SPEAKER_KEYS, where, _speaker) or speaker_id,
        timestamp=_agreed(data, _TIME_KEYS, where, read_timestamp),
        id=check_identifier(f"{where}.id", data["id"]) if "id" in data else None,
        metadata=_metadata(data, where),
    )


def read_timestamp(value: object, field: str = "timestamp") -> datetime:
    """Read a time in any of the forms that callers have.

    Args:
        value: a ``datetime``; a ``date`` (midnight UTC); seconds since 1970; ISO 8601 text with ``-``
            between the parts of the date, with or without a time and an offset; or LightMem's
            ``2023/05/20 (Sat) 00:44``, whose weekday may be absent. What names no offset is UTC.
        field: how to call it in an error.

    Returns:
        A timezone-aware time with the offset that was given, in the years 1900 to 2200.

    Raises:
        UsageError: when it cannot be read, does not exist, names the wrong weekday or lies outside
            these years.
    """
    if isinstance(value, datetime):
        moment = _from_datetime(value, field)
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day, tzinfo=timezone.utc)
    elif isinstance(value, str):
        moment = _from_text(value, field)
    elif _is_number(value):
        moment = _from_seconds(value, field)
    else:
        raise UsageError(field, _TIME_FORMS, value)
    if not YEARS[0] <= moment.year <= YEARS[1]:
        raise UsageError(field, f"must lie in the years {YEARS[0]} to {YEARS[1]}", value)
    return moment


def spaced(timestamps: Sequence[datetime]) -> list[datetime]:
    """Times of turns in order, with those that are equal set apart.

    The i-th of a run of equal times moves by i times 500 ms, or by less where the next time is near;
    others stay. Source: LightMem's ``MessageNormalizer``, which offsets the messages of one session.

    >>> [t.microsecond for t in spaced([datetime(2023, 5, 20, 12)] * 2)]
    [0, 500000]
    """
    out: list[datetime] = []
    at = 0
    while at < len(timestamps):
        until = at
        while until < len(timestamps) and timestamps[until] == timestamps[at]:
            until += 1
        room = timestamps[until] - timestamps[at] if until < len(timestamps) else None
        step = min(TURN_SPACING, room / (until - at)) if room and room > timedelta(0) else TURN_SPACING
        out += [timestamps[at + n] + n * step for n in range(until - at)]  # each in its own zone
        at = until
    return out


def content_hash(message: Message) -> str:
    """SHA-256 hex of role, speaker and content: equal for a repeat, different for a conflict.

    Time and metadata are left out, because a client that retries stamps the same message anew.
    """
    # JSON keeps the fields apart; its escapes make the hash defined for any string.
    text = json.dumps([message.role, message.speaker, message.content])
    return hashlib.sha256(text.encode("ascii")).hexdigest()


# --- one message or several ---


def _each(messages: Any) -> Iterable[Any]:
    if _is_one(messages):
        return (messages,)
    if isinstance(messages, (set, frozenset)):
        raise UsageError("messages", "must have an order, which a set has not", messages)
    if isinstance(messages, (bytes, bytearray, memoryview)) or not isinstance(messages, Iterable):
        raise UsageError("messages", "must be a message or an iterable of messages", messages)
    if isinstance(messages, list) and _reads_like_one(messages) and _names_role(messages[0]):
        rule = "must not be a list that reads like one (role, content); pass a tuple, or a list of messages"
        raise UsageError("messages", rule, messages)
    return messages


def _is_one(value: Any) -> bool:
    # LangChain and LlamaIndex messages are iterable (over their fields), so this comes before that test.
    if isinstance(value, (Message, str, Mapping)) or _is_message_object(value):
        return True
    return isinstance(value, tuple) and _reads_like_one(value)


def _reads_like_one(value: Sequence[Any]) -> bool:
    """Tell ("user", "hi") from two messages; text in front that is no role is a role misspelt."""
    return len(value) in (2, 3) and isinstance(value[0], str) and (isinstance(value[1], str) or _names_role(value[0]))


def _is_message_object(value: Any) -> bool:
    said = hasattr(value, "content") or hasattr(value, "blocks")
    return said and (hasattr(value, "role") or hasattr(value, "type"))


def _check_repeats(messages: Iterable[Message]) -> None:
    first: dict[str, tuple[int, str]] = {}
    for index, message in enumerate(messages):
        if message.id is None:
            continue
        digest = content_hash(message)
        earlier, known = first.setdefault(message.id, (index, digest))
        if known != digest:
            rule = f"is the id of messages[{earlier}], which has another role, speaker or content"
            raise UsageError(f"messages[{index}].id", rule, message.id)


# --- any form to a dict ---


def _as_dict(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, Message):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, str):
        return {"role": "user", "content": value}
    if isinstance(value, Mapping):
        return _from_mapping(value, where)
    if isinstance(value, (tuple, list)) and len(value) in (2, 3):
        return dict(zip(("role", "content", "timestamp"), value, strict=False))
    if _is_message_object(value):
        return {name: getattr(value, name, None) for name in _READ_KEYS}
    rule = "must be text, (role, content), a dict with role and content, or a LangChain or LlamaIndex message"
    raise UsageError(where, rule, value)


def _from_mapping(value: Mapping[Any, Any], where: str) -> dict[str, Any]:
    data = _unwrapped(value)
    for key in data:
        if key not in _READ_KEYS and key not in _IGNORED_KEYS:
            close = difflib.get_close_matches(str(key), _READ_KEYS, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(where, f"has an unknown key; {hint}values of your own belong into metadata", key)
    return data


def _unwrapped(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Open the two envelopes in which LangChain serialises a message, where there is one."""
    if "lc" in value and isinstance(value.get("kwargs"), Mapping):
        path = value.get("id")
        return {"type": path[-1] if isinstance(path, list) and path else None, **value["kwargs"]}
    if isinstance(value.get("data"), Mapping) and "type" in value and len(value) == 2:
        return {"type": value["type"], **value["data"]}
    return dict(value)


def _with_carried(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Add what ``additional_kwargs`` carries for us, and drop None, which means absent everywhere.

    ``response_metadata`` is not read: the provider's clock in it would date answers before the
    questions, which are stamped on arrival.
    """
    carried = data.get("additional_kwargs")
    carried = {} if carried is None else carried
    if not isinstance(carried, Mapping):
        raise UsageError(f"{where}.additional_kwargs", "must be a dict", carried)
    found = {key: carried[key] for key in _CARRIED_KEYS if carried.get(key) is not None}
    return {**found, **{key: value for key, value in data.items() if value is not None}}


def _agreed(data: Mapping[str, Any], keys: Iterable[str], where: str, read: Callable[[Any, str], T | None]) -> T | None:
    """The value under several keys of one meaning, or None; given twice, it must be the same."""
    values = {key: value for key in keys if key in data and (value := read(data[key], f"{where}.{key}")) is not None}
    first = next(iter(values.values()), None)
    if any(value != first for value in values.values()):
        rule = f"has different values under {' and '.join(values)}, which mean the same; give one"
        raise UsageError(where, rule, {key: data[key] for key in values})
    return first


# --- fields ---


def _role(value: object, field: str) -> Role | None:
    name = _plain_role(value)
    if name in _TYPES_WITHOUT_ROLE and field.endswith(".type"):
        return None
    if name not in _ROLES:
        rule = f"must be one of {', '.join(_ROLES)} (the name of a person belongs into speaker)"
        raise UsageError(field, rule, value)
    return _ROLES[name]


def _names_role(value: object) -> bool:
    return _plain_role(value) in _ROLES


def _plain_role(value: object) -> str | None:
    """``HumanMessageChunk``, ``User`` and the members of LlamaIndex's ``MessageRole`` in one spelling."""
    name = getattr(value, "value", value)
    return name.lower().removesuffix("chunk").removesuffix("message") if isinstance(name, str) else None


def _speaker(value: object, field: str) -> str | None:
    return None if _is_empty(value) else check_identifier(field, value)


def _is_empty(value: object) -> bool:
    """LightMem's own dicts say "" where they have no speaker."""
    return isinstance(value, str) and not value


def _content(data: Mapping[str, Any], field: str) -> str:
    value = data.get("content", data.get("refusal"))
    if isinstance(data.get("blocks"), (list, tuple)):  # LlamaIndex's ``content`` is only the text among them
        value = data["blocks"] or value
    if isinstance(value, (list, tuple)):
        parts = (_part_text(part, f"{field}[{i}]") for i, part in enumerate(_flat(value)))
        value = "\n".join(text for text in parts if text)
    if not isinstance(value, str):
        rule = "must be text or a list of parts (leave out a message that only calls a tool)"
        raise UsageError(field, rule, value)
    if not value.strip():
        raise UsageError(field, "must hold some text (leave out a message that only calls a tool)", value)
    if len(value) > MAX_CONTENT_CHARS:
        rule = f"must be at most {MAX_CONTENT_CHARS:,} characters; split it into several messages"
        raise UsageError(field, rule, f"{len(value):,} characters")
    if not _is_storable(value):
        raise UsageError(field, "must not contain NUL bytes or lone surrogates", value)
    return value


def _is_storable(text: str) -> bool:
    """PostgreSQL keeps no NUL, and UTF-8 has no lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _flat(parts: Iterable[Any]) -> Iterator[Any]:
    """The parts, with LlamaIndex's citable documents opened."""
    for part in parts:
        inner = _member(part, "content") if _part_type(part) == "citable" else None
        yield from inner if isinstance(inner, (list, tuple)) else (part,)


def _part_text(part: Any, field: str) -> str:
    """What a part of a message adds to its text, "" for nothing."""
    if isinstance(part, str):
        return part
    kind = _part_type(part)
    if kind and _UNSAID_PART.search(kind):
        return ""
    for name in ("text", "refusal"):
        if isinstance(text := _member(part, name), str):
            return text
    if not kind or not _PART_TYPE.fullmatch(kind) or kind in _TEXT_TYPES:
        raise UsageError(field, "must be text, or a part with a type and, where the type is text, a text", part)
    attachment = _ATTACHMENT.search(kind)
    name = attachment[0] if attachment else kind
    return "[file]" if name == "document" else f"[{name}]"


def _part_type(part: Any) -> str | None:
    kinds = (_member(part, name) for name in ("type", "block_type"))
    return next((kind.lower() for kind in kinds if isinstance(kind, str)), None)


def _member(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)


def _metadata(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    field = f"{where}.metadata"
    metadata = data.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise UsageError(field, "must be a dict", metadata)
    for owner, name in ((data, f"{where}.importance"), (metadata, f"{field}.importance")):
        if "importance" in owner:
            _check_importance(owner["importance"], name)
    moved = {key: data[key] for key in _METADATA_KEYS if key in data and not _is_empty(data[key])}
    copy = _json_copy({**moved, **metadata}, field)
    for key, value in moved.items():
        if copy[key] != value:
            raise UsageError(f"{where}.{key}", f"must be the same as in {field}", value)
    return copy


def _check_importance(value: object, field: str) -> None:
    # NaN fails both comparisons.
    if not _is_number(value) or not 0 <= value <= 1:
        raise UsageError(field, "must be a number in 0..1", value)


def _is_number(value: object) -> TypeGuard[float]:
    return not isinstance(value, bool) and isinstance(value, Real)


def _json_copy(metadata: dict[Any, Any], field: str) -> dict[str, Any]:
    try:
        text = json.dumps(metadata, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(field, "must be JSON-serialisable, without NaN and infinities", str(error)) from error
    for item in _keys_and_strings(metadata):
        if not isinstance(item, str):
            raise UsageError(field, "must have strings as keys", item)
        if not _is_storable(item):
            raise UsageError(field, "must not contain NUL bytes or lone surrogates", item)
    size = len(text.encode("utf-8"))
    if size > MAX_METADATA_BYTES:
        raise UsageError(field, f"must be at most {MAX_METADATA_BYTES:,} bytes as JSON", f"{size:,} bytes")
    copy: dict[str, Any] = json.loads(text)
    return copy


def _keys_and_strings(metadata: dict[Any, Any]) -> Iterator[Any]:
    """All keys and all string values, at any depth; ``json`` would turn other keys into strings silently."""
    rest: list[Any] = [metadata]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            yield from item
            rest.extend(item.values())
        elif isinstance(item, (list, tuple)):
            rest.extend(item)
        elif isinstance(item, str):
            yield item


# --- times ---


def _from_datetime(value: datetime, field: str) -> datetime:
    """A plain datetime with a fixed offset: two times in one zone compare by the clock on the wall."""
    try:
        zone = timezone(value.utcoffset() or timedelta(0))
        return datetime(
            value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, zone
        )
    except (TypeError, ValueError) as error:  # pandas.NaT is a datetime without a year
        raise UsageError(field, "must be a time that exists", value) from error


def _from_seconds(value: float, field: str) -> datetime:
    # NaN fails both comparisons, and a comparison does not overflow.
    if not _FIRST_SECOND <= value < _LAST_SECOND:
        rule = f"must be seconds since 1970 in the years {YEARS[0]} to {YEARS[1]} (divide milliseconds by 1000)"
        raise UsageError(field, rule, value)
    return _EPOCH + timedelta(seconds=float(value))


def _from_text(value: str, field: str) -> datetime:
    match = _TIME.fullmatch(value.strip())
    if match is None:
        raise UsageError(field, _TIME_FORMS, value)
    year, month, day, hour, minute, second = (
        int(match[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    microsecond = int((match["fraction"] or "").ljust(6, "0")[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, microsecond, _zone(match["offset"]))
    except ValueError as error:
        raise UsageError(field, "must be a time that exists", value) from error
    weekday = _WEEKDAYS[moment.weekday()]
    if match["weekday"] and not weekday.startswith(match["weekday"].lower()):
        raise UsageError(field, f"must name the right weekday, which is {weekday.title()}", value)
    return moment


def _zone(offset: str | None) -> timezone:
    if offset is None or offset in "zZ":
        return timezone.utc
    minutes = int(offset[1:3]) * 60 + int(offset[3:].lstrip(":") or 0)
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
