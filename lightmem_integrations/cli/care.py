"""Commands that look after a database."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from lightmem_integrations.cli import options as o
from lightmem_integrations.cli import output
from lightmem_integrations.errors import StorageError

FOUND_SOMETHING = 3
_POLICY = ("retention_threshold", "retention_half_life_days", "retention_min_age_days")


def update(user: o.User, db: o.Db = o.DEFAULT_DB, session: o.Session = None, as_json: o.Json = False) -> None:
    """Let later facts merge with earlier ones, or replace them.

    With the language model of LIGHTMEM_LLM; without one, duplicates merge.
    """
    with o.opened(db) as memory:
        report = memory.update(user_id=user, session_id=session)
    if as_json:
        output.print_json(asdict(report))
        return
    output.print_lines([f"{report.merged} merged, {report.superseded} superseded, {report.kept} kept", *report.errors])


def undo(
    entry: Annotated[str, typer.Argument(metavar="ID", help="Entry whose last change is taken back.")],
    user: o.User,
    db: o.Db = o.DEFAULT_DB,
    as_json: o.Json = False,
) -> None:
    """Take the last change of an entry back."""
    with o.opened_without_model(db, **o.index_settings()) as memory:
        ids = memory.undo(entry, user_id=user)
    if as_json:
        output.print_json({"ids": ids})
        return
    output.print_lines([f"{id} holds again" for id in ids])


def summarize(
    user: o.User,
    db: o.Db = o.DEFAULT_DB,
    hours: Annotated[
        float | None, typer.Option("--hours", metavar="N", min=0.1, help="Time that one summary spans; 24 if left out.")
    ] = None,
    all_windows: Annotated[bool, typer.Option("--all", help="Also the window that is not over yet.")] = False,
    as_json: o.Json = False,
) -> None:
    """Sum up facts over windows of time."""
    with o.opened(db) as memory:
        window = None if hours is None else timedelta(hours=hours)
        report = memory.summarize(user_id=user, window=window, flush=all_windows)
    if as_json:
        output.print_json(asdict(report))
        return
    output.print_lines(
        [f"{report.made} summaries made, {report.replaced} of them in place of older ones", *report.errors]
    )


def sweep(
    db: o.Db = o.DEFAULT_DB,
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="ID", help="Only this user.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, and tell what would go.")] = False,
    as_json: o.Json = False,
) -> None:
    """Remove what has expired, and what has faded where LIGHTMEM_RETENTION_THRESHOLD asks for it."""
    from lightmem_integrations.config import LightMemConfig

    policy = LightMemConfig.load().model_dump(include=set(_POLICY))
    with o.opened_without_model(db, **policy, **o.index_settings()) as memory:
        report = memory.sweep(user_id=user, dry_run=dry_run)
    if as_json:
        output.print_json(asdict(report))
        return
    verb = "would go" if dry_run else "removed"
    lines = [f"{whose}\t{id}\texpired" for whose, ids in report.expired.items() for id in ids]
    lines += [f"{w}\t{id}\tfaded\t{score:.3f}" for w, found in report.faded.items() for id, score in found.items()]
    output.print_lines([output.printable(line) for line in lines] + [f"{len(lines)} entries {verb}"])


def stats(
    db: o.Db = o.DEFAULT_DB,
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="ID", help="Only this user.")] = None,
    as_json: o.Json = False,
) -> None:
    """Count what is stored, of one user or of all."""
    with o.opened_without_model(db) as memory:
        found = memory.stats(user_id=user)
    # Caches are those of this short process and say nothing.
    shown = {name: found[name] for name in ("embedder", "pending", "rows", "entries", "buffers", "compression")}
    db = o.shown(db)
    shown = {"database": db, **shown}
    if as_json:
        output.print_json(shown)
        return
    rows = {name: f"{count:,}" for name, count in found["rows"].items() if name != "index_outbox"}
    output.print_pairs({"database": db, "embedder": found["embedder"]} | rows | {"pending": f"{found['pending']:,}"})


def doctor(
    db: o.Db = o.DEFAULT_DB,
    user: Annotated[
        str | None, typer.Option("--user", "-u", metavar="ID", help="Count what is pending of this user alone.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Encode what is pending or lacks its vectors, and retry what is parked.")
    ] = False,
    qdrant: o.Qdrant = None,
    embedder: o.Embedder = None,
    as_json: o.Json = False,
) -> None:
    """Compare what is stored with what should be.

    --repair mends what can be mended. Leaves with 3 when something is amiss.
    """
    index = o.index_settings(qdrant)
    with o.opened(db, embedder, **index) if repair or embedder else o.opened_without_model(db, **index) as memory:
        report = memory.doctor(repair=repair, user_id=user)
    if as_json:
        fields = ("name", "ok", "detail", "count", "repaired")
        findings = [{field: getattr(finding, field) for field in fields} for finding in report.findings]
        output.print_json({"ok": report.ok, "findings": findings})
    else:
        from rich.text import Text

        out = output.console()
        for finding in report.findings:
            sign, style = ("✓ ", "green") if finding.ok else ("✗ ", "bold red")
            mended = f" ({finding.repaired} mended)" if finding.repaired else ""
            told = f"{finding.name:<10} {output.printable(finding.detail)}{mended}"
            out.print(Text().append(sign, style).append(told), soft_wrap=True)
        if not report.ok and not repair:
            output.note("`lightmem doctor --repair` mends what can be mended")
    if not report.ok:
        raise typer.Exit(FOUND_SOMETHING)


def reindex(
    db: o.Db = o.DEFAULT_DB,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="WHERE", help="qdrant: fill it from the database. exact: do without it."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME_OR_FOLDER", help="Another embedder, or its folder.")
    ] = None,
    qdrant: o.Qdrant = None,
    embedder: o.Embedder = None,
    as_json: o.Json = False,
) -> None:
    """Encode everything anew, or move the index; all users, and no text changes.

    Without --to: with the embedder named or the one that the database has, and then into Qdrant where
    there is one. Interrupted, run it again.
    """
    from lightmem_integrations.memory import LightMem

    if not o.is_there(db):
        raise StorageError(f"there is no database at {db}")
    where: Any = to
    settings = o.settings_of(qdrant)
    if model is not None and Path(model).is_dir():
        settings["model_path"] = model
    elif model is not None:
        embedder = model
    config = o.config_of(db, embedder, **settings)
    with output.progress("reindexing") as advance:
        done = LightMem.reindex(db, config, to=where, progress=advance)
    if as_json:
        output.print_json({"entries": done, "embedder": config.embedder} | ({} if to is None else {"to": to}))
    elif to is None:
        output.print_lines([f"{done:,} entries encoded with {config.embedder}"])
    else:
        told = "the database answers by itself" if to == "exact" else f"{done:,} entries told to Qdrant"
        output.print_lines([told])
