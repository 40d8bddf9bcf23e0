"""Conversation files with labelled questions: what the benchmarks and the demo read.

Four formats, told apart by their keys; a file holds one object or a list of them, as ``.json`` or
``.json.gz``:

- our own, the one that the demo conversations are written in::

    {"conversation_id", "language", "speakers",
     "sessions": [{"session_id", "time", "turns": [{"turn_id", "speaker", "text"}]}],
     "questions": [{"question_id", "question", "answer", "category", "evidence_turns"}]}

- the same with ``dataset``, ``iso`` on sessions, ``time`` and ``caption`` on turns, and
  ``category_name``, ``evidence_sessions`` and ``visible_before_session`` on questions;
- LoCoMo, ``locomo10.json`` (Maharana et al. 2024, https://github.com/snap-research/locomo);
- LongMemEval, ``longmemeval_*.json`` (Wu et al. 2024, https://github.com/xiaowu0162/LongMemEval).

>>> conversation = demo()
>>> conversation.speakers
('Hanna', 'Dev')
>>> session_id, first = messages(conversation)[0]
>>> first[0].speaker, first[0].id
('Dev', 's01.01')
"""

from __future__ import annotations

import glob
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from lightmem_integrations.core.types import Message, Role
from lightmem_integrations.errors import UsageError

__all__ = ["Conversation", "Question", "Session", "demo", "load", "messages", "parse_time"]

DEMO_LANGUAGES = ("en", "zh")

_USERS = frozenset({"user", "human"})
_ASSISTANTS = frozenset({"assistant", "ai", "bot", "model"})
_LOCOMO_CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
_TIME_FORMATS = ("%I:%M %p on %d %B, %Y", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%B-%d-%Y")
_FORMATS = (
    "a conversation object, or a list of them, with 'sessions' and 'questions' (our format), "
    "'conversation' and 'qa' (LoCoMo) or 'haystack_sessions' (LongMemEval)"
)


@dataclass(frozen=True, slots=True)
class Session:
    """One sitting of a conversation.

    Attributes:
        time: timezone-aware, None where the file gives none.
        messages: its turns in order; those without any text are left out.
    """

    session_id: str
    time: datetime | None
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One question and where its answer was said.

    Attributes:
        answer: the gold answer as text, None where there is none.
        category: kind of question, such as ``multi-hop``.
        evidence_turns: ids of the turns that an answer needs; empty when it cannot be answered.
        evidence_sessions: ids of their sessions.
        visible_before_session: the question is asked just before this session: nothing said from
            it on may be used. None when everything may.
    """

    question_id: str
    question: str
    answer: str | None
    category: str
    evidence_turns: tuple[str, ...]
    evidence_sessions: tuple[str, ...]
    visible_before_session: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Sessions between two people, or a person and an assistant, and questions about them.

    Attributes:
        language: ISO 639-1 code.
        speakers: names as the file gives them.
        dataset: name of the data set, "" where the file gives none.
    """

    conversation_id: str
    language: str
    sessions: tuple[Session, ...]
    questions: tuple[Question, ...]
    speakers: tuple[str, ...] = ()
    dataset: str = ""


def demo(language: str = "en") -> Conversation:
    """Return the demo conversation that ships with the package.

    Args:
        language: ``en`` (two friends, 177 turns in a year) or ``zh`` (40 turns).

    Raises:
        UsageError: when there is none in this language.
    """
    if language not in DEMO_LANGUAGES:
        raise UsageError("language", f"must be one of {', '.join(DEMO_LANGUAGES)}", language)
    name = f"demo_{language}.json"
    text = (resources.files("lightmem_integrations") / "data" / name).read_text(encoding="utf-8")
    return _conversation(json.loads(text), name)


def load(paths: str | Path | Iterable[str | Path]) -> list[Conversation]:
    """Read conversations from files, in the order of the paths and, within a glob, of the names.

    Args:
        paths: files, folders (every ``.json`` and ``.json.gz`` below) or globs (``**`` crosses
            folders); one or several.

    Raises:
        UsageError: naming the file, the place in it and what was expected there.
    """
    patterns = [paths] if isinstance(paths, str | Path) else list(paths)
    return [conversation for path in _files(patterns) for conversation in _read(path)]


def messages(conversation: Conversation) -> list[tuple[str, list[Message]]]:
    """Return what ``LightMem.add`` takes: the id of each session and its messages.

    A speaker called user, human, assistant, AI, bot or model becomes that role without a name;
    every other speaker is a ``user`` with a name. A turn without a time takes its session's.
    Sessions in which nothing was said are left out.
    """
    return [(session.session_id, list(session.messages)) for session in conversation.sessions if session.messages]


def parse_time(value: str | None) -> datetime | None:
    """Read a time in any of the forms that the data sets use.

    ISO 8601, ``1:56 pm on 8 May, 2023``, ``2023/05/20 (Sat) 02:21``, ``March-15-2024``,
    ``2025-12-15 (Monday)``. UTC where the text names no zone, midnight where it names no hour.

    Raises:
        UsageError: when it is none of them.

    >>> parse_time("1:56 pm on 8 May, 2023").isoformat()
    '2023-05-08T13:56:00+00:00'
    """
    if not value:
        return None
    text = re.sub(r"\s*\(\w+\)", "", value).strip()
    time = _first_that_fits(text)
    if time is None:
        raise UsageError(
            "time",
            f"must be ISO 8601 or look like {', '.join(datetime(2024, 3, 15).strftime(f) for f in _TIME_FORMATS)}",
            value,
        )
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def _first_that_fits(text: str) -> datetime | None:
    try:
        # Python 3.10 does not know the Z of ISO 8601.
        return datetime.fromisoformat(re.sub("Z$", "+00:00", text))
    except ValueError:
        pass
    for pattern in _TIME_FORMATS:
        try:
            return datetime.strptime(text, pattern)
        except ValueError:
            continue
    return None


# ------------------------------------------------------------------------------------ files
def _files(patterns: Iterable[str | Path]) -> Iterator[Path]:
    for pattern in patterns:
        found = _matches(pattern)
        if not found:
            raise UsageError("path", "must be a file, a folder with JSON files or a glob that matches", str(pattern))
        yield from found


def _matches(pattern: str | Path) -> list[Path]:
    path = Path(pattern)
    # A name that exists is meant literally, though it may hold a bracket.
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(file for ending in ("*.json", "*.json.gz") for file in path.rglob(ending))
    return [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True)) if Path(name).is_file()]


