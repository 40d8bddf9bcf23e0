"""The demo: a conversation goes in, and questions about it come back with the turns that answer them."""

from __future__ import annotations

import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightmem_integrations.cli import options as o
from lightmem_integrations.cli import output
from lightmem_integrations.errors import MissingDependencyError, ModelNotFoundError, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lightmem_integrations.core.types import Context, Filter, Hit
    from lightmem_integrations.datasets import Conversation, Question
    from lightmem_integrations.memory import LightMem

EXCERPT = 240  # characters of a turn that are shown; --json has all
# Their premise is false or their answer was never said: there is nothing to recall.
_WITHOUT_ANSWER = ("adversarial", "abstention")


@dataclass(frozen=True, slots=True)
class Ingested:
    """A conversation that is remembered: its length in tokens, and the seconds that it took to add."""

    conversation: Conversation
    embedder: str
    turns: int
    tokens: int
    tokenizer: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A question, what was recalled for it and in how many milliseconds."""

    question: Question
    context: Context
    ms: float

    def is_evidence(self, hit: Hit) -> bool:
        """The data set labels a turn of this hit as evidence for the question."""
        return any(turn in self.question.evidence_turns for turn in hit.source_ids)

    @property
    def found(self) -> list[str]:
        """Labelled turns that were recalled."""
        recalled = set(chain.from_iterable(hit.source_ids for hit in self.context.hits))
        return [turn for turn in self.question.evidence_turns if turn in recalled]


def demo(
    language: Annotated[str, typer.Option("--language", "-l", metavar="en|zh", help="Which shipped conversation.")] = (
        "en"
    ),
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE", help="Your own: LoCoMo, LongMemEval or our format, .json or .json.gz."),
    ] = None,
    conversation: Annotated[
        int, typer.Option("--conversation", metavar="N", help="Which one of a file with several, from 1.")
    ] = 1,
    ask: Annotated[
        list[str] | None, typer.Option("--ask", "-a", metavar="TEXT", help="Ask this instead (repeat for several).")
    ] = None,
    questions: Annotated[
        int, typer.Option("--questions", "-q", metavar="N", help="How many of the labelled questions.")
    ] = 5,
    k: o.Results = 5,
    db: Annotated[
        str | None, typer.Option("--db", metavar="PATH_OR_URL", help="Keep the memory here; else it is thrown away.")
    ] = None,
    embedder: o.Embedder = None,
    as_json: o.Json = False,
) -> None:
    """Remember a conversation and answer questions about it.

    The conversation is one that ships with the package, or that of --data FILE. Every question shows
    what was recalled; a check marks the turns that the data labels as evidence.
    """
    for option, value in (("--questions", questions), ("--k", k), ("--conversation", conversation)):
        if value < 1:
            raise UsageError(option, "must be at least 1", value)
    talk, note = _conversation(language, data, conversation)
    asked = _own(ask) if ask else _chosen(talk.questions, questions)
    if not asked:
        raise UsageError("--data", "holds no questions; ask your own with --ask", talk.conversation_id)
    out = output.console()
    with (
        tempfile.TemporaryDirectory(prefix="lightmem-demo-", ignore_cleanup_errors=True) as folder,
        _opened(db, Path(folder), embedder, talk.language) as (memory, told),
    ):
        ingested = _remember(memory, talk)
        if not as_json:
            _print_head(out, ingested, [line for line in (note, told) if line])
        answers = []
        for number, question in enumerate(asked, 1):
            answers.append(_answer(memory, talk, question, k))
            if not as_json:
                _print_answer(out, number, answers[-1], ingested)
    if as_json:
        output.print_json(_record(ingested, answers, k, db))
    else:
        _print_summary(out, ingested, answers, k)
        _print_next(out, talk, data, db, asked=bool(ask))


# ------------------------------------------------------------------------------------ choosing
def _conversation(language: str, data: str | None, number: int) -> tuple[Conversation, str]:
    from lightmem_integrations import datasets

    if data is None:
        return datasets.demo(language), ""
    found = datasets.load(data)
    if not 1 <= number <= len(found):
        raise UsageError("--conversation", f"must be 1..{len(found)}, as many as --data holds", number)
    chosen = found[number - 1]
    note = f"conversation {number} of {len(found)} in this file; --conversation N takes another"
    return chosen, note if len(found) > 1 else ""


def _chosen(questions: Sequence[Question], n: int) -> list[Question]:
    """The first ``n`` questions, a kind at a time, so that few show every kind; labelled ones first."""
    answerable = [q for q in questions if q.category not in _WITHOUT_ANSWER] or list(questions)
    pool = [q for q in answerable if q.evidence_turns] or answerable
    kinds: dict[str, list[Question]] = {}
    for question in pool:
        kinds.setdefault(question.category, []).append(question)
    rounds = chain.from_iterable(zip_longest(*kinds.values()))
    return [question for question in rounds if question is not None][:n]


def _own(texts: Sequence[str]) -> list[Question]:
    from lightmem_integrations.datasets import Question

    for text in texts:
        if not text.strip():
            raise UsageError("--ask", "must not be blank", text)
    return [Question(f"ask-{n}", text, None, "", (), ()) for n, text in enumerate(texts, 1)]


# ------------------------------------------------------------------------------------ doing
@contextmanager
def _opened(db: str | None, folder: Path, embedder: str | None, language: str) -> Iterator[tuple[LightMem, str]]:
    """A memory whose model is loaded, and what to tell when it is not the model that was hoped for."""
    from lightmem_integrations.config import LightMemConfig
    from lightmem_integrations.memory import LightMem
    from lightmem_integrations.models.embed import make_embedder

    wanted = embedder or ("minilm" if language == "en" else "multilingual")
    config, told = LightMemConfig(embedder=wanted), ""
    if db is not None and embedder is None and o.is_there(db):
        config = o.config_of(db)
    model: Any = make_embedder(config)
    try:
        if hasattr(model, "load"):
            model.load()
    except (ModelNotFoundError, MissingDependencyError) as error:
        if embedder is not None or config.embedder != wanted:
            raise
        told = f"Keywords only, as there is no model `{wanted}` here. {error}"
        config, model = LightMemConfig(embedder="none"), None
    with LightMem(db or folder / "demo.db", config, embedder=model) as memory:
        yield memory, told


def _remember(memory: LightMem, talk: Conversation) -> Ingested:
    from lightmem_integrations.core.tokens import budget_counter
    from lightmem_integrations.datasets import messages

    sessions = [(session_id, turns) for session_id, turns in messages(talk) if turns]
    start = time.perf_counter()
    with output.progress("remembering") as advance:
        for n, (session_id, turns) in enumerate(sessions):
            advance(n, len(sessions))
            memory.add(turns, user_id=talk.conversation_id, session_id=session_id)
        memory.flush(user_id=talk.conversation_id)
    seconds = time.perf_counter() - start
    counter = budget_counter()
    said = [turn for _, turns in sessions for turn in turns]
    tokens = sum(counter.count(f"{turn.speaker or turn.role}: {turn.content}\n") for turn in said)
    name = str(memory.stats(user_id=talk.conversation_id)["embedder"])
    return Ingested(talk, name, len(said), tokens, counter.name, seconds)


def _answer(memory: LightMem, talk: Conversation, question: Question, k: int) -> Answer:
    visible = _visible(talk, question)
    start = time.perf_counter()
    found = memory.context(question.question, user_id=talk.conversation_id, k=k, filter=visible)
    return Answer(question, found, 1_000 * (time.perf_counter() - start))


def _visible(talk: Conversation, question: Question) -> Filter | None:
    """The sessions before the moment at which the data set asks, where it names one."""
    from lightmem_integrations.core.types import Filter

    if question.visible_before_session is None:
        return None
    order = [session.session_id for session in talk.sessions]
    return Filter(session_ids=order[: order.index(question.visible_before_session)])


# ------------------------------------------------------------------------------------ printing
def _print_head(out: Console, ingested: Ingested, notes: Sequence[str]) -> None:
    from rich.text import Text

    talk = ingested.conversation
    names = " and ".join(talk.speakers) or talk.conversation_id
    times = [session.time for session in talk.sessions if session.time is not None]
    dates = f", {min(times):%Y-%m-%d} to {max(times):%Y-%m-%d}" if times else ""
    rate = ingested.turns / ingested.seconds
    out.print(Text("lightmem demo  ", "bold").append(output.printable(f"{names} ({talk.conversation_id})"), "cyan"))
    out.print(Text(f"{ingested.turns:,} turns in {len(talk.sessions)} sessions{dates}, {ingested.tokens:,} tokens"))
    model = f"with {ingested.embedder}" if ingested.embedder != "none" else "with keywords only"
    out.print(Text(f"remembered in {ingested.seconds:.1f} s ({rate:,.0f} turns/s) {output.printable(model)}"))
    for note in notes:
        out.print(Text(output.printable(note), "yellow"))


def _print_answer(out: Console, number: int, answer: Answer, ingested: Ingested) -> None:
    from rich.text import Text

    question = answer.question
    title = output.grid({"style": "bold cyan", "width": 2})
    kind = f"  {output.printable(question.category)}" if question.category else ""
    title.add_row(str(number), Text(output.printable(question.question), "bold").append(kind, "dim not bold"))
    if question.answer is not None:
        title.add_row("", Text("expected  ", "dim").append(output.printable(question.answer), "green"))
    out.print()
    out.print(title)
    out.print(_hits(answer))
    out.print(Text(f"   {_line_of_figures(answer, ingested)}", "dim"), soft_wrap=True)


def _hits(answer: Answer) -> Table:
    from rich.text import Text

    table = output.grid(
        {"width": 2, "justify": "right", "style": "bold green"},
        {"no_wrap": True},
        {"no_wrap": True},
        {"max_width": 12, "no_wrap": True, "overflow": "ellipsis"},
    )
    labelled = bool(answer.question.evidence_turns)
    for hit in answer.context.hits:
        marked = answer.is_evidence(hit)
        style = "" if marked or not labelled else "dim"
        text = output.quoted(excerpt(hit.entry.memory, answer.question.question), output.ids(hit.entry), style)
        cells: list[str | Text] = [
            Text(f"{hit.score:.2f}", style),
            Text(f"{hit.entry.timestamp:%Y-%m-%d}", style),
            Text(output.who(hit.entry), style),
            text,
        ]
        table.add_row("✓" if marked else "", *cells)
    if not answer.context.hits:
        table.add_row("", "", "", "", Text("nothing recalled", "dim"))
    return table


def _line_of_figures(answer: Answer, ingested: Ingested) -> str:
    labelled, tokens = answer.question.evidence_turns, answer.context.tokens
    evidence = f"evidence {len(answer.found)} of {len(labelled)} · " if labelled else ""
    share = _percent(tokens, ingested.tokens)
    return f"{evidence}{tokens:,} of {ingested.tokens:,} tokens ({share}) · {answer.ms:.0f} ms"


def _print_summary(out: Console, ingested: Ingested, answers: Sequence[Answer], k: int) -> None:
    from rich.text import Text

    figures = _summary(ingested, answers)
    out.print()
    labelled = [answer for answer in answers if answer.question.evidence_turns]
    if labelled:
        found, whole = figures["with_evidence"], figures["with_all_evidence"]
        text = f"evidence in the top {k} for {found} of {len(labelled)} questions (all of it for {whole})"
        out.print(Text(text, "bold"))
    tokens = f"{figures['mean_tokens']:,.0f} tokens a question instead of {ingested.tokens:,}"
    share = _percent(figures["mean_tokens"], ingested.tokens)
    out.print(Text(f"{tokens} ({share}) · median {figures['median_ms']:.0f} ms", "bold"))


def _print_next(out: Console, talk: Conversation, data: str | None, db: str | None, *, asked: bool) -> None:
    from rich.text import Text

    if not (out.is_terminal and sys.stdin.isatty()):
        return
    source = f" --data {shlex.quote(data)}" if data else "" if talk.language == "en" else f" --language {talk.language}"
    lines = [] if asked else [f'lightmem demo{source} --ask "…"']
    if db is None:
        lines.append(f"lightmem demo{source} --db demo.db   # keep it")
    else:
        lines.append(f'lightmem search "…" --user {shlex.quote(talk.conversation_id)} --db {shlex.quote(db)}')
    out.print()
    for line in lines:
        out.print(Text(output.printable(line), "dim"), soft_wrap=True)


def excerpt(text: str, question: str) -> str:
    """A long text as its sentences around the one that shares most words with the question, on one line."""
    from lightmem_integrations.core.analyze import terms
    from lightmem_integrations.core.passages import sentences

    if len(text) <= EXCERPT:
        return output.printable(text)
    wanted = set(terms(question))
    parts = sentences(text)
    shared = [len(wanted.intersection(terms(text[p.start : p.end]))) for p in parts]
    first = last = shared.index(max(shared))
    while last + 1 < len(parts) and parts[last + 1].end - parts[first].start <= EXCERPT:
        last += 1
    while first > 0 and parts[last].end - parts[first - 1].start <= EXCERPT:
        first -= 1
    start, end = parts[first].start, parts[last].end
    if end - start > EXCERPT or (end < len(text) and end - start < EXCERPT // 2):
        end = start + EXCERPT
        end = text.rfind(" ", start + EXCERPT // 2, end) if " " in text[start + EXCERPT // 2 : end] else end
    shown = output.printable(text[start:end])
    return f"{'… ' if start else ''}{shown}{' …' if end < len(text) else ''}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


# ------------------------------------------------------------------------------------ figures
def _summary(ingested: Ingested, answers: Sequence[Answer]) -> dict[str, Any]:
    labelled = [answer for answer in answers if answer.question.evidence_turns]
    mean = statistics.fmean(answer.context.tokens for answer in answers)
    return {
        "questions": len(answers),
        "labelled": len(labelled),
        "with_evidence": sum(bool(answer.found) for answer in labelled),
        "with_all_evidence": sum(len(answer.found) == len(answer.question.evidence_turns) for answer in labelled),
        "mean_tokens": round(mean, 1),
        "share": round(mean / ingested.tokens, 4) if ingested.tokens else None,
        "median_ms": round(statistics.median(answer.ms for answer in answers), 2),
    }


def _record(ingested: Ingested, answers: Sequence[Answer], k: int, db: str | None) -> dict[str, Any]:
    talk = ingested.conversation
    return {
        "conversation_id": talk.conversation_id,
        "language": talk.language,
        "user_id": talk.conversation_id,
        "db": db,
        "embedder": ingested.embedder,
        "sessions": len(talk.sessions),
        "turns": ingested.turns,
        "tokens": ingested.tokens,
        "tokenizer": ingested.tokenizer,
        "seconds": round(ingested.seconds, 3),
        "k": k,
        "questions": [_answer_record(answer) for answer in answers],
        "summary": _summary(ingested, answers),
    }


def _answer_record(answer: Answer) -> dict[str, Any]:
    question = answer.question
    return {
        "question_id": question.question_id,
        "question": question.question,
        "category": question.category,
        "expected": question.answer,
        "evidence": list(question.evidence_turns),
        "found": answer.found,
        "tokens": answer.context.tokens,
        "ms": round(answer.ms, 2),
        "hits": [output.hit_record(hit) | {"evidence": answer.is_evidence(hit)} for hit in answer.context.hits],
    }
