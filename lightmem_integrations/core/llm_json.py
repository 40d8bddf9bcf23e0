"""Reading the JSON that a language model wrote, with what usually goes wrong around and inside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from lightmem_integrations.core.ports import LLM, Purpose
from lightmem_integrations.core.prompts import Prompt, repair
from lightmem_integrations.errors import LLMResponseError

__all__ = ["Loose", "ask", "clean_text", "label_of", "read_json", "words_of"]

T = TypeVar("T")

# Strings are matched first, so that a comma inside one is left alone; also one that does not end, so that
# no text takes more than one pass.
_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*\\?(?:"|\Z))|,(?=\s*[}\]])', re.DOTALL)
_MAX_CHARS = 400_000
_START = re.compile(r'\{(?=\s*["}])|\[(?=\s*\{)')  # of an object, or of a list of objects
_STARTS = 20  # of those are tried: prose may hold some before the answer
_UNSTORABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_SPACE = re.compile(r"\s+")
_DECODER = json.JSONDecoder(strict=False)  # line breaks inside strings pass


@dataclass(frozen=True, slots=True)
class Loose:
    """What could be read.

    Attributes:
        value: a dict or a list; None when there is nothing to read.
        open_depth: 0 for a complete value. Else the answer was cut off or broken, ``value`` holds the
            objects that were complete by then, and this many brackets were still open after the last.
        problem: what was wrong, in our own words; "" for a complete value.
    """

    value: Any
    open_depth: int = 0
    problem: str = ""


def read_json(text: str) -> Loose:
    """The first JSON object or array in a text.

    Passes over code fences, reasoning in ``<think>``, prose before and after, trailing commas and raw line
    breaks in strings. Of an answer that is cut off or broken, every object that was complete is kept.
    """
    if len(text) > _MAX_CHARS:
        return Loose(None, problem=f"it has more than {_MAX_CHARS:,} characters")
    body = _after_thinking(text)
    starts = [match.start() for match in _START.finditer(body)][:_STARTS]
    try:
        for start in starts:
            value = _decoded(body[start:])
            if value is not None:
                return Loose(value)
            saved = _salvaged(body[start:])
            if saved is not None:
                return saved
    except RecursionError:
        return Loose(None, problem="its JSON is nested too deeply")
    return Loose(None, problem="its JSON is broken from the start" if starts else "it holds no JSON")


def _after_thinking(text: str) -> str:
    return text.partition("</think>")[2] or text if text.lstrip().startswith("<think>") else text


def _decoded(text: str) -> Any:
    """The value at the start, if it is an object, or a list of objects; None otherwise."""
    for source in (text, _without_trailing_commas(text)):
        try:
            value, _ = _DECODER.raw_decode(source)
        except ValueError:
            continue
        # "[1] says ..." in prose is a list too, but no answer.
        return value if isinstance(value, dict) or (value and all(isinstance(v, dict) for v in value)) else None
    return None


def _salvaged(text: str) -> Loose | None:
    """The complete objects of a broken text, inside the brackets that enclose them."""
    text = _without_trailing_commas(text)
    try:
        _DECODER.raw_decode(text)
        return None  # complete, and refused before
    except json.JSONDecodeError as error:
        text = text[: error.pos]
    except ValueError:  # such as a number of more digits than Python reads
        return None
    end, open_brackets = _last_complete_object(text)
    if not open_brackets:
        return None
    closers = "".join("}" if bracket == "{" else "]" for bracket in reversed(open_brackets))
    try:
        value = json.loads(text[:end] + closers, strict=False)
    except ValueError:
        return None
    return Loose(value, len(open_brackets), "its JSON is cut off or broken")


def _without_trailing_commas(text: str) -> str:
    return _TRAILING_COMMA.sub(lambda match: match[1] or "", text)


def _last_complete_object(text: str) -> tuple[int, list[str]]:
    """Where the last complete inner object ends, and the brackets open there. Valid JSON up to its end."""
    stack: list[str] = []
    end, open_there = 0, list[str]()
    in_string = escaped = False
    for at, char in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "{[":
            stack.append(char)
        elif char in "}]" and stack and stack.pop() == "{" and stack:
            end, open_there = at + 1, list(stack)
    return end, open_there


def ask(llm: LLM, prompt: Prompt, purpose: Purpose, read: Callable[[str], T]) -> T:
    """One call, and one more when the answer cannot be used.

    Args:
        llm: whom to ask.
        prompt: the question.
        purpose: what the tokens are spent on.
        read: makes the result of an answer's text, or raises ``LLMResponseError`` in our own words.

    Raises:
        LLMResponseError: the second answer cannot be used either.
        LLMError: a call failed.
    """
    answer = llm.complete(prompt.system, prompt.user, schema=prompt.schema, purpose=purpose)
    try:
        return read(answer.text)
    except LLMResponseError as error:
        again = repair(prompt, str(error))
    answer = llm.complete(again.system, again.user, schema=again.schema, purpose=purpose)
    try:
        return read(answer.text)
    except LLMResponseError as error:
        raise LLMResponseError(f"{llm.name} gave two answers that cannot be used: {error}") from None


# ------------------------------------------------------------------------------------ reading fields
def clean_text(value: Any, limit: int) -> str:
    """A string that a database can hold, trimmed; "" for anything else.

    That includes what exceeds the limit, and what has no letter or digit, such as a "..." copied from the prompt.
    """
    if not isinstance(value, str) or len(value) > limit or not any(map(str.isalnum, value)):
        return ""
    return _UNSTORABLE.sub("", value).strip()


def words_of(value: Any, count: int, limit: int = 100) -> tuple[str, ...]:
    """Up to ``count`` different strings of a list, each on one line; the rest is left out."""
    if not isinstance(value, list):
        return ()
    words = (_SPACE.sub(" ", clean_text(word, limit)) for word in value)
    return tuple(dict.fromkeys(word for word in words if word))[:count]


def label_of(value: Any) -> int | None:
    """A number that names something; None for what is none. ``3``, ``3.0``, ``"3"`` and ``"[3]"`` are 3."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str):
        match = re.fullmatch(r"\s*\[?([0-9]{1,6})\]?\s*", value)
        return int(match[1]) if match else None
    return value if isinstance(value, int) else None
