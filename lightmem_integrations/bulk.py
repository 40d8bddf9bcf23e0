"""Loading conversations of many users from a file: read, encode in several processes, store part by part.

The file is JSON Lines as ``export`` writes it, with a ``user_id`` on every line; a header is passed over.
Lines are taken in order. A part of the file is stored whole, and what is there is not encoded again: a
load that was broken off is run again, and goes on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.encode import central, encode_texts, name_of, passages_to_encode, shape_of
from lightmem_integrations.core.ports import Embedder, NewTurn
from lightmem_integrations.core.tokens import wordpiece_counts
from lightmem_integrations.core.types import Encoding, Passage, check_identifier
from lightmem_integrations.errors import EmbedderError, LightMemError, UsageError
from lightmem_integrations.models.embed import make_embedder
from lightmem_integrations.stores.sql.loading import Load, SqlLoader
from lightmem_integrations.transfer import read_turn

__all__ = ["BulkResult", "bulk_load", "count_lines", "encoders"]

LINES = 512
"""Lines that are encoded and stored at a time."""

AHEAD = 2
"""Parts that wait for each process, so that none is idle while one is stored."""

Said = tuple[str, str]
"""A text, and who said it."""

Passages = list[tuple[Passage, Encoding]]

Encode = Callable[[list[Said]], "Future[list[Passages | str]]"]
"""Encodes texts, some time; gives the passages of each, or why there are none."""


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What a load did.

    Attributes:
        added: turns that are new.
        known: turns that were there before.
        pending: new ones that could not be encoded; they wait for the embedder.
    """

    added: int
    known: int
    pending: int


def count_lines(path: Path) -> int:
    """Lines of a file; the last one may lack its end."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def bulk_load(
    loader: SqlLoader,
    path: Path,
    encode: Encode | None,
    *,
    user_id: str | None = None,
    ahead: int = AHEAD,
    agree: Callable[[tuple[int, int]], None] = lambda shape: None,
    progress: Callable[[int], None] = lambda lines: None,
) -> BulkResult:
    """Store the turns of a file.

    Args:
        loader: stores them.
        path: the file.
        encode: None for words alone.
        user_id: whose the lines are that name nobody.
        ahead: parts that are handed to ``encode`` before the first of them is stored.
        agree: told (dim, token_dim) of vectors before they are stored; raises when the database has others.
        progress: told how many turns are done.

    Raises:
        UsageError: naming the line at fault. The parts before it are stored.
    """
    added = known = pending = 0
    waiting: deque[tuple[int, list[Load], Future[list[Passages | str]] | None]] = deque()

    def store() -> None:
        nonlocal added, known, pending
        lines, loads, made = waiting.popleft()
        if made is not None:
            loads = [_with(load, found) for load, found in zip(loads, made.result(), strict=True)]
        encodings = [encoding for load in loads for _, encoding in load.passages or ()]
        if encodings:
            agree(shape_of(encodings))
        new = loader.add(loads, "add")
        added, known = added + new, known + lines - new
        pending += sum(bool(load.error) for load in loads)
        progress(added + known)

    for lines, loads in _parts(loader, path, user_id):
        made = encode([(load.turn.content, load.turn.speaker or "") for load in loads]) if encode and loads else None
        waiting.append((lines, loads, made))
        if len(waiting) > ahead:
            store()
    while waiting:
        store()
    loader.settle()
    return BulkResult(added, known, pending)


def _with(load: Load, found: Passages | str) -> Load:
    return replace(load, error=found) if isinstance(found, str) else replace(load, passages=found)


# ------------------------------------------------------------------------------ reading
def _parts(loader: SqlLoader, path: Path, user_id: str | None) -> Iterator[tuple[int, list[Load]]]:
    """The file in parts: how many lines, and those of them that are not there yet."""
    turns = _turns(path, user_id)
    while part := list(islice(turns, LINES)):
        there = loader.known([(user, turn.id) for user, turn in part])
        new = [(user, turn) for user, turn in part if there.get((user, turn.id)) != turn.content_hash]
        tokens = wordpiece_counts([turn.content for _, turn in new])
        yield len(part), [Load(user, replace(turn, tokens=n)) for (user, turn), n in zip(new, tokens, strict=True)]


def _turns(path: Path, user_id: str | None) -> Iterator[tuple[str, NewTurn]]:
    with path.open("rb") as file:
        for n, line in enumerate(file, 1):
            where = f"{path.name} line {n}"
            record = _record(line, where) if line.strip() else {"type": "lightmem"}
            if record.get("type") != "lightmem":
                user = check_identifier(f"{where} user_id", record.pop("user_id", None) or user_id)
                yield user, read_turn(record, where)


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(where, "must be JSON in UTF-8, not deeply nested", str(error)) from error
    if not isinstance(record, dict):
        raise UsageError(where, "must be a JSON object", line.decode("utf-8", "replace"))
    return record


# ------------------------------------------------------------------------------ encoding
@contextmanager
def encoders(config: LightMemConfig, embedder: Embedder, *, given: bool, processes: int) -> Iterator[Encode]:
    """Processes that encode; with one, this one does.

    Args:
        config: names the embedder that each process makes,
        embedder: which is ready here,
        given: or is an object that each gets a copy of.
        processes: how many.

    Raises:
        EmbedderError: the object cannot be copied.
        LightMemError: a process ended by itself, such as for want of memory.
    """
    if processes == 1:
        yield lambda said: _done(_encoded(embedder, said))
        return
    if given:
        _check_copied(embedder)
    own = config.model_copy(update={"embed_threads": 1})
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(own, embedder if given else None))
    try:
        yield lambda said: pool.submit(_encode, said)
    except BrokenProcessPool as error:
        raise LightMemError(
            "a process that encodes was ended, perhaps for want of memory. What was stored stays; run the same again, "
            "with fewer processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _check_copied(embedder: Embedder) -> None:
    try:
        pickle.dumps(embedder)
    except Exception as error:  # whatever an object's own way to be copied raises
        raise EmbedderError(
            f"{name_of(embedder)} cannot be copied into other processes ({type(error).__name__}: {error}). "
            "Give processes=1."
        ) from error


_embedder: Embedder | None = None  # of a process that encodes


def _begin(config: LightMemConfig, given: Embedder | None) -> None:
    global _embedder
    Thread(target=_end_with_parent, name="lightmem-parent", daemon=True).start()
    _embedder = given or make_embedder(config)


def _end_with_parent() -> None:
    """A process that is killed cannot end those that encode for it, and they would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode(said: list[Said]) -> list[Passages | str]:
    assert _embedder is not None
    return _encoded(_embedder, said)


def _done(made: list[Passages | str]) -> Future[list[Passages | str]]:
    future: Future[list[Passages | str]] = Future()
    future.set_result(made)
    return future


def _encoded(embedder: Embedder, said: list[Said]) -> list[Passages | str]:
    """The passages of texts; one by one if they fail together."""
    try:
        cut = [passages_to_encode(text, speaker) for text, speaker in said]
        made = iter(encode_texts(embedder, [text for parts in cut for _, text in parts]))
        return [_passages([(passage, text, next(made)) for passage, text in parts]) for parts in cut]
    except EmbedderError as error:
        if len(said) == 1:
            return [str(error)]
        return [one for each in said for one in _encoded(embedder, [each])]


def _passages(encoded: list[tuple[Passage, str, Encoding]]) -> Passages:
    is_long = len(encoded) > 1
    return [(p, replace(central(e, text) if is_long else e, piece_starts=None)) for p, text, e in encoded]