def _read(path: Path) -> list[Conversation]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as stream:
            content = json.load(stream)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UsageError(str(path), "must be readable JSON in UTF-8, plain or gzip", str(error)) from error
    if isinstance(content, list):
        return [_conversation(item, f"{path}[{i}]") for i, item in enumerate(content)]
    return [_conversation(content, str(path))]


def _conversation(item: Any, where: str) -> Conversation:
    if isinstance(item, dict) and "conversation" in item and "qa" in item:
        item = _from_locomo(item, where)
    elif isinstance(item, dict) and "haystack_sessions" in item:
        item = _from_longmemeval(item, where)
    elif not isinstance(item, dict) or "sessions" not in item or "questions" not in item:
        raise UsageError(where, f"must be {_FORMATS}", list(item) if isinstance(item, dict) else type(item).__name__)
    return _checked(item, where)


# ------------------------------------------------------------------------------------ our format
def _checked(item: Mapping[str, Any], where: str) -> Conversation:
    sessions = tuple(
        _session(entry, f"{where}.sessions[{i}]") for i, entry in enumerate(_list(item, "sessions", where))
    )
    session_of: dict[str, str] = {}
    # Ids are taken from the raw turns: a question may cite one that has no text.
    for session, raw in zip(sessions, item["sessions"], strict=True):
        for turn in raw["turns"]:
            if session_of.setdefault(str(turn["turn_id"]), session.session_id) != session.session_id:
                raise UsageError(where, "must not use one turn_id in two sessions", turn["turn_id"])
    questions = tuple(
        _question(entry, session_of, {s.session_id for s in sessions}, f"{where}.questions[{i}]")
        for i, entry in enumerate(_list(item, "questions", where))
    )
    return Conversation(
        conversation_id=_text(item, "conversation_id", where),
        language=str(item.get("language") or "en"),
        sessions=sessions,
        questions=questions,
        speakers=tuple(str(name) for name in item.get("speakers") or ()),
        dataset=str(item.get("dataset") or ""),
    )


