"""Commands that write and read the memory of one user."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightmem_integrations.cli import options as o
from lightmem_integrations.cli import output
from lightmem_integrations.errors import LightMemError, UsageError

if TYPE_CHECKING:
    from lightmem_integrations.config import LightMemConfig
    from lightmem_integrations.core.types import Message
    from lightmem_integrations.memory import LightMem

STDIO = "-"

Query = Annotated[str, typer.Argument(help="A question, or any text.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


# ------------------------------------------------------------------------------------ add
def add(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines, one message a line; - for stdin.")],
    user: Annotated[
        str | None, typer.Option("--user", "-u", metavar="ID", help="Whose memory; optional with --bulk.")
    ] = None,
    db: o.Db = o.DEFAULT_DB,
    session: Annotated[
        str | None, typer.Option("--session", "-s", metavar="ID", help="Session of the lines that name none.")
    ] = None,
    bulk: Annotated[
        bool, typer.Option("--bulk", help="A file of `lightmem export` with a user_id on every line; of any size.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="N", min=1, help="With --bulk: that encode; one a core.")
    ] = None,
    qdrant: o.Qdrant = None,
    embedder: o.Embedder = None,
    as_json: o.Json = False,
) -> None:
    """Remember messages from a file.

    All lines are checked before any is stored. A line is an object with role and content (and timestamp,
    speaker, id, metadata, session_id where there are any), a [role, content] pair or a string.

    With --bulk, a line is a turn as `lightmem export` writes it (type, id, session_id, role, content,
    timestamp, and so on), with a user_id. Lines are stored in parts, those of a session in order; run it
    again after it was interrupted.
    """
    if bulk:
        _add_bulk(file, user, db, processes, o.config_of(db, embedder, **o.settings_of(qdrant)), as_json=as_json)
        return
    if user is None:
        raise UsageError("--user", "must be given", None)
    lines = list(_messages(file, session))
    if not lines:
        raise UsageError("FILE", "must hold at least one message", file)
    sessions: dict[str | None, list[tuple[int, Message]]] = {}
    for place, (session_id, message) in enumerate(lines):
        sessions.setdefault(session_id, []).append((place, message))
    made = [""] * len(lines)
    added = tokens = 0
    with o.opened(db, embedder, make=True, **o.settings_of(qdrant)) as memory, output.progress("adding") as advance:
        for n, (session_id, members) in enumerate(sessions.items()):
            advance(n, len(sessions))
            try:
                done = memory.add([message for _, message in members], user_id=user, session_id=session_id)
            except LightMemError:
                if added:
                    output.note(f"{added} messages of {n} sessions were stored before this:")
                raise
            added, tokens = added + done.added, tokens + done.tokens
            for (place, _), message_id in zip(members, done.ids, strict=True):
                made[place] = message_id
        pending = _settled(memory, user)
    if as_json:
        output.print_json(
            {"added": added, "known": len(lines) - added, "tokens": tokens, "pending": pending, "ids": made}
        )
        return
    known = f", {len(lines) - added} known already" if added < len(lines) else ""
    output.print_lines([f"{added} added{known} ({_count(len(sessions), 'session')}, {tokens:,} tokens)"])


def _add_bulk(
    file: str, user: str | None, db: str, processes: int | None, config: LightMemConfig, *, as_json: bool
) -> None:
    from lightmem_integrations.bulk import count_lines
    from lightmem_integrations.memory import LightMem

    path = Path(file)
    if not path.is_file():
        raise UsageError("FILE", "must be a file with --bulk", file)
    lines = count_lines(path)
    with LightMem(db, config) as memory, output.progress("loading") as advance:
        done = memory.bulk_add(path, user_id=user, processes=processes, progress=lambda n: advance(n, lines))
    if as_json:
        output.print_json(asdict(done))
        return
    pending = f", {done.pending:,} wait for the embedder" if done.pending else ""
    output.print_lines([f"{done.added:,} added, {done.known:,} known already{pending}"])


def _settled(memory: LightMem, user: str) -> int:
    """Encode what the embedder did not finish; the number of entries that wait even so."""
    try:
        memory.flush(user_id=user)
    except LightMemError as error:
        raise type(error)(
            f"{error}. The messages are stored and found by keywords; `lightmem doctor --repair` tries again"
        ) from error
    return int(memory.stats(user_id=user)["pending"])


def _messages(file: str, session: str | None) -> Iterator[tuple[str | None, Message]]:
    """Session and message of every line that is not blank."""
    from lightmem_integrations.core.types import Message, Scope

    for n, line in enumerate(_bytes(file).split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"line {n}"
        try:
            value = json.loads(line.decode("utf-8-sig" if n == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            raise UsageError(where, "must be JSON in UTF-8", str(error)) from error
        session_id = session
        if isinstance(value, dict) and "session_id" in value:
            session_id = value.pop("session_id") or session
        Scope("-", session_id)  # a bad session must not show after others were stored
        yield session_id, Message.from_any(value, where=where)


def _bytes(file: str) -> bytes:
    if file == STDIO:
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageError("FILE", f"must be a file that can be read: {error.strerror}", file) from error


# ------------------------------------------------------------------------------------ recall
def search(
    query: Query,
    user: o.User,
    db: o.Db = o.DEFAULT_DB,
    session: o.Session = None,
    k: o.Results = 10,
    strategy: o.Strategy = None,
    since: o.Since = None,
    until: o.Until = None,
    speaker: o.Speaker = None,
    embedder: o.Embedder = None,
    as_json: o.Json = False,
) -> None:
    """Find the turns that answer a question.

    Best first. On a terminal a table, in a pipe a tab-separated line each, with --json an object each.
    """
    wanted: Any = {"strategy": strategy, "filter": o.filter_of(since, until, speaker)}
    with o.opened(db, embedder) as memory:
        hits = memory.search(query, user_id=user, session_id=session, k=k, **wanted)
    if as_json:
        for hit in hits:
            output.print_json(output.hit_record(hit))
    elif hits:
        output.print_hits(hits)
    else:
        output.note(f"nothing found in the memory of {user}")


def context(
    query: Query,
    user: o.User,
    db: o.Db = o.DEFAULT_DB,
    session: o.Session = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-t", metavar="N", help="Budget of the text.")] = 1000,
    k: o.Results = 50,
    strategy: o.Strategy = None,
    since: o.Since = None,
    until: o.Until = None,
    speaker: o.Speaker = None,
    embedder: o.Embedder = None,
    as_json: o.Json = False,
) -> None:
    """Recall a text for a prompt, within a token budget."""
    wanted: Any = {"strategy": strategy, "filter": o.filter_of(since, until, speaker)}
    with o.opened(db, embedder) as memory:
        found = memory.context(query, user_id=user, session_id=session, max_tokens=max_tokens, k=k, **wanted)
    if as_json:
        hits = [output.hit_record(hit) for hit in found.hits]
        output.print_json({"text": found.text, "tokens": found.tokens, "tokenizer": found.tokenizer, "hits": hits})
    elif found.text:
        output.print_lines([output.printable(found.text, lines=True)])
    else:
        output.note(f"nothing recalled from the memory of {user}")


def list_entries(
    user: o.User,
    db: o.Db = o.DEFAULT_DB,
    session: o.Session = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, metavar="N", help="How many at most.")] = 100,
    offset: Annotated[int, typer.Option("--offset", min=0, metavar="N", help="How many to pass over.")] = 0,
    since: o.Since = None,
    until: o.Until = None,
    speaker: o.Speaker = None,
    as_json: o.Json = False,
) -> None:
    """List what is remembered, oldest first.

    On a terminal a table, in a pipe a tab-separated line each, with --json an object each.
    """
    wanted = o.filter_of(since, until, speaker)
    with o.opened_without_model(db) as memory:
        # One more than asked for tells whether there are more.
        entries = memory.list(user_id=user, session_id=session, filter=wanted, limit=limit + 1, offset=offset)
    shown = entries[:limit]
    if as_json:
        for entry in shown:
            output.print_json(output.entry_record(entry))
        return
    if not entries:
        output.note(f"nothing in the memory of {user}")
        return
    output.print_entries(shown)
    if len(entries) > limit:
        output.note(f"there are more: --offset {offset + limit} goes on")


def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of an entry or of a message.")],
    user: o.User,
    db: o.Db = o.DEFAULT_DB,
    as_json: o.Json = False,
) -> None:
    """Show one entry in full, with its history."""
    with o.opened_without_model(db) as memory:
        entry = memory.get(id, user_id=user)
        if entry is None:
            raise LightMemError(f"{user} has no entry or message with the id {id}")
        changes = memory.history(entry.id, user_id=user)
    encoded = entry.embedding is not None
    if as_json:
        history = [{"at": c.at, "actor": c.actor, "operation": c.operation, "version": c.after} for c in changes]
        more = {"user_id": entry.user_id, "version": entry.version, "encoded": encoded, "history": history}
        output.print_json(output.entry_record(entry) | more)
        return
    output.print_pairs(
        {
            "id": entry.id,
            "messages": ", ".join(entry.source_messages),
            "session": entry.session_id,
            "said": f"{entry.timestamp.isoformat()} ({entry.weekday}) by {output.who(entry)}",
            "kind": f"{entry.kind}, version {entry.version}{'' if encoded else ', no vector'}",
        }
        | ({"metadata": json.dumps(dict(entry.metadata), ensure_ascii=False)} if entry.metadata else {})
    )
    output.print_lines(["", output.printable(entry.memory, lines=True), ""])
    output.print_lines(
        f"{c.at:%Y-%m-%d %H:%M:%S}  {output.printable(c.operation)} by {output.printable(c.actor)}" for c in changes
    )


# ------------------------------------------------------------------------------------ forget
def forget(
    user: o.User,
    db: o.Db = o.DEFAULT_DB,
    session: o.Session = None,
    id: Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="Only this one (repeat).")] = None,
    before: Annotated[str | None, typer.Option("--before", metavar="TIME", help="Only what was said before.")] = None,
    yes: Yes = False,
    as_json: o.Json = False,
) -> None:
    """Remove turns for good.

    All that was made from them goes too. Conditions hold together; with --user alone it removes
    everything of that user, and asks first.
    """
    moment = o.time_of(before, "--before")
    with o.opened_without_model(db, **o.index_settings()) as memory:
        if not (yes or session or id or before) and not _confirmed(memory, user):
            raise LightMemError("not confirmed (--yes does not ask); nothing was removed")
        gone = memory.forget(user_id=user, session_id=session, ids=id or None, before=moment).rows
    if as_json:
        output.print_json({"rows": dict(gone), "total": sum(gone.values())})
    elif not any(gone.values()):
        output.note("nothing to remove")
    else:
        output.print_lines([f"removed for good from the memory of {output.printable(user)}:"])
        output.print_pairs({name: f"{count:>7,}" for name, count in gone.items() if count})


def _confirmed(memory: LightMem, user: str) -> bool:
    rows: Mapping[str, int] = memory.stats(user_id=user)["rows"]
    if not rows["turns"]:
        return True
    what = f"{_count(rows['turns'], 'turn')} in {_count(rows['sessions'], 'session')}"
    # typer.confirm writes to stdout even when told not to, and stdout may be read by a program.
    sys.stderr.write(f"Remove everything of {output.printable(user)} for good ({what})? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# ------------------------------------------------------------------------------------ moving
def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File to write (replaced when there); - for stdout.")],
    user: o.User,
    db: o.Db = o.DEFAULT_DB,
    as_json: o.Json = False,
) -> None:
    """Write the turns of a user to a JSON Lines file."""
    if file == STDIO and as_json:
        raise UsageError("FILE", "must not be - together with --json: stdout can hold one of the two", file)
    if file != STDIO and Path(file).exists() and not Path(file).is_file():
        # The export replaces what is there, which must not be a folder or a device.
        raise UsageError("FILE", "must be a plain file, or - for stdout", file)
    with o.opened_without_model(db) as memory, _as_file(file) as path:
        turns = memory.export(path, user_id=user)
        if file == STDIO:
            sys.stdout.flush()
            with path.open("rb") as made:
                shutil.copyfileobj(made, sys.stdout.buffer)
    if as_json:
        output.print_json({"turns": turns, "file": file})
    elif file == STDIO:
        output.note(f"{_count(turns, 'turn')} of {user}")
    else:
        output.print_lines([f"{_count(turns, 'turn')} of {output.printable(user)} in {output.printable(file)}"])


def import_file(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file that export wrote; - for stdin.")],
    user: o.User,
    db: o.Db = o.DEFAULT_DB,
    embedder: o.Embedder = None,
    as_json: o.Json = False,
) -> None:
    """Read a file that export wrote.

    Its turns become the memory of the user named; known turns are passed over.
    """
    with _as_file(file) as path:
        if file == STDIO:
            path.write_bytes(sys.stdin.buffer.read())
        elif not path.is_file():
            raise UsageError("FILE", "must be a file that export wrote", file)
        with o.opened(db, embedder, make=True) as memory:
            done = memory.import_(path, user_id=user)
            pending = _settled(memory, user)
    known = len(done.ids) - done.added
    if as_json:
        output.print_json({"added": done.added, "known": known, "tokens": done.tokens, "pending": pending})
    else:
        output.print_lines([f"{done.added} added, {known} known already ({done.tokens:,} tokens)"])


@contextmanager
def _as_file(file: str) -> Iterator[Path]:
    """The path; for - one in a temporary folder that stands in for the pipe."""
    if file != STDIO:
        yield Path(file)
        return
    with tempfile.TemporaryDirectory(prefix="lightmem-") as folder:
        yield Path(folder) / "pipe.jsonl"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
