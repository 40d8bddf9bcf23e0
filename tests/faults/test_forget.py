"""What was forgotten is gone from the files, not only from the answers."""

from __future__ import annotations

import random
import sqlite3
from datetime import datetime, timezone
from pathlib import Path

import pytest

from lightmem_integrations import LightMem
from lightmem_integrations.testing.embedders import FlakyEmbedder, HashEmbedder

pytestmark = pytest.mark.sqlite("looks for bytes in files; docs/postgres.md says what a server keeps")

USER = "ana"


def secret(number: int) -> str:
    """A word that occurs nowhere else, and is no part of another one."""
    return f"xyzzy{number:05d}plugh"


def message(number: int) -> dict[str, object]:
    return {
        "role": "user",
        "id": f"m{number}",
        "content": f"The word is {secret(number)}. " + "Mind that. " * (number % 40),
        "metadata": {"note": f"also {secret(number)}"},
    }


def bytes_of(path: Path) -> bytes:
    """All files of the database: the main one, and the log where there is one."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()))


def checkpoint(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    connection.close()


def holds(path: Path, number: int) -> bool:
    word = secret(number)
    content = bytes_of(path)
    vector = HashEmbedder().embed([word])[0].tobytes()
    return word.encode() in content or vector in content


@pytest.mark.parametrize("closed", [True, False], ids=["after close", "after checkpoint"])
@pytest.mark.parametrize("how", ["ids", "session", "before", "user"])
def test_forgotten_words_are_not_in_the_files(tmp_path, how, closed):
    path = tmp_path / "memory.db"
    memory = LightMem(path, embedder=HashEmbedder())
    old = {"timestamp": datetime(2020, 1, 1, tzinfo=timezone.utc)}
    memory.add(message(1) | old, user_id=USER, session_id="secret")
    memory.add([message(i) for i in range(2, 10)], user_id="bob")
    if how != "user":
        memory.add([message(i) for i in range(10, 20)], user_id=USER)
    checkpoint(path)
    assert holds(path, 1)
    conditions = {
        "ids": {"ids": ["m1"]},
        "session": {"session_id": "secret"},
        "before": {"before": datetime(2021, 1, 1, tzinfo=timezone.utc)},
        "user": {},
    }
    memory.forget(user_id=USER, **conditions[how])
    if closed:
        memory.close()
        assert [f.name for f in path.parent.iterdir()] == ["memory.db"]
    else:
        checkpoint(path)
    assert not holds(path, 1)
    assert all(holds(path, i) for i in range(2, 10 if how == "user" else 20))
    memory.close()


def test_forgotten_vectors_are_not_in_the_file(tmp_path):
    path = tmp_path / "memory.db"
    with LightMem(path, embedder=HashEmbedder()) as memory:
        memory.add([message(i) for i in range(20)], user_id=USER)
        entry = memory.get("m7", user_id=USER)
    assert entry is not None
    stored = HashEmbedder().embed([entry.memory])[0].tobytes()
    assert stored in bytes_of(path)
    with LightMem(path, embedder=HashEmbedder()) as memory:
        memory.forget(user_id=USER, ids=["m7"])
    assert stored not in bytes_of(path)


@pytest.mark.parametrize("seed", range(2))
def test_no_forgotten_word_stays_behind_in_a_page_that_was_split_or_moved(tmp_path, seed):
    """Many turns come and go in random order, so that the trees of the file are rebuilt again and again."""
    path, draw = tmp_path / "memory.db", random.Random(seed)
    alive: list[int] = []
    gone: list[int] = []
    number = 0
    with LightMem(path, embedder=HashEmbedder()) as memory:
        for _ in range(25):
            fresh = range(number, number := number + draw.randint(1, 30))
            memory.add([message(i) for i in fresh], user_id=USER, session_id=f"s{draw.randrange(3)}")
            alive += fresh
            doomed = draw.sample(alive, draw.randint(0, len(alive) // 2))
            memory.forget(user_id=USER, ids=[f"m{i}" for i in doomed])
            alive = [i for i in alive if i not in doomed]
            gone += doomed
        memory.doctor(repair=True)  # writes the file anew; deleting alone leaves copies in pages that were split
    content = bytes_of(path)
    assert [i for i in gone if secret(i).encode() in content] == []
    assert [i for i in alive if secret(i).encode() not in content] == []


def test_text_in_an_embedders_error_is_forgotten_with_the_turn(tmp_path):
    """An embedder may quote the text that it failed on; that note goes with the text."""
    path = tmp_path / "memory.db"
    flaky = FlakyEmbedder(fail_on=lambda _: True, error=ValueError(f"cannot encode {secret(1)!r}"))
    with LightMem(path, embedder=flaky) as memory:
        memory.add(message(1), user_id=USER)
        assert memory.forget(user_id=USER, ids=["m1"]).entries == 1
    assert not holds(path, 1)


def test_text_in_an_embedders_error_is_not_kept_with_other_turns(tmp_path):
    path = tmp_path / "memory.db"

    class Quoting(HashEmbedder):
        """Fails on texts that end with a question mark, and quotes the first of them."""

        def encode(self, texts, *, query=False):
            bad = [text for text in texts if text.endswith("?")]
            if bad:
                raise ValueError(f"cannot encode {bad[0]!r}")
            return super().encode(texts, query=query)

    messages = [
        {"role": "user", "id": "m1", "content": f"Is it {secret(1)}?"},
        {"role": "user", "id": "m2", "content": "Or not?"},
        {"role": "user", "id": "m3", "content": "I see."},
    ]
    with LightMem(path, embedder=Quoting()) as memory:
        memory.add(messages, user_id=USER)
        memory.forget(user_id=USER, ids=["m1"])
    assert not holds(path, 1)
