"""Commands that look after a database."""

from __future__ import annotations

from typing import Annotated

import typer

from lightmem_integrations.cli import options as o
from lightmem_integrations.cli import output
from lightmem_integrations.errors import StorageError

FOUND_SOMETHING = 3


def stats(
    db: o.Db = o.DEFAULT_DB,
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="ID", help="Only this user.")] = None,
    as_json: o.Json = False,
) -> None:
    """Count what is stored, of one user or of all."""
    with o.opened_without_model(db) as memory:
        found = memory.stats(user_id=user)
    # Caches are those of this short process and say nothing.
    shown = {"database": db, "embedder": found["embedder"], "pending": found["pending"], "rows": found["rows"]}
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
    repair: Annotated[bool, typer.Option("--repair", help="Encode what is pending or lacks its vectors.")] = False,
    embedder: o.Embedder = None,
    as_json: o.Json = False,
) -> None:
    """Compare what is stored with what should be.

    --repair mends what can be mended. Leaves with 3 when something is amiss.
    """
    with o.opened(db, embedder) if repair or embedder else o.opened_without_model(db) as memory:
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
            told = f"{finding.name:<9} {output.printable(finding.detail)}{mended}"
            out.print(Text().append(sign, style).append(told), soft_wrap=True)
        if not report.ok and not repair:
            output.note("`lightmem doctor --repair` mends what can be mended")
    if not report.ok:
        raise typer.Exit(FOUND_SOMETHING)


def reindex(
    db: o.Db = o.DEFAULT_DB,
    embedder: o.Embedder = None,
    as_json: o.Json = False,
) -> None:
    """Encode everything anew.

    With the embedder named, or the one that the database has. All users; no text changes.
    """
    from lightmem_integrations.memory import LightMem

    if not o.is_there(db):
        raise StorageError(f"there is no database at {db}")
    config = o.config_of(db, embedder)
    with output.progress("encoding") as advance:
        done = LightMem.reindex(db, config, progress=advance)
    if as_json:
        output.print_json({"entries": done, "embedder": config.embedder})
    else:
        output.print_lines([f"{done:,} entries encoded with {config.embedder}"])
