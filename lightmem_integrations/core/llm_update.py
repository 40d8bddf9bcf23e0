"""What becomes of an older entry in the light of later ones, decided by a language model.

One call an entry. A decision is data: it can name only the candidates of its own call, and it destroys
nothing. The caller commits it if no version has changed, and keeps the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from lightmem_integrations.core.llm_extract import MAX_FACT_CHARS
from lightmem_integrations.core.llm_json import ask, clean_text, label_of, read_json
from lightmem_integrations.core.ports import LLM
from lightmem_integrations.core.prompts import summary, update
from lightmem_integrations.errors import LLMResponseError, UsageError

__all__ = ["MAX_CANDIDATES", "MAX_NOTES", "Action", "Decision", "Statement", "Summary", "decide", "summarize"]

MAX_CANDIDATES = 10
"""Later entries compared with one older entry, at most (LightMem: top-k cut to n = 10)."""
MAX_NOTES = 100
MAX_SUMMARY_CHARS = 4_000

Action = Literal["keep", "merge", "supersede"]


@dataclass(frozen=True, slots=True)
class Statement:
    """An entry as the model gets to see it. ``timestamp`` is when it was said."""

    id: str
    text: str
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with the older entry.

    Attributes:
        action: ``keep`` changes nothing; ``supersede``: the one candidate in ``ids`` replaces it;
            ``merge``: it and the candidates in ``ids`` become one entry with ``text``.
        ids: of candidates that were given, in their order; empty with ``keep``.
        text: with ``merge``, the statement that holds all of them, at most 2,000 characters; else "".
    """

    action: Action
    ids: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary of several entries, and the ids of those that it rests on (all, where none were named)."""

    text: str
    ids: tuple[str, ...]


def decide(llm: LLM, entry: Statement, candidates: Sequence[Statement]) -> Decision:
    """Ask what becomes of ``entry``. Without candidates it is kept, and nobody is asked.

    Args:
        llm: whom to ask.
        entry: the older entry.
        candidates: at most 10 later entries that resemble it.

    Raises:
        UsageError: too many candidates, or two with one id, or the entry is among them.
        LLMResponseError: neither answer can be used; the entry is as it was.
        LLMError: a call failed.
    """
    ids = [candidate.id for candidate in candidates]
    if len(ids) > MAX_CANDIDATES:
        raise UsageError("candidates", f"must be at most {MAX_CANDIDATES}", len(ids))
    if len({entry.id, *ids}) != len(ids) + 1:
        raise UsageError("candidates", "must be different entries, without the entry itself", ids)
    if not candidates:
        return Decision("keep")
    prompt = update((entry.timestamp, entry.text), [(c.timestamp, c.text) for c in candidates])
    return ask(llm, prompt, "update", lambda text: _decision(text, ids))


def summarize(llm: LLM, notes: Sequence[Statement], *, max_words: int = 150) -> Summary:
    """Ask for one summary of several entries (cross-event summaries of StructMem, arXiv 2604.21748).

    Args:
        llm: whom to ask.
        notes: 1 to 100 entries, in order of time.
        max_words: what the model is told; a summary of more than 4,000 characters is refused.

    Raises:
        UsageError: no notes, or too many.
        LLMResponseError: neither answer can be used.
        LLMError: a call failed.
    """
    if not 1 <= len(notes) <= MAX_NOTES:
        raise UsageError("notes", f"must be 1 to {MAX_NOTES} entries", len(notes))
    ids = [note.id for note in notes]
    prompt = summary([(note.timestamp, note.text) for note in notes], max_words)
    return ask(llm, prompt, "summarize", lambda text: _summary(text, ids))


def _decision(answer: str, ids: Sequence[str]) -> Decision:
    value = _object(answer)
    action = value.get("decision")
    if action not in get_args(Action):
        raise LLMResponseError(f'"decision" is none of {", ".join(get_args(Action))}')
    if action == "keep":
        return Decision("keep")
    chosen = _chosen(value.get("entries"), ids)
    if action == "supersede":
        if len(chosen) != 1:
            raise LLMResponseError(f'"supersede" needs exactly one number in "entries" and got {len(chosen)}')
        return Decision("supersede", chosen)
    text = clean_text(value.get("text"), MAX_FACT_CHARS)
    if not chosen or not text:
        raise LLMResponseError(
            f'"merge" needs a number in "entries" and a "text" of 1 to {MAX_FACT_CHARS:,} characters'
        )
    return Decision("merge", chosen, text)


def _summary(answer: str, ids: Sequence[str]) -> Summary:
    value = _object(answer)
    text = clean_text(value.get("summary"), MAX_SUMMARY_CHARS)
    if not text:
        raise LLMResponseError(f'"summary" is not a text of 1 to {MAX_SUMMARY_CHARS:,} characters')
    return Summary(text, _chosen(value.get("sources") or [], ids) or tuple(ids))


def _object(answer: str) -> dict[str, Any]:
    loose = read_json(answer)
    if loose.problem:  # half a decision is none
        raise LLMResponseError(loose.problem)
    if not isinstance(loose.value, dict):
        raise LLMResponseError("it is no JSON object")
    return loose.value


def _chosen(numbers: Any, ids: Sequence[str]) -> tuple[str, ...]:
    """The ids behind the numbers, in their own order.

    Raises:
        LLMResponseError: a number that was not shown. It spoils the whole answer: what is changed in a
            memory must not rest on a guess.
    """
    if not isinstance(numbers, list):
        raise LLMResponseError('"entries" is no list of numbers')
    labels = {label_of(number) for number in numbers}
    if not labels <= set(range(1, len(ids) + 1)):
        raise LLMResponseError(f"it names an entry that was not shown; the numbers are 1 to {len(ids)}")
    return tuple(id_ for n, id_ in enumerate(ids, 1) if n in labels)
