"""Memory of a LangChain chain: ``LightMemMemory`` beside ``VectorStoreRetrieverMemory``.

    python -m lightmem_integrations.bench.langchain FILES

needs the ``langchain-classic`` extra. Both use our encoder and are used as their documentation says: ours over a
file, the other over an ``InMemoryVectorStore`` that serves all users. Measured are

- time added to one turn of a chain, which is to load memory and to save the exchange, embedding included, when so
  many turns are stored: both in the same process, in turn, on the same texts,
- how much labelled evidence is in the prompt when conversations were put through both, exchange by exchange: from
  5 and 10 items (one of theirs is an exchange, one of ours a message), and from the first 1,000 tokens,
- whether memory is there after a restart, and users who are shown what another one said.
"""

from __future__ import annotations

import statistics
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from langchain_classic.base_memory import BaseMemory
from langchain_classic.memory import VectorStoreRetrieverMemory
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from lightmem_integrations import datasets
from lightmem_integrations.bench.instant import sentences
from lightmem_integrations.bench.provenance import provenance
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.ports import Embedder
from lightmem_integrations.core.tokens import budget_counter
from lightmem_integrations.langchain import LightMemMemory
from lightmem_integrations.memory import LightMem
from lightmem_integrations.models.embed import make_embedder

__all__ = ["Row", "markdown", "run_langchain"]

ITEMS = (5, 10)
BUDGET = 1_000
MANY = 100
STORED = 1_000
TURNS = 100
USERS = 20

Exchange = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one memory; recall in 0..1, ``leaks`` in users of ``USERS``.

    Attributes:
        load, save, turn: milliseconds, medians.
        recall: at each of ``ITEMS``, and in ``BUDGET`` tokens.
        restarts: what was said before a restart is known after it.
    """

    name: str
    load: float
    save: float
    turn: float
    recall: tuple[float, ...]
    restarts: bool
    leaks: int


class Contender(Protocol):
    """A way to give chains a memory: what one server has."""

    def __init__(self, embedder: Embedder, folder: Path) -> None: ...

    def memory(self, user_id: str, session_id: str, k: int) -> BaseMemory:
        """The memory of a chain that holds this conversation, which shows so many items."""
        ...

    def close(self) -> None:
        """End as a process ends."""
        ...


# ------------------------------------------------------------------------------ contenders
class _LightMem:
    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._lightmem = LightMem(folder / "memory.db", embedder=embedder)

    def memory(self, user_id: str, session_id: str, k: int) -> BaseMemory:
        return LightMemMemory(
            lightmem=self._lightmem, user_id=user_id, session_id=session_id, k=k, max_tokens=_budget(k)
        )

    def close(self) -> None:
        self._lightmem.close()


class _Vectors:
    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._store = InMemoryVectorStore(_Encoder(embedder))

    def memory(self, user_id: str, session_id: str, k: int) -> BaseMemory:
        return VectorStoreRetrieverMemory(retriever=self._store.as_retriever(search_kwargs={"k": k}))

    def close(self) -> None: ...


class _Encoder(Embeddings):
    """Our encoder for LangChain."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


CONTENDERS: dict[str, type[Contender]] = {
    "LightMemMemory": _LightMem,
    "VectorStoreRetrieverMemory over InMemoryVectorStore": _Vectors,
}


# ------------------------------------------------------------------------------ measuring
def run_langchain(
    conversations: Sequence[datasets.Conversation],
    *,
    embedder: Embedder | None = None,
    stored: int = STORED,
    turns: int = TURNS,
) -> list[Row]:
    """Measure all contenders; conversations without labelled questions say nothing about recall.

    Args:
        conversations: each is put through a memory of its own.
        embedder: of all contenders; None for the default one.
        stored: turns of a chain that are stored before time is measured.
        turns: turns whose time is measured.
    """
    encoder = embedder or make_embedder(LightMemConfig())
    assert encoder is not None
    with TemporaryDirectory() as name:
        folders = (Path(name) / str(n) for n in range(10_000))

        def fresh() -> Path:
            folder = next(folders)
            folder.mkdir()
            return folder

        times = _times(encoder, fresh, stored, turns)
        return [
            Row(
                name=title,
                load=statistics.median(load for load, _ in times[title]),
                save=statistics.median(save for _, save in times[title]),
                turn=statistics.median(load + save for load, save in times[title]),
                recall=_recall(make, encoder, fresh, conversations),
                restarts=_restarts(make, encoder, fresh()),
                leaks=_leaks(make(encoder, fresh())),
            )
            for title, make in CONTENDERS.items()
        ]