def _session(entry: Any, where: str) -> Session:
    time = _time(entry, "iso", where) or _time(entry, "time", where)
    turns = [_message(turn, time, f"{where}.turns[{i}]") for i, turn in enumerate(_list(entry, "turns", where))]
    return Session(_text(entry, "session_id", where), time, tuple(turn for turn in turns if turn is not None))


def _message(turn: Any, session_time: datetime | None, where: str) -> Message | None:
    text, name = _text(turn, "text", where), _text(turn, "speaker", where)
    if caption := turn.get("caption"):
        text = f"{text} [image: {caption}]"
    if not text.strip():
        return None
    role, speaker = _role(name)
    return Message(
        role=role,
        content=text,
        speaker=speaker,
        timestamp=_time(turn, "time", where) or session_time,
        id=_text(turn, "turn_id", where),
    )


def _role(name: str) -> tuple[Role, str | None]:
    if name.lower() in _USERS:
        return "user", None
    if name.lower() in _ASSISTANTS:
        return "assistant", None
    return "user", name


def _question(entry: Any, session_of: Mapping[str, str], session_ids: set[str], where: str) -> Question:
    evidence = tuple(str(turn) for turn in _list(entry, "evidence_turns", where))
    for turn in evidence:
        if turn not in session_of:
            raise UsageError(f"{where}.evidence_turns", "must be ids of turns of this conversation", turn)
    visible = entry.get("visible_before_session")
    if visible is not None and visible not in session_ids:
        raise UsageError(f"{where}.visible_before_session", "must be the id of a session of this conversation", visible)
    given = entry.get("evidence_sessions")
    answer = entry.get("answer")
    return Question(
        question_id=_text(entry, "question_id", where),
        question=_text(entry, "question", where),
        answer=None if answer is None else str(answer),
        category=str(entry.get("category_name") or entry.get("category")),
        evidence_turns=evidence,
        evidence_sessions=tuple(given) if given else tuple(dict.fromkeys(session_of[turn] for turn in evidence)),
        visible_before_session=visible,
    )


# ------------------------------------------------------------------------------------ other formats
def _from_locomo(sample: Mapping[str, Any], where: str) -> dict[str, Any]:
    """One sample of ``locomo10.json`` in our format; evidence that names no turn is dropped."""
    talk = _dict(sample, "conversation", where)
    numbers = sorted(int(m[1]) for key in talk if (m := re.fullmatch(r"session_(\d+)", key)))
    sessions: list[dict[str, Any]] = []
    known: set[str] = set()
    for n in numbers:
        at = f"{where}.conversation.session_{n}"
        turns = [
            {
                "turn_id": _text(turn, "dia_id", f"{at}[{i}]"),
                "speaker": _text(turn, "speaker", f"{at}[{i}]"),
                "text": _text(turn, "text", f"{at}[{i}]"),
                "caption": turn.get("blip_caption"),
            }
            for i, turn in enumerate(_list(talk, f"session_{n}", f"{where}.conversation"))
        ]
        known.update(turn["turn_id"] for turn in turns)
        sessions.append({"session_id": f"S{n}", "time": talk.get(f"session_{n}_date_time"), "turns": turns})
    name = _text(sample, "sample_id", where)
    questions = []
    for i, qa in enumerate(_list(sample, "qa", where)):
        category = qa.get("category") if isinstance(qa, dict) else None
        if category not in _LOCOMO_CATEGORIES:
            raise UsageError(f"{where}.qa[{i}].category", "must be a whole number in 1..5", category)
        questions.append(
            {
                "question_id": f"{name}:q{i}",
                "question": _text(qa, "question", f"{where}.qa[{i}]"),
                "answer": qa.get("answer"),
                "category": _LOCOMO_CATEGORIES[category],
                "evidence_turns": [turn for turn in _locomo_evidence(qa.get("evidence")) if turn in known],
            }
        )
    return {
        "dataset": "locomo",
        "conversation_id": name,
        "speakers": [talk[key] for key in ("speaker_a", "speaker_b") if key in talk],
        "sessions": sessions,
        "questions": questions,
    }


