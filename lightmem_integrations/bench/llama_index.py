"""Long-term memory in LlamaIndex: ours beside the blocks that LlamaIndex ships, and mem0's adapter.

    python -m lightmem_integrations.bench.llama_index FILES

needs the ``llama-index`` extra; a contender whose packages are not installed is left out, by name. Each is used
as its documentation says: ``LightMemMemory``; ``Memory`` with a ``VectorMemoryBlock`` over Qdrant in memory;
``Memory`` with a ``FactExtractionMemoryBlock``; ``Mem0Memory`` over Qdrant in memory, without mem0's optional
extras. All have our encoder. Models that extract facts are scripted, and state as a fact every word that they are
shown, which is the best that a model can do; they answer at once. Measured are

- the share of messages that are in long-term memory after a chat of so many tokens,
- in the longest chat, calls of a language model and tokens of their prompts, by turn,
- milliseconds that a turn takes longer than with ``Memory`` without blocks, which is asked in turn: the median,
- how much labelled evidence is recalled, in a new session after conversations in their own sessions (``as used``),
  and after every message was put in by hand (``all put in``): from 5 items, whose tokens are counted too, and
  from the first 1,000 tokens,
- users who are shown what another one said, where one store and one block serve all.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.memory import BaseMemory, FactExtractionMemoryBlock, Memory, VectorMemoryBlock
from llama_index.core.utils import get_tokenizer
from pydantic import PrivateAttr

from lightmem_integrations import datasets
from lightmem_integrations.bench.instant import sentences
from lightmem_integrations.bench.provenance import provenance
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.ports import Embedder
from lightmem_integrations.core.types import Message
from lightmem_integrations.llama_index import LightMemMemory, LightMemMemoryBlock
from lightmem_integrations.memory import LightMem
from lightmem_integrations.models.embed import make_embedder
from lightmem_integrations.testing.llm_server import LLMServer

__all__ = ["Recall", "Row", "left_out", "markdown", "run_llama_index"]

CHATS = (2_000, 10_000, 40_000)
ITEMS = 5
BUDGET = 1_000
USERS = 20
USER = "user"
_UNLIMITED = 1_000_000


class Recall(NamedTuple):
    """Share of the evidence in 5 items and in 1,000 tokens, 0..1, and the tokens of the 5 items."""

    items: float
    budget: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one contender; shares in 0..1, ``leaks`` in users of ``USERS``."""

    name: str
    reached: tuple[float, ...]
    calls_per_turn: float
    tokens_per_turn: float
    milliseconds_per_turn: float
    as_used: Recall
    all_put_in: Recall
    leaks: int


