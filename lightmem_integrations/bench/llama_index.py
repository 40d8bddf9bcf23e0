"""Long-term memory in LlamaIndex: ours beside the blocks that LlamaIndex ships.

    python -m lightmem_integrations.bench.llama_index FILES

needs the ``llama-index`` extra and ``llama-index-vector-stores-qdrant``. Each contender is used as its
documentation says: ``LightMemMemory``; ``Memory`` with a ``VectorMemoryBlock`` over Qdrant in memory and our
encoder; ``Memory`` with a ``FactExtractionMemoryBlock`` whose model is scripted, and states as a fact every
word that it is shown, which is the best that a model can do. Measured are

- the share of turns that are in long-term memory after a chat of so many tokens,
- calls of a language model and tokens of their prompts, by turn, and time added to ``Memory`` without blocks,
- how much labelled evidence is recalled, in a new session after conversations in their own sessions (``as used``),
  and in one session into which every message was put by hand (``all put in``): from 5 items, and from the
  first 1,000 tokens,
- users who are shown what another one said, where one store and one block serve all.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.memory import BaseMemoryBlock, FactExtractionMemoryBlock, Memory, VectorMemoryBlock
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

__all__ = ["Row", "markdown", "run_llama_index"]

CHATS = (2_000, 10_000, 40_000)
ITEMS = 5
BUDGET = 1_000
USERS = 20
_UNLIMITED = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one contender; shares and recall in 0..1, ``leaks`` in users of ``USERS``."""

    name: str
    reached: tuple[float, ...]
    calls_per_turn: float
    tokens_per_turn: float
    milliseconds_per_turn: float
    as_used: tuple[float, float]
    all_put_in: tuple[float, float]
    leaks: int


class Contender(Protocol):
    """A way to give ``Memory`` a long-term memory. One object has one store."""

    name: str
    calls: int
    tokens: int

    def memory(self, user_id: str, session_id: str) -> Memory:
        """The memory of a session, as an agent gets it."""
        ...

    def block(self, user_id: str, k: int) -> BaseMemoryBlock[Any]:
        """The block behind it, with so many items."""
        ...

    async def ready(self) -> None:
        """Make the store, where it is not made on first use."""
        ...

    async def kept(self) -> str:
        """All that is in long-term memory."""
        ...


# ------------------------------------------------------------------------------ contenders
class _LightMem:
    name = "LightMemMemory"
    calls = tokens = 0  # no language model is configured

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._lightmem = LightMem(folder / "memory.db", embedder=embedder)

    def memory(self, user_id: str, session_id: str) -> Memory:
        return LightMemMemory.from_defaults(lightmem=self._lightmem, user_id=user_id, session_id=session_id)

    def block(self, user_id: str, k: int) -> BaseMemoryBlock[Any]:
        return LightMemMemoryBlock(lightmem=self._lightmem, user_id=user_id, k=k, max_tokens=_UNLIMITED)

    async def ready(self) -> None: ...

    async def kept(self) -> str:
        turns = await self._lightmem.alist(user_id="user", kinds=("turn",), limit=100_000)
        return "\n".join(entry.memory for entry in turns)


class _Vectors:
    name = "VectorMemoryBlock"
    calls = tokens = 0

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._client = import_module("qdrant_client").AsyncQdrantClient(":memory:")
        self._store = import_module("llama_index.vector_stores.qdrant").QdrantVectorStore("chats", aclient=self._client)
        self._model = _Encoder(embedder)
        self._shared = self.block("", 2)

    def memory(self, user_id: str, session_id: str) -> Memory:
        return Memory.from_defaults(session_id=session_id, memory_blocks=[self._shared])

    def block(self, user_id: str, k: int) -> BaseMemoryBlock[Any]:
        return VectorMemoryBlock(vector_store=self._store, embed_model=self._model, similarity_top_k=k)

    async def ready(self) -> None:
        models = import_module("qdrant_client.models")
        size = len(self._model.get_text_embedding("one text"))
        vectors = models.VectorParams(size=size, distance=models.Distance.COSINE)
        await self._client.create_collection("chats", vectors_config={"text-dense": vectors})

    async def kept(self) -> str:
        points, _ = await self._client.scroll("chats", limit=100_000)
        return "\n".join(str(point.payload) for point in points)


class _Facts:
    name = "FactExtractionMemoryBlock"

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._model = _Stenographer()
        self._shared = FactExtractionMemoryBlock(llm=self._model)
        self._model.writes_for(self._shared)

    @property
    def calls(self) -> int:
        return self._model.calls

    @property
    def tokens(self) -> int:
        return self._model.tokens

    def memory(self, user_id: str, session_id: str) -> Memory:
        return Memory.from_defaults(session_id=session_id, memory_blocks=[self._shared])

    def block(self, user_id: str, k: int) -> BaseMemoryBlock[Any]:
        return self._shared  # it has no k: all facts are in every prompt

    async def ready(self) -> None: ...

    async def kept(self) -> str:
        return "\n".join(self._shared.facts)


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


CONTENDERS: tuple[Any, ...] = (_LightMem, _Vectors, _Facts)


# ------------------------------------------------------------------------------ measuring
def run_llama_index(conversations: Sequence[datasets.Conversation]) -> list[Row]:
    """Measure all contenders; conversations without labelled questions say nothing about recall."""
    embedder = make_embedder(LightMemConfig())
    assert embedder is not None
    return [asyncio.run(_measured(contender, conversations, embedder)) for contender in CONTENDERS]