def _locomo_evidence(items: Iterable[Any] | None) -> list[str]:
    """Turn ids in LoCoMo's evidence, which also writes ``D:1:3``, ``D01:3`` and two in one string."""
    pairs = (pair for item in items or () for pair in re.findall(r"D:?\s*(\d+)\s*:\s*(\d+)", str(item)))
    return list(dict.fromkeys(f"D{int(session)}:{int(turn)}" for session, turn in pairs))


def _from_longmemeval(instance: Mapping[str, Any], where: str) -> dict[str, Any]:
    """One instance of LongMemEval in our format; abstention questions carry no evidence."""
    ids, dates, haystack = (
        _list(instance, key, where) for key in ("haystack_session_ids", "haystack_dates", "haystack_sessions")
    )
    if not len(ids) == len(dates) == len(haystack):
        raise UsageError(where, "must have as many haystack ids and dates as sessions", (len(ids), len(dates)))
    name = _text(instance, "question_id", where)
    answerable = not name.endswith("_abs")
    # A haystack may hold one session twice; memory would hold it once.
    unique = {sid: (date, turns) for sid, date, turns in reversed(list(zip(ids, dates, haystack, strict=True)))}
    sessions, evidence = [], []
    for sid in dict.fromkeys(ids):
        date, turns = unique[sid]
        rows = []
        for i, turn in enumerate(turns):
            at = f"{where}.haystack_sessions[{sid}][{i}]"
            speaker, text = _text(turn, "role", at), _text(turn, "content", at)
            rows.append({"turn_id": f"{sid}:{i}", "speaker": speaker, "text": text})
            if turn.get("has_answer") and answerable:
                evidence.append(f"{sid}:{i}")
        sessions.append({"session_id": sid, "time": date, "turns": rows})
    question = {
        "question_id": name,
        "question": _text(instance, "question", where),
        "answer": instance.get("answer"),
        "category": instance.get("question_type"),
        "evidence_turns": evidence,
        "evidence_sessions": list(instance.get("answer_session_ids") or ()) if answerable else [],
    }
    return {
        "dataset": "longmemeval",
        "conversation_id": name,
        "speakers": ["user", "assistant"],
        "sessions": sessions,
        "questions": [question],
    }


# ------------------------------------------------------------------------------------ fields
def _field(item: Any, key: str, kind: type | tuple[type, ...], expected: str, where: str) -> Any:
    if not isinstance(item, dict):
        raise UsageError(where, f"must be an object with {key!r}", type(item).__name__)
    if not isinstance(item.get(key), kind):
        raise UsageError(f"{where}.{key}", f"must be {expected}", item.get(key))
    return item[key]


def _text(item: Any, key: str, where: str) -> str:
    return str(_field(item, key, (str, int), "a string", where))


def _list(item: Any, key: str, where: str) -> list[Any]:
    value: list[Any] = _field(item, key, list, "a list", where)
    return value


def _dict(item: Any, key: str, where: str) -> dict[str, Any]:
    value: dict[str, Any] = _field(item, key, dict, "an object", where)
    return value


def _time(item: Mapping[str, Any], key: str, where: str) -> datetime | None:
    value = item.get(key) if isinstance(item, dict) else None
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{where}.{key}", "must be a string or null", value)
    try:
        return parse_time(value)
    except UsageError as error:
        raise UsageError(f"{where}.{key}", error.rule, value) from None
