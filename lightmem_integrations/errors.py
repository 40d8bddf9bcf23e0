"""Every error that the package raises, as a tree.

::

    LightMemError
    ├── UsageError             what the caller gave is wrong; nothing was written (also a ValueError)
    │   └── ConfigError        a configuration that cannot work
    ├── MissingDependencyError an optional package is not installed; names the extra (also an ImportError)
    ├── EmbedderError          the embedding model failed or returned something unusable
    │   └── ModelNotFoundError no model file could be found; names the ways to get one
    ├── LLMError               the language model could not be reached or refused; what it was for stays pending
    │   ├── LLMQuotaError      the daily token quota is used up; names the hour of its return
    │   └── LLMResponseError   it answered, but with nothing that can be used
    └── StorageError           the database could not do what was asked
        ├── StorageBusyError   another process held the lock for longer than the busy timeout
        ├── CorruptDataError   the file is damaged or is not a LightMem database
        ├── SchemaVersionError the database was made by a newer release
        ├── IndexUnavailableError  the index server cannot be reached; what was written is safe
        ├── EmbedderMismatchError  the database was indexed with another model or analyzer
        └── ClosedError        the memory was used after ``close()``

A message names what was got, what was expected and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "ClosedError",
    "ConfigError",
    "CorruptDataError",
    "EmbedderError",
    "EmbedderMismatchError",
    "IndexUnavailableError",
    "LLMError",
    "LLMQuotaError",
    "LLMResponseError",
    "LightMemError",
    "MissingDependencyError",
    "ModelNotFoundError",
    "SchemaVersionError",
    "StorageBusyError",
    "StorageError",
    "UsageError",
]


class LightMemError(Exception):
    """Base of every error that the package raises on purpose."""


class UsageError(LightMemError, ValueError):
    """An argument breaks a rule; nothing was written.

    Attributes:
        field: the argument or message field at fault, such as ``"messages[3].timestamp"``.
        rule: what is expected, in words.
        value: a short, printable form of what was got.
    """

    def __init__(self, field: str, rule: str, value: object) -> None:
        self.field, self.rule, self.value = field, rule, shorten(value)
        super().__init__(f"{field} {rule} (got {self.value})")


class ConfigError(UsageError):
    """A configuration value, or a combination of them, that cannot work."""


class MissingDependencyError(LightMemError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'lightmem-integrations[{extra}]'"
        )


class EmbedderError(LightMemError):
    """The embedder raised, or returned NaN, a wrong shape or a wrong number of rows."""


class ModelNotFoundError(EmbedderError):
    """No model file was found in any of the places that were searched."""


class LLMError(LightMemError):
    """A language model could not be reached, or refused, after every retry and fallback model."""


class LLMQuotaError(LLMError):
    """The daily token quota is used up; no call was made."""


class LLMResponseError(LLMError):
    """A language model answered, but with nothing that can be used."""


class StorageError(LightMemError):
    """The database refused or failed; what was acknowledged before is still there."""


class StorageBusyError(StorageError):
    """Somebody else held a lock for longer than the busy timeout, or a server had no connection left."""


class CorruptDataError(StorageError):
    """The file is damaged, or it is not a LightMem database."""


class SchemaVersionError(StorageError):
    """The database was made by a newer release than this one."""


class IndexUnavailableError(StorageError):
    """The index server cannot be reached, or has no room; what was written is safe and is indexed later."""


class EmbedderMismatchError(StorageError):
    """The database was indexed with another model or analyzer; ``lightmem reindex`` rebuilds it."""


class ClosedError(StorageError):
    """The memory was used after ``close()``."""


def shorten(value: object, limit: int = 80) -> str:
    """A printable form of any value, at most ``limit`` characters, safe for a terminal."""
    try:
        text = ascii(value) if isinstance(value, str) else repr(value)
    except Exception as error:  # somebody else's __repr__ must not hide our own error
        text = f"<{type(value).__name__}: {type(error).__name__}>"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
