"""Make ``v<version>.db``: a small database as this release writes it, for the tests of later ones.

Run once for each release that changes the schema, with that release installed, and commit the file::

    python tests/data/make_fixture.py

It holds two users, six turns in three sessions, and the vectors of ``HashEmbedder()``. The log is
folded into the one file, which is then in no need of the files beside it. A file that is there is
never replaced: what a release wrote cannot be written again by a later one.
"""

from __future__ import annotations

import sqlite3
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from lightmem_integrations import LightMem, __version__
from lightmem_integrations.testing.embedders import HashEmbedder

START = datetime(2024, 5, 20, 9, 30, tzinfo=timezone(timedelta(hours=2)))
TURNS = [
    ("ana", "s1", "a1", "user", None, "My cat is called Miso."),
    ("ana", "s1", "a2", "assistant", None, "What a lovely name for a cat!"),
    ("ana", "s2", "a3", "user", None, "我下个月搬到上海。"),
    ("ana", "s2", "a4", "user", None, "The dentist is on Friday at nine."),
    ("bob", "chat", "b1", "user", "Bob", "I play the cello in an orchestra."),
    ("bob", "chat", "b2", "user", "Eve", "Then you must know the Elgar concerto."),
]


def make(path: Path) -> None:
    """Write the database; refuse to replace one."""
    if path.exists():
        sys.exit(f"{path} is there already; a fixture is never made again")
    with LightMem(path, embedder=HashEmbedder()) as memory:
        for n, (user, session, i, role, speaker, text) in enumerate(TURNS):
            message = {
                "id": i,
                "role": role,
                "content": text,
                "speaker": speaker,
                "timestamp": START + timedelta(hours=n),
                "metadata": {"n": n},
            }
            result = memory.add(message, user_id=user, session_id=session)
            assert not result.errors, result.errors
    # What is still in the log would be missing from the one file.
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


if __name__ == "__main__":
    make(Path(__file__).with_name(f"v{__version__}.db"))
