"""Export files: JSON Lines, a header and then one turn a line.

The header is ``{"type": "lightmem", "version": 1}``. A turn has ``type`` ("turn"), ``id``,
``session_id``, ``role``, ``speaker``, ``content``, ``timestamp``, ``session_time`` (ISO 8601) and
``metadata``. Nothing in it names the user: whoever imports it says whose memory it becomes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightmem_integrations.core.analyze import detect_language
from lightmem_integrations.core.normalize import content_hash, read_message, read_timestamp
from lightmem_integrations.core.ports import NewTurn
from lightmem_integrations.core.types import Turn, check_identifier
from lightmem_integrations.errors import UsageError

FORMAT_VERSION = 1


def write_export(path: Path, turns: Iterable[Turn]) -> int:
    """Write turns to a file, which is complete or not there at all.

    Returns:
        turns written.

    Raises:
        UsageError: the folder does not exist, or the path is no plain file.
    """
    if not path.parent.is_dir():
        raise UsageError("path", "must be in a folder that exists", str(path))
    if path.exists() and not path.is_file():
        raise UsageError("path", "must be a file", str(path))
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"type": "lightmem", "version": FORMAT_VERSION}) + "\n")
            for turn in turns:
                file.write(json.dumps(_record(turn), ensure_ascii=False) + "\n")
                count += 1
        partial.replace(path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return count


def read_export(path: Path) -> list[NewTurn]:
    """All turns of an export file, checked.

    Raises:
        UsageError: naming the line at fault.
    """
    if not path.is_file():
        raise UsageError("path", "must be an export file", str(path))
    records = _records(path)
    _, header = next(records, (1, {}))
    if header.get("type") != "lightmem":
        raise UsageError(f"{path.name} line 1", 'must be the header {"type": "lightmem", "version": 1}', header)
    if header.get("version") != FORMAT_VERSION:
        raise UsageError(f"{path.name} line 1", f"must have version {FORMAT_VERSION}", header.get("version"))
    return [read_turn(record, f"{path.name} line {n}") for n, record in records]


def _record(turn: Turn) -> dict[str, Any]:
    return {
        "type": "turn",
        "id": turn.id,
        "session_id": turn.session_id,
        "role": turn.role,
        "speaker": turn.speaker,
        "content": turn.content,
        "timestamp": turn.timestamp.isoformat(),
        "session_time": turn.session_time.isoformat(),
        "metadata": turn.metadata,
    }


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for n, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path.name} line {n}", "must be JSON in UTF-8, not deeply nested", str(error)) from error
        if not isinstance(record, dict):
            raise UsageError(f"{path.name} line {n}", "must be a JSON object", line.decode("utf-8", "replace"))
        yield n, record


def read_turn(record: Mapping[str, Any], where: str) -> NewTurn:
    """A turn of an export file, checked; its tokens are not counted.

    Raises:
        UsageError: naming the line at fault.
    """
    if record.get("type") != "turn":
        raise UsageError(f"{where} type", "must be turn", record.get("type"))
    fields = {key: record.get(key) for key in ("id", "role", "speaker", "content", "timestamp", "metadata")}
    message = read_message({key: value for key, value in fields.items() if value is not None}, where)
    if message.id is None or message.timestamp is None:
        raise UsageError(where, "must have an id and a timestamp", sorted(record))
    return NewTurn(
        id=message.id,
        session_id=check_identifier(f"{where} session_id", record.get("session_id")),
        role=message.role,
        speaker=message.speaker,
        content=message.content,
        timestamp=message.timestamp,
        session_time=read_timestamp(record.get("session_time") or message.timestamp, f"{where} session_time"),
        tokens=0,
        language=detect_language(message.content),
        content_hash=content_hash(message),
        metadata=message.metadata,
        origin=f"{where} ",
    )
