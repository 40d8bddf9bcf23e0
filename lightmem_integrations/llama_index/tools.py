"""``lightmem_tools``: searching, saving and forgetting as tools that a model may call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_index.core.tools import BaseTool, FunctionTool
from pydantic import BaseModel, Field, create_model

from lightmem_integrations._adapters import (
    FORGET_MEMORY,
    SAVE_MEMORY,
    SEARCH_MEMORY,
    Flow,
    Toolbox,
    ToolText,
    arun,
    run,
)
from lightmem_integrations.core.types import Scope
from lightmem_integrations.memory import LightMem

__all__ = ["lightmem_tools"]


def lightmem_tools(
    lightmem: LightMem,
    user_id: str,
    *,
    session_id: str | None = None,
    max_tokens: int = 500,
    k: int = 20,
    forget: bool = False,
    raise_on_error: bool = False,
) -> list[BaseTool]:
    """Tools by which an agent uses a user's memory: ``search_memory``, ``save_memory``, ``forget_memory``.

    The model chooses the words and never the user: ``user_id`` is in no schema.

    Args:
        lightmem: the engine.
        user_id: whose memory. There is no default.
        session_id: where notes are saved; None for the session ``default``. Searches see all sessions.
        max_tokens: budget of what a search returns.
        k: memories to choose from.
        forget: also give ``forget_memory``.
        raise_on_error: raise when the engine fails, rather than tell the model that memory is not available.

    Raises:
        UsageError: ``user_id`` or ``session_id`` cannot be one.
    """
    scope = Scope(user_id, session_id)
    box = Toolbox(lightmem, session_id, max_tokens, k, "raise" if raise_on_error else "warn")
    offered = [(SEARCH_MEMORY, box.search), (SAVE_MEMORY, box.save)]
    if forget:
        offered.append((FORGET_MEMORY, box.forget))
    return [_tool(lightmem, scope.user_id, text, flow) for text, flow in offered]


def _tool(lightmem: LightMem, user_id: str, text: ToolText, flow: Callable[[str, str], Flow[str]]) -> FunctionTool:
    # What a model makes up beside the one argument, a user perhaps, is not heard.
    def sync(**given: Any) -> str:
        return run(lightmem, flow(user_id, str(given[text.argument])))

    async def native(**given: Any) -> str:
        return await arun(lightmem, flow(user_id, str(given[text.argument])))

    fields: dict[str, Any] = {text.argument: (str, Field(description=text.meaning))}
    schema: type[BaseModel] = create_model(text.name, **fields)
    return FunctionTool.from_defaults(
        fn=sync, async_fn=native, name=text.name, description=text.description, fn_schema=schema
    )
