"""``lightmem_tools``: searching, saving and forgetting as tools that a model may call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, get_args

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field, create_model

from lightmem_integrations._adapters import (
    FORGET_MEMORY,
    SAVE_MEMORY,
    SEARCH_MEMORY,
    Flow,
    OnError,
    Toolbox,
    ToolText,
    arun,
    run,
)
from lightmem_integrations.core.types import Scope
from lightmem_integrations.errors import UsageError
from lightmem_integrations.memory import LightMem

__all__ = ["lightmem_tools"]

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
        UsageError: ``user_id`` cannot be one; from the function, when a tool is called. ``on_error`` is
            neither of the two.
    """
    if on_error not in get_args(OnError):
        raise UsageError("on_error", f"must be one of {', '.join(get_args(OnError))}", on_error)
    box = Toolbox(lightmem, session_id, max_tokens, k, on_error)
    if not callable(user_id):
        Scope(user_id, session_id)
    made = [(box.search, SEARCH_MEMORY), (box.save, SAVE_MEMORY), (box.forget, FORGET_MEMORY)]
    return [_tool(lightmem, user_id, flow, told) for flow, told in (made if forget else made[:2])]


def _tool(lightmem: LightMem, user_id: UserId, flow: Callable[[str, str], Flow[str]], told: ToolText) -> BaseTool:
    """A flow of user and argument as a tool; LangChain fills in the config, which may say who the user is."""

    def whose(config: RunnableConfig) -> str:
        return user_id(config) if callable(user_id) else user_id

    # LangChain gives the argument by name, and by place where a tool is invoked with a plain string.
    def sync(*given: str, config: RunnableConfig, **named: str) -> str:
        (argument,) = (*given, *named.values())
        return run(lightmem, flow(whose(config), argument))

    async def native(*given: str, config: RunnableConfig, **named: str) -> str:
        (argument,) = (*given, *named.values())
        return await arun(lightmem, flow(whose(config), argument))

    fields: dict[str, Any] = {told.argument: (str, Field(description=told.meaning))}
    schema: type[BaseModel] = create_model(told.name, **fields)
    return StructuredTool.from_function(sync, native, name=told.name, description=told.description, args_schema=schema)
