"""Workers as processes, the way they are run: one is killed and one is stopped, and each user's turns stay in order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from sqlalchemy import select, update

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.testing.llm_server import LLMServer, note_taker
from tests.pipeline.test_pipeline import extracted, talk
from tests.test_cli import LIGHTMEM

pytestmark = [pytest.mark.postgres, pytest.mark.allow_hosts(["127.0.0.1"])]

USERS = ("ana", "bea", "cem")
TURNS = 80
PLAIN = LightMemConfig(embedder="none", memory_manager="none")

Start = Callable[[LLMServer], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """``lightmem worker`` on the test's database; killed when the test ends."""
    started: list[subprocess.Popen[bytes]] = []

    def worker(server: LLMServer) -> subprocess.Popen[bytes]:
        settings = {
            "DB": url, "EMBEDDER": "none", "LLM": "openai/tiny", "LLM_BASE_URL": server.url, "LLM_API_KEY": "sk-none",
            "LLM_RETRIES": "0", "LLM_CONCURRENCY": "1",
        }  # fmt: skip
        environment = os.environ | {f"LIGHTMEM_{name}": value for name, value in settings.items()}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        started.append(subprocess.Popen([*LIGHTMEM, "worker"], env=environment, stderr=subprocess.PIPE))
        return started[-1]

    yield worker
    for process in started:
        process.kill()
        process.communicate()


def until(holds: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def open_leases(memory: LightMem) -> list[str]:
    with memory._store.reading(None) as connection:
        return list(connection.execute(select(s.segments.c.owner).where(s.segments.c.owner.is_not(None))).scalars())


def numbers(server: LLMServer, user: str) -> list[int]:
    """Turns that the model was shown of a user, as they were shown."""
    return [int(n) for call in server.calls for n in re.findall(rf"{user}N(\d+)", call.prompt)]


def test_one_worker_is_killed_and_one_is_stopped(url: str, start: Start) -> None:
    asked, go_on = Event(), Event()

    def script(request: dict[str, Any]) -> str:
        if not go_on.is_set():
            asked.set()
            go_on.wait(60)
        return note_taker(request)

    with LightMem(url, PLAIN) as memory, LLMServer(script) as server:
        for user in USERS:
            memory.add([replace(m, content=m.content.replace(", N", f", {user}N")) for m in talk(TURNS)], user_id=user)
        first = start(server)
        assert asked.wait(60), "it is at a call"
        first.kill()
        first.wait()
        assert open_leases(memory)
        second = start(server)
        go_on.set()
        taken = s.segments.c.owner.is_not(None)
        until(lambda: len(server.calls) > 1, "the other does what the killed one was not at")
        with memory._store.writing(None) as connection:  # the half minute that the lease lasts is over
            connection.execute(update(s.segments).where(taken).values(lease_us=s.segments.c.lease_us - 30_000_000))
        until(lambda: not any(memory.stats(user_id=user)["buffers"]["queued"] for user in USERS), "all of it gets done")
        for user in USERS:
            done = extracted(memory, user)
            assert set(done.values()) == {1}, "nothing is made twice"
            left = memory.stats(user_id=user)["buffers"]["turns"]
            assert len(done) + left == TURNS, "nothing is lost"
            assert list(dict.fromkeys(numbers(server, user))) == list(range(len(done))), "in the order of the session"
        second.send_signal(signal.SIGTERM)
        _, told = second.communicate(timeout=30)
        assert (second.returncode, b"Traceback" in told) == (0, False)
        assert open_leases(memory) == []
