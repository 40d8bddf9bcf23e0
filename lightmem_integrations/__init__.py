"""LightMem memory for LangChain, LlamaIndex and plain Python.

Importing the package is cheap: every name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightmem_integrations.__about__ import __version__

if TYPE_CHECKING:
    from lightmem_integrations.config import LightMemConfig
    from lightmem_integrations.core.ports import Embedder
    from lightmem_integrations.core.types import (
        AddResult,
        Change,
        Context,
        DoctorReport,
        Filter,
        ForgetReport,
        Hit,
        MemoryEntry,
        Message,
        Scope,
        Turn,
    )
    from lightmem_integrations.errors import LightMemError, UsageError
    from lightmem_integrations.memory import LightMem, ScopedMemory

__all__ = [
    "AddResult",
    "Change",
    "Context",
    "DoctorReport",
    "Embedder",
    "Filter",
    "ForgetReport",
    "Hit",
    "LightMem",
    "LightMemConfig",
    "LightMemError",
    "MemoryEntry",
    "Message",
    "Scope",
    "ScopedMemory",
    "Turn",
    "UsageError",
    "__version__",
]

_HOME = {
    "config": ("LightMemConfig",),
    "core.ports": ("Embedder",),
    "core.types": (
        "AddResult",
        "Change",
        "Context",
        "DoctorReport",
        "Filter",
        "ForgetReport",
        "Hit",
        "MemoryEntry",
        "Message",
        "Scope",
        "Turn",
    ),
    "errors": ("LightMemError", "UsageError"),
    "memory": ("LightMem", "ScopedMemory"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