async def _measured(make: Any, conversations: Sequence[datasets.Conversation], embedder: Embedder) -> Row:
    with TemporaryDirectory() as name:
        folders = (Path(name) / str(n) for n in range(1_000))

        async def fresh() -> Any:
            folder = next(folders)
            folder.mkdir()
            contender = make(embedder, folder)
            await contender.ready()
            return contender

        reached, costs, times = [], [], []
        for tokens in CHATS:
            contender, chat = await fresh(), _chat(tokens)
            plain = await _talk(Memory.from_defaults(session_id="plain"), chat)
            times.append((await _talk(contender.memory("user", "s1"), chat) - plain) / (len(chat) / 2))
            kept = await contender.kept()
            reached.append(sum(message.content in kept for message in chat) / len(chat))
            costs.append((contender.calls / (len(chat) / 2), contender.tokens / (len(chat) / 2)))
        as_used = [await _recall(await fresh(), conversation, put_in=False) for conversation in conversations]
        put_in = [await _recall(await fresh(), conversation, put_in=True) for conversation in conversations]
        return Row(
            name=make.name,
            reached=tuple(reached),
            calls_per_turn=costs[-1][0],
            tokens_per_turn=costs[-1][1],
            milliseconds_per_turn=1_000 * statistics.median(times),
            as_used=_mean(as_used),
            all_put_in=_mean(put_in),
            leaks=await _leaks(await fresh()),
        )


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


async def _talk(memory: Memory, chat: Sequence[Message]) -> float:
    """Put a chat through a memory as a chat engine does; returns seconds."""
    start = time.perf_counter()
    for message in chat:
        await memory.aput(_as_chat_message(message))
        if message.role == "user":
            await memory.aget()
    return time.perf_counter() - start


async def _recall(
    contender: Contender, conversation: datasets.Conversation, *, put_in: bool
) -> list[tuple[float, float]]:
    """Share of the evidence of each question in 5 items, and in 1,000 tokens."""
    first = next(m.speaker for _, said in datasets.messages(conversation) for m in said)
    texts: dict[str, str] = {}
    for session_id, said in datasets.messages(conversation):
        memory = contender.memory("user", "all" if put_in else session_id)
        chat = [_as_chat_message(m, "user" if m.speaker == first else "assistant") for m in said]
        texts |= {m.id: m.content for m in said if m.id}
        if put_in and not isinstance(memory, LightMemMemory):
            for batch in _batches(chat):
                await memory.memory_blocks[0].aput(batch, session_id="all")
        else:
            for message in chat:
                await memory.aput(message)
            if isinstance(memory, LightMemMemory):
                await memory.aflush()
    few, many = contender.block("user", ITEMS), contender.block("user", 50)
    found = []
    for question in conversation.questions:
        gold = [_plain(texts[id])[:60] for id in question.evidence_turns if id in texts]
        if gold:
            asked = [ChatMessage(role="user", content=question.question)]
            session_id = "all" if put_in else "new"
            items = _plain(await few.aget(asked, session_id=session_id))
            budget = _plain(_cut(await many.aget(asked, session_id=session_id)))
            found.append((_share(gold, items), _share(gold, budget)))
    return found


async def _leaks(contender: Contender) -> int:
    """Users who are shown what another user said, when all have told and then all ask."""
    for n in range(USERS):
        memory = contender.memory(f"user {n}", f"session {n}")
        told = [ChatMessage(role="user", content=f"My locker has the number 7{n:03}."), _assistant("Noted.")]
        await memory.aput_messages(told)
        if not isinstance(memory, LightMemMemory):
            await memory.memory_blocks[0].aput(told, session_id=f"session {n}")
    leaks = 0
    for n in range(USERS):
        shown = await contender.memory(f"user {n}", f"session {n}").aget("Which number has my locker?")
        text = " ".join(message.content or "" for message in shown)
        leaks += any(f"number 7{other:03}." in text for other in range(USERS) if other != n)
    return leaks


# ------------------------------------------------------------------------------ small change
def _size(text: str) -> int:
    return len(get_tokenizer()(text))


def _as_chat_message(message: Message, role: str | None = None) -> ChatMessage:
    return ChatMessage(role=role or message.role, content=message.content)


def _assistant(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


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


def _mean(found: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, float]:
    flat = [pair for pairs in found for pair in pairs]
    return statistics.fmean(a for a, _ in flat), statistics.fmean(b for _, b in flat)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    chats = " / ".join(f"{tokens:,}" for tokens in CHATS)
    header = [
        "memory",
        f"turns remembered of chats of {chats} tokens",
        "model calls / turn",
        "prompt tokens / turn",
        "ms / turn",
        f"recall@{ITEMS} as used",
        "in 1,000 tokens",
        f"recall@{ITEMS}, all put in",
        "in 1,000 tokens",
        f"users of {USERS} who saw another's words",
    ]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in rows:
        recalls = (f"{value:.3f}" for value in (*row.as_used, *row.all_put_in))
        shares = " / ".join(f"{share:.0%}" for share in row.reached)
        costs = f"{row.calls_per_turn:.3f}", f"{row.tokens_per_turn:.0f}", f"{row.milliseconds_per_turn:.1f}"
        lines.append([row.name, shares, *costs, *recalls, str(row.leaks)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(paths: Sequence[str]) -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    conversations = datasets.load(paths) if paths else [datasets.demo()]
    print(markdown(run_llama_index(conversations)))  # noqa: T201
    questions = sum(bool(q.evidence_turns) for c in conversations for q in c.questions)
    print(f"\n{len(conversations)} conversations, {questions} questions with evidence. {provenance()}.")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
