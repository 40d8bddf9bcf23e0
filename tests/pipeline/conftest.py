"""A memory whose language model is a real HTTP server with scripted answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.testing.embedders import HashEmbedder
from lightmem_integrations.testing.llm_server import LLMServer

Served = Callable[..., LightMem]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Open a memory on ``tmp_path`` whose model is the server given; without retries, which take seconds."""
    with ExitStack() as stack:

        def open_memory(server: LLMServer, name: str = "m.db", **settings: Any) -> LightMem:
            config = LightMemConfig(
                llm="openai/tiny",
                llm_base_url=server.url,
                llm_api_key=SecretStr("sk-none"),
                **{"llm_retries": 0, "llm_timeout_seconds": 10, **settings},
            )
            return stack.enter_context(LightMem(tmp_path / name, config, embedder=HashEmbedder()))

        yield open_memory
