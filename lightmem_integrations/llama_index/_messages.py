"""What was said in LlamaIndex messages, without traces, tool calls and what an agent told itself."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import count, pairwise
from typing import Any

from llama_index.core.llms import ChatMessage

from lightmem_integrations._adapters import text_of
from lightmem_integrations.core.normalize import read_timestamp
from lightmem_integrations.core.types import Role
from lightmem_integrations.errors import UsageError

__all__ = ["Said", "answer_of", "question_of", "said_in", "shown_ids"]

logger = logging.getLogger(__name__)

_ROLES: dict[str, Role] = {
    **{"user": "user", "assistant": "assistant", "model": "assistant", "chatbot": "assistant"},
    **{"tool": "tool", "function": "tool"},
}
# What a ReAct agent puts into its memory: steps, of which the last holds the answer.
_TRACE = re.compile(r"\s*Thought:.*?^(?:Action|Answer):", re.DOTALL | re.MULTILINE)
# What a CodeActAgent puts there: code as words of the assistant, and what it printed as words of the user.
_CODE = re.compile(r"<execute>.*?</execute>", re.DOTALL)
_PRINTED = "Result of executing the code given:"


# Keeps the order of what arrives together: equal times the engine would set 500 ms apart, past what comes next.
_SPACING = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Said:
    """What one message said, when it arrived, and the time that it carries, as it carries it."""

    role: Role
    text: str
    arrived: datetime
    stamp: Any = None
    speaker: str | None = None
    metadata: Mapping[str, Any] | None = None

    def id(self, session_id: str, n: object) -> str:
        """The same for the same words; ``n`` tells apart what was said several times in a session."""
        name = json.dumps([session_id, self.role, self.speaker, self.text, n])
        return f"li-{hashlib.sha256(name.encode('ascii')).hexdigest()}"

    def as_message(self, id: str) -> dict[str, Any]:
        """The form that the engine reads."""
        message = {"id": id, "role": self.role, "content": self.text, "timestamp": self._time()}
        return message | {"speaker": self.speaker, "metadata": dict(self.metadata or {})}

    def _time(self) -> datetime:
        try:
            return self.arrived if self.stamp is None else read_timestamp(self.stamp)
        except UsageError as error:  # the words are worth more than their date
            logger.warning("A message is dated by its arrival: %s %s", error.field, error.rule)
            return self.arrived


def said_in(messages: Iterable[ChatMessage], *, tool_results: bool = False) -> list[Said]:
    """What the user and the assistant said to each other, stamped on arrival where there is no time.

    Tool calls and code that an agent ran, what is said beside them, system messages and messages without text
    are left out; of a ReAct trace the answer is kept. The messages are not modified.

    Args:
        messages: as LlamaIndex has them. Their ``additional_kwargs`` may hold ``timestamp``, ``speaker``
            and ``metadata``.
        tool_results: also keep what tools returned.
    """
    given = list(messages)
    arrived = datetime.now(timezone.utc) - len(given) * _SPACING
    printed = _printed(given)
    found = (
        _read(message, arrived + (n + 1) * _SPACING, printed=n in printed)
        for n, message in enumerate(given)
        if n + 1 not in printed  # the code that printed it
    )
    return [said for said in found if said and (tool_results or said.role != "tool")]


def answer_of(text: str) -> str:
    """The answer at the end of a ReAct trace, "" when it has none; any other text as it is."""
    if not _TRACE.match(text):
        return text
    last_step = text[max(text.rfind("\nThought:"), 0) :]
    for part in (last_step, text):  # an answer may hold a line that looks like a step
        _, found, answer = part.partition("\nAnswer:")
        if found:
            return answer.strip()
    return ""


def question_of(messages: Sequence[ChatMessage]) -> tuple[str, int]:
    """The last thing that the user said, and where the user took the word.

    An agent shows a memory its question twice in a row, and once more with the answer behind it: what
    stands before it is the same each time.
    """
    printed = _printed(messages)
    for at in range(len(messages) - 1, -1, -1):
        question = _text(messages[at]).strip() if messages[at].role == "user" and at not in printed else ""
        if question:
            while at and messages[at - 1].role == "user":
                at -= 1
            return question, at
    return "", 0


def shown_ids(messages: Iterable[ChatMessage], session_id: str) -> list[str]:
    """Ids under which what a prompt shows was remembered."""
    numbers: dict[str, Any] = {}
    ids = []
    for said in said_in(messages, tool_results=True):
        name = said.id(session_id, None)
        ids.append(said.id(session_id, next(numbers.setdefault(name, count()))))
    return ids


def _printed(messages: Sequence[ChatMessage]) -> set[int]:
    """Which messages are what code printed: they stand behind the code, and begin as a CodeActAgent has them begin.

    Either sign alone could be something that was said.
    """
    return {
        n
        for n, (code, result) in enumerate(pairwise(messages), 1)
        if (code.role, result.role) == ("assistant", "user")
        and _text(result).startswith(_PRINTED)
        and _CODE.search(_text(code))
    }


def _read(message: ChatMessage, arrived: datetime, *, printed: bool) -> Said | None:
    role = "tool" if printed else _ROLES.get(str(getattr(message.role, "value", message.role)))
    if role is None or _is_call(message):
        return None
    text = _text(message)
    text = answer_of(text) if role == "assistant" else text
    text = text.removeprefix(_PRINTED).lstrip() if printed else text
    if not text.strip():
        return None
    carried = message.additional_kwargs
    speaker, metadata = carried.get("speaker"), carried.get("metadata")
    return Said(
        role,
        text,
        arrived,
        carried.get("timestamp"),
        speaker if isinstance(speaker, str) and speaker else None,
        metadata if isinstance(metadata, Mapping) else None,
    )


def _text(message: ChatMessage) -> str:
    plain = message.content or ""
    # What the engine makes of attachments; what it cannot read it shall refuse by itself.
    return plain if all(block.block_type == "text" for block in message.blocks) else text_of(message) or plain


def _is_call(message: ChatMessage) -> bool:
    blocks = any(getattr(block, "block_type", None) == "tool_call" for block in message.blocks)
    return blocks or bool(message.additional_kwargs.get("tool_calls"))
