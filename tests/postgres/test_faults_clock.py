"""Clocks of hosts that disagree, or go back: leases, and the order of turns."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from pydantic import SecretStr

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.core.ports import ClosedSegment
from lightmem_integrations.stores.sql.buffers import SqlBuffers
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing import HashEmbedder
from lightmem_integrations.testing.llm_server import LLMServer, note_taker
from tests.pipeline.test_pipeline import extracted, talk

pytestmark = [pytest.mark.postgres, pytest.mark.allow_hosts(["127.0.0.1"])]

PLAIN = LightMemConfig(memory_manager="none")


@contextmanager
def clock(hours: float) -> Iterator[None]:
    """The clock of this process is off by so much."""
    real = time.time_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: real() + int(hours * 3.6e12))
        yield


def with_llm(url: str, server: LLMServer) -> LightMem:
    config = LightMemConfig(llm="openai/tiny", llm_base_url=server.url, llm_api_key=SecretStr("sk-none"), llm_retries=0)
    return LightMem(url, config, embedder=HashEmbedder())


def queue(url: str, server: LLMServer, turns: int) -> None:
    """Turns of ana's that wait for the language model."""
    with with_llm(url, server) as memory:
        memory.add(talk(turns), user_id="ana")


def test_what_a_host_with_a_fast_clock_had_when_it_died_is_taken_over(url):
    with LLMServer(note_taker) as server:
        queue(url, server, 20)
        with closing(SqlStore(url)) as store, clock(hours=1):
            assert SqlBuffers(store).claim("ana", "dead", 30.0, (9, 10**6), 0)
        with with_llm(url, server) as memory:
            memory.flush()
            assert extracted(memory) == Counter(f"m{n}" for n in range(20))


def test_what_a_living_host_has_is_left_to_it(url):
    with LLMServer(note_taker) as server:
        queue(url, server, 20)
        with closing(SqlStore(url)) as store, clock(hours=-0.001):
            assert SqlBuffers(store).claim("ana", "alive", 30.0, (9, 10**6), 0)
        with with_llm(url, server) as memory:
            assert memory.work(once=True).extracted == 0
            assert server.calls == []
            assert extracted(memory) == Counter()


def test_turns_of_a_session_are_worked_on_in_order_though_the_clock_went_back(url):
    with LightMem(url, PLAIN, embedder=HashEmbedder()) as memory:
        memory.add(talk(120), user_id="ana")
    with closing(SqlStore(url)) as store:
        buffers = SqlBuffers(store)
        for hours in (0.0, -1.0, -2.0):
            with clock(hours):
                ids = tuple(turn.id for turn in buffers.buffered("ana", "default", 40))
                assert buffers.hold("ana", "default", [ClosedSegment(ids, (None,) * 40, 2_000)])
                assert buffers.enqueue("ana", "default", 0) == 1
    with LLMServer(note_taker) as server, with_llm(url, server) as memory:
        memory.flush()
        assert extracted(memory) == Counter(f"m{n}" for n in range(120))
    told = [int(n) for call in server.calls for n in re.findall(r"N(\d{3})", call.prompt)]
    assert told == sorted(told)
    assert len(set(told)) == 120
