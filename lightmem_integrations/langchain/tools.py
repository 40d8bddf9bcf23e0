"""``lightmem_tools``: searching, saving and forgetting as tools that a model may call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field, create_model

from lightmem_integrations._adapters import (
    Flow,
    OnError,
    arun,
    call,
    entries_behind,
    failing_open,
    recall,
    record,
    run,
)
from lightmem_integrations.core.types import Scope
from lightmem_integrations.memory import LightMem

__all__ = ["lightmem_tools"]

_DOWN = "Memory is not available right now."
UserId: TypeAlias = str | Callable[[RunnableConfig], str]


def lightmem_tools(
    lightmem: LightMem,
    *,
    user_id: UserId,
    session_id: str | None = None,
    max_tokens: int = 500,
    k: int = 20,
    forget: bool = False,
    on_error: OnError = "warn",
) -> list[BaseTool]:
    """Tools by which an agent uses a user's memory: ``search_memory``, ``save_memory``, ``forget_memory``.

    The model chooses the words and never the user: ``user_id`` is in no schema.

    Args:
        lightmem: the engine.
        user_id: whose memory; or a function of the run's config, for one agent with many users:
            ``lambda config: config["configurable"]["user_id"]``. Take it from what the server sets, never
            from what a client may send.
        session_id: where notes are saved; None for the session ``default``. Searches see all sessions.
        max_tokens: budget of what a search returns.
        k: memories to choose from.
        forget: also give ``forget_memory``.
        on_error: ``warn`` tells the model that memory is not available, ``raise`` raises.

    Raises:
        UsageError: ``user_id`` cannot be one; from the function, when a tool is called.
    """
    memory = _Memory(lightmem, user_id, session_id, max_tokens, k, on_error)
    if not callable(user_id):
        Scope(user_id, session_id)
    search, save, forgetting = (
        StructuredTool.from_function(
            *memory.driven(flow), name=name, description=description, args_schema=_schema(name, argument, meaning)
        )
        for flow, name, description, argument, meaning in (
            (
                memory.search,
                "search_memory",
                "Search what this user said in earlier conversations.",
                "query",
                "a full question",
            ),
            (
                memory.save,
                "save_memory",
                "Remember something about this user for later conversations.",
                "text",
                "one full sentence that can be understood by itself",
            ),
            (
                memory.forget,
                "forget_memory",
                "Forget one memory of this user for good, when the user asks for it.",
                "line",
                "a line that search_memory showed, quoted exactly, from the dash on",
            ),
        )
    )
    return [search, save, forgetting] if forget else [search, save]


@dataclass(frozen=True)
class _Memory:
    lightmem: LightMem
    user_id: UserId
    session_id: str | None
    max_tokens: int
    k: int
    on_error: OnError

    def driven(self, flow: Callable[[str, str], Flow[str]]) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """A flow of user and argument as a sync and an async function, whose config LangChain fills in."""

        def whose(config: RunnableConfig) -> str:
            return self.user_id(config) if callable(self.user_id) else self.user_id

        def sync(config: RunnableConfig, **given: str) -> str:
            (argument,) = given.values()
            return run(self.lightmem, flow(whose(config), argument))

        async def native(config: RunnableConfig, **given: str) -> str:
            (argument,) = given.values()
            return await arun(self.lightmem, flow(whose(config), argument))

        return sync, native

    def search(self, user_id: str, query: str) -> Flow[str]:
        found = recall(self.lightmem, query, user_id=user_id, max_tokens=self.max_tokens, k=self.k, on_error="raise")
        context = yield from failing_open(self.lightmem, found, default=None, on_error=self.on_error)
        return _DOWN if context is None else context.text or "Nothing is remembered about that."

    def save(self, user_id: str, text: str) -> Flow[str]:
        # The text makes the id, so that saying it twice stores it once.
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
        note = {"role": "assistant", "content": text, "id": f"note-{digest}", "metadata": {"tool": "save_memory"}}
        saved = yield from record(
            self.lightmem, [note], user_id=user_id, session_id=self.session_id, on_error=self.on_error
        )
        return "Saved." if saved else _DOWN

    def forget(self, user_id: str, line: str) -> Flow[str]:
        forgotten = self._forgotten(user_id, line)
        ids = yield from failing_open(self.lightmem, forgotten, default=None, on_error=self.on_error)
        if ids is None:
            return _DOWN
        return "Forgotten." if ids else "No memory reads like that. Quote a whole line that search_memory showed."

    def _forgotten(self, user_id: str, line: str) -> Flow[list[str]]:
        entries = yield from entries_behind(line, user_id=user_id)
        ids = [entry.id for entry in entries]
        if ids:
            yield from call("forget", user_id=user_id, ids=ids)
        return ids


def _schema(name: str, argument: str, meaning: str) -> type[BaseModel]:
    fields: dict[str, Any] = {argument: (str, Field(description=meaning))}
    return create_model(name, **fields)
