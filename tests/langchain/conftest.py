"""A model that says what it is told to, and an engine with small vectors."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from lightmem_integrations import LightMem
from lightmem_integrations.testing import HashEmbedder

if find_spec("langchain_core") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def lightmem() -> Iterator[LightMem]:
    with LightMem(":memory:", embedder=HashEmbedder()) as memory:
        yield memory


@pytest.fixture
def scripted() -> Any:
    """Makes a chat model of answers; ``model.prompts`` holds the messages of each call."""
    from langchain_core.callbacks import CallbackManagerForLLMRun
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from pydantic import PrivateAttr

    class Scripted(BaseChatModel):
        answers: list[str]
        _prompts: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

        @property
        def _llm_type(self) -> str:
            return "scripted"

        @property
        def prompts(self) -> list[str]:
            return ["\n".join(str(message.content) for message in prompt) for prompt in self._prompts]

        def _generate(
            self,
            messages: list[BaseMessage],
            stop: list[str] | None = None,
            run_manager: CallbackManagerForLLMRun | None = None,
            **kwargs: Any,
        ) -> ChatResult:
            self._prompts.append(list(messages))
            answer = self.answers[(len(self._prompts) - 1) % len(self.answers)]
            return ChatResult(generations=[ChatGeneration(message=AIMessage(content=answer))])

    return lambda *answers: Scripted(answers=list(answers))