def _times(
    embedder: Embedder, fresh: Callable[[], Path], stored: int, turns: int
) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds to load and to save, of each turn of each contender."""
    running = {title: make(embedder, fresh()) for title, make in CONTENDERS.items()}
    memories = {title: contender.memory("user", "chat", 20) for title, contender in running.items()}
    times: dict[str, list[tuple[float, float]]] = {title: [] for title in memories}
    texts = [f"{n}: {text}" for n, text in enumerate(sentences(2 * (stored + turns)))]
    for n, (said, answer) in enumerate(zip(texts[::2], texts[1::2], strict=True)):
        # Who comes first takes turns too: the second finds the encoder warm.
        for title in list(memories)[:: 1 if n % 2 else -1]:
            memory = memories[title]
            start = time.perf_counter()
            if n >= stored:
                memory.load_memory_variables({"input": said})
            loaded = time.perf_counter()
            memory.save_context({"input": said}, {"response": answer})
            saved = time.perf_counter()
            if n >= stored:
                times[title].append((1_000 * (loaded - start), 1_000 * (saved - loaded)))
    for contender in running.values():
        contender.close()
    return times


def _recall(
    make: type[Contender],
    embedder: Embedder,
    fresh: Callable[[], Path],
    conversations: Sequence[datasets.Conversation],
) -> tuple[float, ...]:
    """Share of the evidence of a question that the prompt holds, mean of all questions."""
    found = []
    for conversation in conversations:
        contender = make(embedder, fresh())
        texts: dict[str, str] = {}
        for session_id, said in datasets.messages(conversation):
            memory = contender.memory("user", session_id, 1)
            texts |= {message.id: message.content for message in said if message.id}
            for asked, answered in _exchanges([message.content for message in said]):
                memory.save_context({"input": asked}, {"response": answered})
        for question in conversation.questions:
            gold = [_plain(texts[id])[:60] for id in question.evidence_turns if id in texts]
            if gold:
                shown = [_shown(contender, question.question, k) for k in (*ITEMS, MANY)]
                found.append([_share(gold, text) for text in (*shown[:-1], _cut(shown[-1]))])
        contender.close()
    return tuple(statistics.fmean(column) for column in zip(*found, strict=True))


def _restarts(make: type[Contender], embedder: Embedder, folder: Path) -> bool:
    before = make(embedder, folder)
    before.memory("user", "monday", 5).save_context({"input": "My locker has the number 7001."}, {"response": "Noted."})
    before.close()
    after = make(embedder, folder)
    shown = _shown(after, "Which number has my locker?", 5)
    after.close()
    return "7001" in shown


def _leaks(contender: Contender) -> int:
    """Users who are shown what another one said, when all have told and then all ask."""
    for n in range(USERS):
        memory = contender.memory(f"user {n}", f"chat {n}", 5)
        memory.save_context({"input": f"My locker has the number 7{n:03}."}, {"response": "Noted."})
    leaks = 0
    for n in range(USERS):
        shown = _shown(contender, "Which number has my locker?", 5, f"user {n}")
        leaks += any(f"number 7{other:03}." in shown for other in range(USERS) if other != n)
    contender.close()
    return leaks


# ------------------------------------------------------------------------------ small change
def _budget(k: int) -> int:
    return BUDGET if k == MANY else 1_000_000


def _shown(contender: Contender, question: str, k: int, user_id: str = "user") -> str:
    """What a chain of a new conversation puts into its prompt."""
    found = contender.memory(user_id, "new", k).load_memory_variables({"input": question})
    return _plain(str(next(iter(found.values()))))


def _exchanges(texts: Sequence[str]) -> Iterator[Exchange]:
    """What was said in pairs, as a chain stores it; a last one without an answer gets an empty one."""
    return zip_longest(texts[::2], texts[1::2], fillvalue="")


def _cut(text: str) -> str:
    """The first ``BUDGET`` tokens, by words."""
    count, words = budget_counter().count, text.split(" ")
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(" ".join(words[:middle])) <= BUDGET else (low, middle - 1)
    return " ".join(words[:low])


def _plain(text: str) -> str:
    return " ".join(text.replace("&lt;", "<").split())


def _share(gold: Sequence[str], text: str) -> float:
    return sum(part in text for part in gold) / len(gold)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table; the ratio is to the last row."""
    parts = ("load, ms", "save, ms", "turn, ms", "turn, ratio")
    recalls = (*(f"recall@{k}" for k in ITEMS), f"in {BUDGET:,} tokens")
    header = ["memory", *parts, *recalls, "after a restart", f"users of {USERS} who saw another's words"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in rows:
        times = (f"{value:.1f}" for value in (row.load, row.save, row.turn))
        ratio, recall = f"{row.turn / rows[-1].turn:.2f}", (f"{value:.3f}" for value in row.recall)
        lines.append([row.name, *times, ratio, *recall, "there" if row.restarts else "gone", str(row.leaks)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = ArgumentParser(prog="lightmem_integrations.bench.langchain")
    parser.add_argument("files", nargs="*", help="conversations; none for the demo")
    parser.add_argument("--stored", type=int, default=STORED, help="turns that are stored when time is measured")
    parser.add_argument("--turns", type=int, default=TURNS, help="turns whose time is measured")
    given: Any = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    conversations = datasets.load(given.files) if given.files else [datasets.demo()]
    print(markdown(run_langchain(conversations, stored=given.stored, turns=given.turns)))  # noqa: T201
    questions = sum(bool(q.evidence_turns) for c in conversations for q in c.questions)
    told = f"{given.stored:,} turns stored, {given.turns} measured"
    print(f"\n{len(conversations)} conversations, {questions} questions with evidence; {told}. {provenance()}.")  # noqa: T201


if __name__ == "__main__":
    main()
