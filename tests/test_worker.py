"""Workers: what was left undone by anybody gets done, by any number of them, and stops when it is told to."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.errors import UsageError
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.testing import FlakyEmbedder, HashEmbedder
from lightmem_integrations.testing.llm_server import LLMServer, note_taker
from lightmem_integrations.work import Round
from tests.pipeline.test_pipeline import buffers, extracted, talk
from tests.test_cli import LIGHTMEM, run

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def with_llm(path: Path | str, server: LLMServer, **settings: Any) -> LightMem:
    config = LightMemConfig(
        llm="openai/tiny", llm_base_url=server.url, llm_api_key=SecretStr("sk-none"), llm_retries=0, **settings
    )
    return LightMem(path, config, embedder=HashEmbedder())


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, logger="lightmem_integrations.work"):
        yield caplog


# ------------------------------------------------------------------------------------ what gets done
def test_what_could_not_be_encoded_is_encoded(path: Path | str) -> None:
    embedder = FlakyEmbedder(fail_on=range(4))
    with LightMem(path, embedder=embedder) as memory:
        for user in ("ana", "bea"):
            memory.add(talk(3), user_id=user)
        left = memory.stats()["pending"]
        assert left
        done = memory.work(once=True)
        assert (done.encoded, done.errors) == (left, ())
        assert memory.stats()["pending"] == 0


def test_what_goes_on_failing_is_told_and_left_alone_for_a_while(path: Path | str) -> None:
    embedder = FlakyEmbedder(fail_on=lambda texts: any("poison" in text for text in texts))
    with LightMem(path, embedder=embedder) as memory:
        memory.add("A poison for the encoder.", user_id="ana")
        memory.add("Something else.", user_id="ana")
        calls = embedder.calls
        done = memory.work(once=True)
        assert (done.encoded, len(done.errors)) == (0, 1)
        assert "flaky on purpose" in done.errors[0]
        assert embedder.calls <= calls + 2, "it is not tried without end"
        assert memory.stats()["pending"] == 1


def test_the_queue_of_a_closed_engine_is_worked_off(path: Path | str) -> None:
    with LLMServer(note_taker) as server, with_llm(path, server) as watcher, with_llm(path, server) as memory:
        memory.add(talk(20), user_id="ana")
        memory.close()  # puts what its buffers hold into the queue
        assert buffers(watcher)["queued"]
        done = watcher.work(once=True)
        assert done.extracted == 1
        assert not done.errors
        assert extracted(watcher) == Counter(f"m{n}" for n in range(20))


def test_a_little_in_the_queue_waits_for_more_unless_it_is_old(path: Path | str) -> None:
    with (
        LLMServer(note_taker) as server,
        with_llm(path, server) as watcher,
        with_llm(path, server, buffer_max_age_hours=1e-9) as impatient,
    ):
        with with_llm(path, server) as memory:
            memory.add(talk(4), user_id="ana")
        rounds: list[Round] = []
        stop = Event()

        def note(done: Round) -> None:
            rounds.append(done)
            if len(rounds) == 3:
                stop.set()

        watcher.work(stop, interval=0.01, on_round=note)
        assert (sum(r.done for r in rounds), server.calls) == (0, [])
        assert impatient.work(once=True).extracted == 1
        assert extracted(watcher) == Counter(f"m{n}" for n in range(4))


def test_a_session_that_fell_silent_is_flushed(path: Path | str) -> None:
    with LightMem(path, LightMemConfig(memory_manager="none"), embedder=HashEmbedder()) as memory:
        memory.add(talk(3), user_id="ana")
    with LightMem(path, embedder=HashEmbedder()) as memory:
        assert memory.work(once=True).extracted == 0
        assert buffers(memory)["turns"] == 3
    with LightMem(path, LightMemConfig(buffer_max_age_hours=1e-9), embedder=HashEmbedder()) as memory:
        assert memory.work(once=True).extracted == 1
        assert extracted(memory) == Counter(["m0", "m1", "m2"])


def test_full_buffers_that_nobody_cut_are_cut(path: Path | str) -> None:
    with LightMem(path, LightMemConfig(memory_manager="none"), embedder=HashEmbedder()) as memory:
        for user in ("ana", "bea"):
            memory.add(talk(80), user_id=user)
    with LightMem(path, embedder=HashEmbedder()) as memory:
        assert memory.work(once=True).extracted == 2
        for user in ("ana", "bea"):
            assert buffers(memory, user)["turns"] < 30
            assert extracted(memory, user)


def test_an_index_outside_learns_what_others_wrote(path: Path | str) -> None:
    pytest.importorskip("qdrant_client")
    config = LightMemConfig(qdrant=(":memory:",), memory_manager="none")
    with LightMem(path, config, embedder=HashEmbedder()) as memory:
        memory.add(talk(2), user_id="ana")
        with LightMem(path, LightMemConfig(memory_manager="none"), embedder=HashEmbedder()) as other:
            other.add(talk(9, "b"), user_id="bea")
            other.forget(user_id="ana")
        projection = memory._projection
        assert projection is not None
        assert list(projection.differences())
        assert memory.work(once=True).indexed == projection_rows(9, 2)
        assert (list(projection.differences()), projection.collection.count()) == ([], 9)


def projection_rows(added: int, forgotten: int) -> int:
    """An entry is news when it is made, when it is encoded, and when it goes."""
    return 2 * added + forgotten


def test_online_update_that_failed_is_done_later(path: Path | str) -> None:
    offline = Event()

    def script(request: dict[str, Any]) -> str:
        if not offline.is_set() and "\nolder entry\n" in request["messages"][-1]["content"]:
            return "no"
        return note_taker(request)

    settings = {"update": "online", "update_similarity": 0.3}
    with LLMServer(script) as server, with_llm(path, server, **settings) as memory:
        memory.add(talk(60), user_id="ana")
        memory.flush()
        undecided = select(s.update_queue.c.memory_id).where(s.update_queue.c.status == "pending")
        with memory._store.reading("ana") as connection:
            assert connection.execute(undecided).first()
        offline.set()
        assert memory.work(once=True).updated == 1
        with memory._store.reading("ana") as connection:
            assert not connection.execute(undecided).first()


# ------------------------------------------------------------------------------------ several, and the end
def test_two_workers_share_a_queue_and_make_nothing_twice(path: Path | str) -> None:
    users = [f"user {n}" for n in range(6)]
    with LLMServer(note_taker) as server:
        with with_llm(path, server) as first, with_llm(path, server) as second:
            with with_llm(path, server) as memory:
                memory._reflection._worker.close()  # it only queues
                for user in users:
                    memory.add(talk(40), user_id=user)
            for memory in (first, second):
                assert sum(buffers(memory, user)["queued"] for user in users) > 6
            workers = [Thread(target=memory.work, kwargs={"once": True}) for memory in (first, second)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(60)
            first.work(once=True)
            for user in users:
                assert extracted(first, user) == Counter(f"m{n}" for n in range(40))
        asked = [turn for call in server.calls for turn in call.prompt.splitlines() if turn.startswith("[")]
        assert len(asked) == 40 * len(users), "no turn was shown to the model twice"


def test_stopping_finishes_what_is_under_way_and_leaves_the_rest_to_others(path: Path | str) -> None:
    asked, go_on = Event(), Event()

    def script(request: dict[str, Any]) -> str:
        asked.set()
        go_on.wait(20)
        return note_taker(request)

    with LLMServer(script) as server, with_llm(path, server, llm_concurrency=1) as memory:
        with with_llm(path, server) as writer:
            writer._reflection._worker.close()
            writer.add(talk(200), user_id="ana")
        segments = buffers(memory)["queued"]
        stop = Event()
        worker = Thread(target=memory.work, args=(stop,))
        worker.start()
        assert asked.wait(20)
        stop.set()
        go_on.set()
        worker.join(20)
        assert not worker.is_alive()
        left = buffers(memory)["queued"]
        assert 0 < left < segments, "one call was finished, and no other begun"
        assert len(server.calls) == 1
        with memory._store.reading(None) as connection:
            assert not connection.execute(select(s.segments).where(s.segments.c.owner.is_not(None))).first()
        assert memory.flush() >= 0
        assert extracted(memory) == Counter(f"m{n}" for n in range(200)), "the engine goes on working"


def test_a_worker_waits_for_work_and_is_told_of_every_round(path: Path | str) -> None:
    rounds: list[Round] = []
    stop = Event()
    with LightMem(path, embedder=FlakyEmbedder(fail_on=range(1))) as memory:
        worker = Thread(target=memory.work, args=(stop,), kwargs={"interval": 0.01, "on_round": rounds.append})
        worker.start()
        memory.add("I live in Porto.", user_id="ana")
        limit = time.monotonic() + 20
        while (memory.stats()["pending"] or not rounds) and time.monotonic() < limit:
            time.sleep(0.01)
        stop.set()
        worker.join(20)
        assert memory.stats()["pending"] == 0


def test_every_round_is_a_line_of_json_without_text(path: Path | str, logged: pytest.LogCaptureFixture) -> None:
    with LightMem(path, embedder=FlakyEmbedder(fail_on=range(1))) as memory:
        memory.add("A secret of mine.", user_id="ana")
        memory.work(once=True)
    lines = [r for r in logged.records if r.levelno == logging.INFO]
    assert [json.loads(r.getMessage())["encoded"] for r in lines] == [1]
    assert set(json.loads(lines[0].getMessage())) == set(Round.__slots__)
    assert all(word not in record.getMessage() for record in logged.records for word in ("secret", "ana"))


def test_what_is_away_is_told_once(path: Path | str, logged: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("qdrant_client")
    config = LightMemConfig(qdrant=("http://127.0.0.1:9",), memory_manager="none", qdrant_timeout_seconds=1.0)
    rounds: list[Round] = []
    stop = Event()
    with LightMem(path, config, embedder=HashEmbedder()) as memory:
        memory.add("I live in Porto.", user_id="ana")
        worker = Thread(target=memory.work, args=(stop,), kwargs={"interval": 0.01, "on_round": rounds.append})
        worker.start()
        limit = time.monotonic() + 20
        while len(rounds) < 5 and time.monotonic() < limit:
            time.sleep(0.01)
        stop.set()
        worker.join(20)
    assert all(len(done.errors) == 1 for done in rounds[:5])
    told = [record for record in logged.records if record.name.endswith(".work")]
    assert sum("127.0.0.1:9" in record.getMessage() for record in told) == 1


@pytest.mark.parametrize("interval", [0, -1, float("nan"), "1"])
def test_a_bad_interval_is_refused(interval: Any) -> None:
    with LightMem(":memory:", embedder=HashEmbedder()) as memory, pytest.raises(UsageError, match="interval"):
        memory.work(once=True, interval=interval)


# ------------------------------------------------------------------------------------ the command
def test_the_command_works_off_and_leaves(path: Path | str) -> None:
    with LightMem(path, LightMemConfig(embedder="none", memory_manager="none")) as memory:
        memory.add(talk(80), user_id="ana")
    printed = json.loads(run("worker", "--db", str(path), "--once", "--json").stdout)
    assert (printed["extracted"], printed["errors"]) == (1, [])
    with LightMem(path, LightMemConfig(embedder="none")) as memory:
        assert extracted(memory)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_with_0(path: Path | str, number: signal.Signals) -> None:
    with LightMem(path, LightMemConfig(embedder="none", memory_manager="none")) as memory:
        memory.add(talk(80), user_id="ana")
    started = [*LIGHTMEM, "worker", "--db", str(path)]
    with subprocess.Popen(started, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root()}) as process:
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["extracted"] == 1, "it is at work"
        process.send_signal(number)
        _, rest = process.communicate(timeout=20)
        assert (process.returncode, b"Traceback" in rest) == (0, False)


def root() -> str:
    return os.pathsep.join(entry for entry in sys.path if entry)


def test_there_is_no_database_to_work_on() -> None:
    run("worker", "--db", "nothing.db", "--once", code=1)