class Contender(ABC):
    """A way to give LlamaIndex a long-term memory. One object has one store.

    Attributes:
        name: of the class that a program uses.
        packages: distributions that it needs beside llama-index-core.
        complete: every message gets to long-term memory, of every session, so that there is nothing to put in by hand.
        calls: how often a language model was asked.
        tokens: of its prompts.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    complete: ClassVar[bool] = False
    calls: int = 0
    tokens: int = 0

    @abstractmethod
    def __init__(self, embedder: Embedder, folder: Path) -> None: ...

    @abstractmethod
    def memory(self, user_id: str, session_id: str) -> BaseMemory:
        """The memory of a session, as an agent gets it."""

    @abstractmethod
    async def put_in(self, chat: Sequence[ChatMessage], user_id: str, session_id: str) -> None:
        """Put messages into long-term memory, whether or not they would get there by themselves."""

    @abstractmethod
    async def recall(self, question: str, session_id: str, k: int) -> str:
        """What ``USER`` is shown on a question: so many items, best first."""

    @abstractmethod
    async def kept(self) -> str:
        """All that is in the long-term memory of ``USER``."""

    async def open(self) -> None:  # noqa: B027 - most have nothing to make
        """Make what the store does not make by itself."""

    async def close(self) -> None:  # noqa: B027
        """Let go of files and servers."""


# ------------------------------------------------------------------------------ contenders
class _LightMem(Contender):
    name = "LightMemMemory"

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._lightmem = LightMem(folder / "memory.db", embedder=embedder)

    def memory(self, user_id: str, session_id: str) -> LightMemMemory:
        return LightMemMemory.from_defaults(lightmem=self._lightmem, user_id=user_id, session_id=session_id)

    async def put_in(self, chat: Sequence[ChatMessage], user_id: str, session_id: str) -> None:
        await self._block(user_id).aput(list(chat), session_id=session_id)

    async def recall(self, question: str, session_id: str, k: int) -> str:
        block = self._block(USER, k=k, max_tokens=_UNLIMITED)
        return await block.aget([_said("user", question)], session_id=session_id)

    async def kept(self) -> str:
        turns = await self._lightmem.alist(user_id=USER, kinds=("turn",), limit=100_000)
        return "\n".join(entry.memory for entry in turns)

    async def close(self) -> None:
        self._lightmem.close()

    def _block(self, user_id: str, **options: Any) -> LightMemMemoryBlock:
        return LightMemMemoryBlock(lightmem=self._lightmem, user_id=user_id, **options)


class _Vectors(Contender):
    name = "VectorMemoryBlock"
    packages = ("llama-index-vector-stores-qdrant",)

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._client = import_module("qdrant_client").AsyncQdrantClient(":memory:")
        self._store = import_module("llama_index.vector_stores.qdrant").QdrantVectorStore("chats", aclient=self._client)
        self._model = _Encoder(embedder)
        self._shared = self._block(2)

    def memory(self, user_id: str, session_id: str) -> Memory:
        return Memory.from_defaults(session_id=session_id, memory_blocks=[self._shared])

    async def put_in(self, chat: Sequence[ChatMessage], user_id: str, session_id: str) -> None:
        for batch in _batches(chat):
            await self._shared.aput(batch, session_id=session_id)

    async def recall(self, question: str, session_id: str, k: int) -> str:
        return str(await self._block(k).aget([_said("user", question)], session_id=session_id))

    async def kept(self) -> str:
        points, _ = await self._client.scroll("chats", limit=100_000)
        return "\n".join(str(point.payload) for point in points)

    async def open(self) -> None:
        models = import_module("qdrant_client.models")
        vectors = models.VectorParams(size=_dimensions(self._model), distance=models.Distance.COSINE)
        await self._client.create_collection("chats", vectors_config={"text-dense": vectors})

    def _block(self, k: int) -> VectorMemoryBlock:
        return VectorMemoryBlock(vector_store=self._store, embed_model=self._model, similarity_top_k=k)


class _Facts(Contender):
    name = "FactExtractionMemoryBlock"

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._model = _Stenographer()
        self._shared = FactExtractionMemoryBlock(llm=self._model)
        self._model.writes_for(self._shared)

    @property
    def calls(self) -> int:  # type: ignore[override]
        return self._model.calls

    @property
    def tokens(self) -> int:  # type: ignore[override]
        return self._model.tokens

    def memory(self, user_id: str, session_id: str) -> Memory:
        return Memory.from_defaults(session_id=session_id, memory_blocks=[self._shared])

    async def put_in(self, chat: Sequence[ChatMessage], user_id: str, session_id: str) -> None:
        for batch in _batches(chat):
            await self._shared.aput(batch, session_id=session_id)

    async def recall(self, question: str, session_id: str, k: int) -> str:
        return await self._shared.aget()  # it has no k: all facts are in every prompt

    async def kept(self) -> str:
        return "\n".join(self._shared.facts)


class _Mem0(Contender):
    name = "Mem0Memory"
    packages = ("llama-index-memory-mem0", "mem0ai")
    complete = True

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        os.environ["MEM0_TELEMETRY"] = "False"
        os.environ.setdefault("MEM0_DIR", str(folder))  # read once, on import
        self._adapter = import_module("llama_index.memory.mem0").Mem0Memory
        self._model = _Encoder(embedder)
        self._server = LLMServer(self._answer)
        client = import_module("qdrant_client").QdrantClient(":memory:")
        store = {"collection_name": "chats", "embedding_model_dims": _dimensions(self._model), "client": client}
        nobody = {"api_key": "none", "openai_base_url": self._server.url}
        self._config: dict[str, Any] = {
            "llm": {"provider": "openai", "config": nobody},
            "embedder": {"provider": "openai", "config": nobody},
            "vector_store": {"provider": "qdrant", "config": store},
            "history_db_path": str(folder / "history.db"),
        }

    @property
    def calls(self) -> int:  # type: ignore[override]
        return len(self._server.calls)

    @property
    def tokens(self) -> int:  # type: ignore[override]
        return sum(_size(call.prompt) for call in self._server.calls)

    def memory(self, user_id: str, session_id: str) -> BaseMemory:
        memory: Any = self._adapter.from_config(context={"user_id": user_id}, config=self._config)
        memory._client.embedding_model = _Mem0Encoder(self._model)
        return memory  # type: ignore[no-any-return]

    async def put_in(self, chat: Sequence[ChatMessage], user_id: str, session_id: str) -> None:
        memory = self.memory(user_id, session_id)
        for message in chat:
            await memory.aput(message)

    async def recall(self, question: str, session_id: str, k: int) -> str:
        found = await asyncio.to_thread(self._client.search, question, filters={"user_id": USER}, top_k=k)
        return "\n".join(row["memory"] for row in found["results"])

    async def kept(self) -> str:
        rows = await asyncio.to_thread(self._client.get_all, filters={"user_id": USER}, top_k=100_000)
        return "\n".join(row["memory"] for row in rows["results"])

    async def open(self) -> None:
        self._server.__enter__()
        self._client = self.memory(USER, "any")._client  # type: ignore[attr-defined]

    async def close(self) -> None:
        self._server.__exit__()

    @staticmethod
    def _answer(request: Mapping[str, Any]) -> str:
        prompt = request["messages"][-1]["content"]
        new = prompt.partition("## New Messages\n")[2].partition("\n\n## Observation Date")[0]
        text = new.strip().partition(": ")[2]  # the adapter sends one message at a time, after its role
        return json.dumps({"memory": [{"text": text}]})


class _Encoder(BaseEmbedding):
    """Our encoder for LlamaIndex."""

    _embedder: Any = PrivateAttr()

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(model_name="lightmem")
        self._embedder = embedder

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(value) for value in self._embedder.embed([text])[0]]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class _Stenographer(CustomLLM):
    """States every message as a fact; asked to condense, keeps as many of the last ones as it may."""

    _block: Any = PrivateAttr(default=None)
    _calls: int = PrivateAttr(default=0)
    _tokens: int = PrivateAttr(default=0)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True)

    @property
    def calls(self) -> int:
        return self._calls

    @property
    def tokens(self) -> int:
        return self._tokens

    def writes_for(self, block: FactExtractionMemoryBlock) -> None:
        self._block = block

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        self._calls += 1
        self._tokens += sum(_size(message.content or "") for message in messages)
        said = [message.content or "" for message in messages[:-1] if message.role in ("user", "assistant")]
        facts = said or self._block.facts[-self._block.max_facts :]
        told = "".join(f"<fact>{fact}</fact>" for fact in facts)
        return ChatResponse(message=ChatMessage(role="assistant", content=f"<facts>{told}</facts>"))

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


class _Mem0Encoder:
    """Our encoder for mem0."""

    def __init__(self, model: _Encoder) -> None:
        self._model = model

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        return self._model.get_text_embedding(text)

    def embed_batch(self, texts: Sequence[str], memory_action: str | None = None) -> list[list[float]]:
        return [self.embed(text) for text in texts]


CONTENDERS: tuple[type[Contender], ...] = (_LightMem, _Vectors, _Facts, _Mem0)


def left_out() -> dict[str, str]:
    """Contenders that cannot be measured here, and the package that each of them lacks."""
    missing = {}
    for contender in CONTENDERS:
        for package in contender.packages:
            try:
                version(package)
            except PackageNotFoundError:
                missing[contender.name] = package
    return missing


# ------------------------------------------------------------------------------ measuring
def run_llama_index(conversations: Sequence[datasets.Conversation]) -> list[Row]:
    """Measure all contenders that are installed; conversations without labelled questions say nothing about recall."""
    embedder = make_embedder(LightMemConfig())
    assert embedder is not None
    missing = left_out()
    return [asyncio.run(_measured(c, conversations, embedder)) for c in CONTENDERS if c.name not in missing]


async def _measured(make: type[Contender], conversations: Sequence[datasets.Conversation], embedder: Embedder) -> Row:
    reached, times = [], []
    for tokens in CHATS:
        chat = _chat(tokens)
        async with _fresh(make, embedder) as contender:
            times += await _added_times(contender, chat)
            kept = await contender.kept()
            reached.append(sum(message.content in kept for message in chat) / len(chat))
            calls, prompts = contender.calls, contender.tokens
    recalled: dict[bool, list[Recall]] = {False: [], True: []}
    for put_in, found in recalled.items():
        for conversation in conversations if not (put_in and make.complete) else ():
            async with _fresh(make, embedder) as contender:
                found += await _recall(contender, conversation, put_in=put_in)
    async with _fresh(make, embedder) as contender:
        leaks = await _leaks(contender)
    return Row(
        name=make.name,
        reached=tuple(reached),
        calls_per_turn=calls / (len(chat) / 2),
        tokens_per_turn=prompts / (len(chat) / 2),
        milliseconds_per_turn=1_000 * statistics.median(times),
        as_used=_mean(recalled[False]),
        all_put_in=_mean(recalled[not make.complete]),
        leaks=leaks,
    )


@asynccontextmanager
async def _fresh(make: type[Contender], embedder: Embedder) -> AsyncIterator[Contender]:
    with TemporaryDirectory() as folder:
        contender = make(embedder, Path(folder))
        await contender.open()
        try:
            yield contender
        finally:
            await contender.close()


def _chat(tokens: int) -> list[Message]:
    """Turns of user and assistant, no two alike, with so many tokens together."""
    chat: list[Message] = []
    size = 0
    texts = sentences(tokens // 5, seed=tokens)
    while size < tokens or len(chat) % 2:
        n = len(chat)
        text = f"{n}: {' '.join(texts[4 * n : 4 * n + 4])}"
        chat.append(Message("assistant" if n % 2 else "user", text))
        size += _size(text)
    return chat


async def _added_times(contender: Contender, chat: Sequence[Message]) -> list[float]:
    """Seconds that each turn takes longer than with a memory without blocks, which has the same turn before."""
    plain, memory = Memory.from_defaults(session_id="plain"), contender.memory(USER, "s1")
    added = []
    for question, answer in zip(chat[::2], chat[1::2], strict=True):
        without = await _turn(plain, question, answer)
        added.append(await _turn(memory, question, answer) - without)
    return added


async def _turn(memory: BaseMemory, question: Message, answer: Message) -> float:
    """Do what a chat engine does; returns seconds."""
    start = time.perf_counter()
    await memory.aput(_said("user", question.content))
    await memory.aget()
    await memory.aput(_said("assistant", answer.content))
    return time.perf_counter() - start


async def _recall(contender: Contender, conversation: datasets.Conversation, *, put_in: bool) -> list[Recall]:
    """What is found of the evidence of each question."""
    sessions = datasets.messages(conversation)
    first = next(m.speaker for _, said in sessions for m in said)
    texts = {m.id: m.content for _, said in sessions for m in said if m.id}
    chats = {
        id: [_said("user" if m.speaker == first else "assistant", m.content) for m in said] for id, said in sessions
    }
    if put_in:
        await contender.put_in([message for chat in chats.values() for message in chat], USER, "all")
    else:
        for session_id, chat in chats.items():
            memory = contender.memory(USER, session_id)
            for message in chat:
                await memory.aput(message)
            if isinstance(memory, LightMemMemory):  # the last words may have got no answer
                await memory.aflush()
    found = []
    for question in conversation.questions:
        gold = [_plain(texts[id])[:60] for id in question.evidence_turns if id in texts]
        if gold:
            asked, session_id = question.question, "all" if put_in else "new"
            items = await contender.recall(asked, session_id, ITEMS)
            budget = _cut(await contender.recall(asked, session_id, 50))
            found.append(Recall(_share(gold, _plain(items)), _share(gold, _plain(budget)), _size(items)))
    return found


async def _leaks(contender: Contender) -> int:
    """Users who are shown what another user said, when all have told and then all ask."""
    for n in range(USERS):
        told = [_said("user", f"My locker has the number 7{n:03}."), _said("assistant", "Noted.")]
        await contender.put_in(told, f"user-{n}", f"session-{n}")
    leaks = 0
    for n in range(USERS):
        shown = await contender.memory(f"user-{n}", f"session-{n}").aget("Which number has my locker?")
        text = " ".join(message.content or "" for message in shown)
        leaks += any(f"number 7{other:03}." in text for other in range(USERS) if other != n)
    return leaks


# ------------------------------------------------------------------------------ small change
def _size(text: str) -> int:
    return len(get_tokenizer()(text))


def _dimensions(model: _Encoder) -> int:
    return len(model.get_text_embedding("one text"))


def _said(role: str, text: str) -> ChatMessage:
    return ChatMessage(role=role, content=text)


def _batches(chat: Sequence[ChatMessage], tokens: int = 3_000) -> list[list[ChatMessage]]:
    """A chat in batches of the size that ``Memory`` flushes by default."""
    cuts, size = [0], 0
    for n, message in enumerate(chat, 1):
        size += _size(message.content or "")
        if size >= tokens or n == len(chat):
            cuts.append(n)
            size = 0
    return [list(chat[a:b]) for a, b in pairwise(cuts)]


def _cut(text: str) -> str:
    """The first 1,000 tokens, by words."""
    words = text.split(" ")
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _size(" ".join(words[:middle])) <= BUDGET else (low, middle - 1)
    return " ".join(words[:low])


def _plain(text: str) -> str:
    return " ".join(text.replace("&lt;", "<").split())


def _share(gold: Sequence[str], text: str) -> float:
    return sum(part in text for part in gold) / len(gold)


def _mean(found: Sequence[Recall]) -> Recall:
    return Recall(*(statistics.fmean(values) for values in zip(*found, strict=True)))


def markdown(rows: Sequence[Row]) -> str:
    """The rows as two tables: what a turn costs and where it goes, and what is recalled."""
    chats = " / ".join(f"{tokens:,}" for tokens in CHATS)
    cost = {
        "memory": [row.name for row in rows],
        f"messages remembered of chats of {chats} tokens": [
            " / ".join(f"{share:.0%}" for share in row.reached) for row in rows
        ],
        "model calls / turn": [f"{row.calls_per_turn:.2f}" for row in rows],
        "prompt tokens / turn": [f"{row.tokens_per_turn:,.0f}" for row in rows],
        "added ms / turn": [f"{row.milliseconds_per_turn:.0f}" for row in rows],
        f"users of {USERS} who saw another's words": [str(row.leaks) for row in rows],
    }
    recall = {"memory": [row.name for row in rows]}
    for title, found in (("as used", [r.as_used for r in rows]), ("all put in", [r.all_put_in for r in rows])):
        recall |= {
            f"{title}: recall@{ITEMS}": [f"{one.items:.3f}" for one in found],
            f"tokens of these {ITEMS}, {title}": [f"{one.tokens:,.0f}" for one in found],
            f"{title}: in {BUDGET:,} tokens": [f"{one.budget:.3f}" for one in found],
        }
    return "\n\n".join(map(_table, (cost, recall)))


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *zip(*columns.values(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(paths: Sequence[str]) -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    conversations = datasets.load(paths) if paths else [datasets.demo()]
    print(markdown(run_llama_index(conversations)))  # noqa: T201
    missing = left_out()
    used = [p for c in CONTENDERS if c.name not in missing for p in c.packages]
    versions = ", ".join(f"{package} {version(package)}" for package in ("llama-index-core", *used))
    questions = sum(bool(q.evidence_turns) for c in conversations for q in c.questions)
    for name, package in missing.items():
        print(f"\n{name} is left out: pip install {package}")  # noqa: T201
    print(f"\n{len(conversations)} conversations, {questions} questions with evidence. {versions}. {provenance()}.")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
