"""``LightMem``, the public face: sync methods and their a-twins, one line each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Literal, TypeVar

import numpy as np

from lightmem_integrations.build import build_index, build_llm, build_manager, build_pipeline
from lightmem_integrations.bulk import AHEAD, BulkResult, bulk_load, encoders
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.analyze import ANALYZER_VERSION, terms
from lightmem_integrations.core.consolidate import Consolidator, Retention
from lightmem_integrations.core.counters import Counters
from lightmem_integrations.core.encode import name_of
from lightmem_integrations.core.indexer import Indexer
from lightmem_integrations.core.ingest import Ingest
from lightmem_integrations.core.managers import Manager
from lightmem_integrations.core.pipeline import TRIES
from lightmem_integrations.core.ports import Attention, Compressor, Embedder
from lightmem_integrations.core.rank import Options
from lightmem_integrations.core.recall import QueryEncoder, Recall, Recalled
from lightmem_integrations.core.reflect import Reflection
from lightmem_integrations.core.render import render, sentence_weigher
from lightmem_integrations.core.tokens import budget_counter
from lightmem_integrations.core.types import (
    PROFILES,
    STRATEGIES,
    AddResult,
    Change,
    Context,
    DoctorReport,
    Filter,
    Finding,
    ForgetReport,
    Hit,
    Kind,
    MemoryEntry,
    Profile,
    Scope,
    Session,
    Strategy,
    SummaryReport,
    SweepReport,
    UpdateReport,
    check_identifier,
)
from lightmem_integrations.errors import (
    ClosedError,
    ConfigError,
    CorruptDataError,
    EmbedderError,
    EmbedderMismatchError,
    IndexUnavailableError,
    LightMemError,
    LLMError,
    UsageError,
)
from lightmem_integrations.models.embed import make_embedder
from lightmem_integrations.models.embed.onnx import usable_cores
from lightmem_integrations.stores.qdrant.index import QdrantIndex
from lightmem_integrations.stores.qdrant.projection import Projection
from lightmem_integrations.stores.sql.backlog import SqlBacklog
from lightmem_integrations.stores.sql.buffers import SqlBuffers
from lightmem_integrations.stores.sql.consolidation import SqlConsolidation
from lightmem_integrations.stores.sql.copying import check_whole
from lightmem_integrations.stores.sql.loading import SqlLoader
from lightmem_integrations.stores.sql.outbox import SqlOutbox
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.transfer import read_export, write_export
from lightmem_integrations.work import Round, Work

__all__ = ["LightMem", "ScopedMemory"]

T = TypeVar("T")

# Inside the class, ``list`` is a method.
Hits = list[Hit]
Entries = list[MemoryEntry]
Sessions = list[Session]
Ids = list[str]
Failures = list[str]
Changes = list[Change]

_MOST = 2**31 - 1


class LightMem:
    """Memory of conversations, for any number of users, in one database.

    Thread-safe; several processes may open the same file. Every read and write of memory names its
    ``user_id`` and touches no other user's rows. The async methods (``asearch`` for ``search`` and so
    on) run the sync ones in the engine's own threads.

    Args:
        path_or_url: a file, made if it is not there; ``":memory:"``; or a database URL.
        config: settings; None for the defaults.
        embedder: any object with ``embed(texts)``, in place of the one that ``config`` names; see
            ``core.ports.Embedder``.
        llm: a language model: any LangChain chat model, LlamaIndex LLM or ``core.ports.LLM``, or the name
            of a preset. It makes facts and summaries, in the background. None for what ``config``
            names, which by default is none: rules do it.
        compressor: any ``core.ports.Compressor``, in place of the one that ``config`` names.
        attention: any ``core.ports.Attention``; topics are then cut by it and by similarity.

    Raises:
        StorageError: the database cannot be opened; the subclasses tell why.
        EmbedderMismatchError: it was indexed with another embedder; nothing was changed. Or what Qdrant
            has under this name was made for something else.

    Example:
        >>> from lightmem_integrations import LightMem, LightMemConfig
        >>> with LightMem(":memory:", LightMemConfig(embedder="none")) as memory:
        ...     added = memory.add("My cat is called Miso.", user_id="ana")
        ...     memory.search("What is the cat's name?", user_id="ana")[0].entry.memory
        'My cat is called Miso.'
    """

    def __init__(
        self,
        path_or_url: str | Path = "lightmem.db",
        config: LightMemConfig | None = None,
        *,
        embedder: Embedder | None = None,
        llm: Any = None,
        compressor: Compressor | None = None,
        attention: Attention | None = None,
    ) -> None:
        self._setup(path_or_url, config or LightMemConfig(), embedder, llm, compressor, attention)
        try:
            self._check_identity()
            self._index.open()
        except BaseException:
            self.close()
            raise
        if self._reflection:
            self._reflection.resume()

    def _setup(
        self,
        path_or_url: str | Path,
        config: LightMemConfig,
        embedder: Embedder | None,
        llm: Any = None,
        compressor: Compressor | None = None,
        attention: Attention | None = None,
    ) -> None:
        if not isinstance(config, LightMemConfig):
            raise ConfigError("config", "must be a LightMemConfig", config)
        self.config = config
        if config.logging is not None:
            logging.getLogger("lightmem_integrations").setLevel(config.logging)
        self._counters = Counters()
        self._embedder, self._is_given = _vectors(config, embedder), embedder is not None
        self._store = SqlStore(path_or_url, config.busy_timeout_seconds)
        with ExitStack() as opened:
            opened.callback(self._store.close)
            check_whole(self._store)
            self._index = build_index(config, self._store, self._identity(), self._dim)
            opened.callback(self._index.close)
            self._wire(config, llm, compressor, attention)
            opened.pop_all()

    def _wire(
        self, config: LightMemConfig, llm: Any, compressor: Compressor | None, attention: Attention | None
    ) -> None:
        """Put together what works on the open store and index."""
        self._indexer = (
            None
            if self._embedder is None
            else Indexer(
                self._store,
                self._embedder,
                self._shape,
                self._agree_on_shape,
                config.index_wait_seconds,
                self._counters,
            )
        )
        self._queries = QueryEncoder(self._embedder, config.query_cache_size, self._counters)
        self._recall = Recall(
            self._store,
            self._index,
            self._queries,
            fuzzy=config.fuzzy,
            on_pending=self._indexer.nudge if self._indexer else lambda user_id: None,
        )
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix="lightmem")
        self._buffers = SqlBuffers(self._store)
        self._llm, self._meter = build_llm(config, llm, self._buffers)
        self._consolidator = Consolidator(
            SqlConsolidation(self._store),
            self._llm,
            similarity=config.update_similarity,
            candidates=config.update_candidates,
            threads=config.llm_concurrency,
            encode=self._encode,
        )
        manager = build_manager(config, self._llm)
        self._by_rules = manager is None or not manager.slow
        self._reflection: Reflection | None = None
        if manager is not None:
            self._reflection = self._reflect(manager, compressor, attention)
        self._ingest = Ingest(self._store, self._index, self._embedder, self._indexer, self._reflection)

    def _reflect(self, manager: Manager, compressor: Compressor | None, attention: Attention | None) -> Reflection:
        pipeline = build_pipeline(
            self.config,
            self._buffers,
            manager,
            self._recall.corpus,
            self._on_made,
            compressor=compressor,
            attention=attention,
        )
        return Reflection(pipeline, self._buffers, self.config.llm_concurrency if manager.slow else 0)

    def _on_made(self, user_id: str, ids: Sequence[str]) -> Sequence[str]:
        """Encode what was made of turns, and compare it with what was known; returns what went wrong, in words."""
        errors = [] if self._by_rules else self._encode(user_id)  # what rules make is found by its words
        if self.config.update == "online":
            errors += self._consolidator.update(user_id, only=ids).errors
        return errors

    def _encode(self, user_id: str) -> Failures:
        return list(self._indexer.index(user_id)) if self._indexer else []

    # ------------------------------------------------------------------ writing
    def add(
        self, messages: Any, *, user_id: str, session_id: str | None = None, ttl: timedelta | None = None
    ) -> AddResult:
        """Remember one message or several. They are on disk when this returns.

        Args:
            messages: one message or an iterable, in any form that ``Message.from_any`` reads.
            user_id: whose memory.
            session_id: which conversation; None for the session ``default``.
            ttl: for how long from now; None for ``ttl_days`` of the configuration, or for ever.

        Returns:
            the ids, how many are new, and how many wait for the embedder. A message whose id is there
            already with the same role, speaker and text is not stored again.

        Raises:
            UsageError: naming field, rule and value; nothing was written, not even the good messages.
            ModelNotFoundError, MissingDependencyError: there is no model; nothing was written.
            StorageError: the database refused; nothing was written.
        """
        if ttl is not None and (not isinstance(ttl, timedelta) or ttl <= timedelta(0)):
            raise UsageError("ttl", "must be a timedelta above 0", ttl)
        if ttl is None and self.config.ttl_days is not None:
            ttl = timedelta(days=self.config.ttl_days)
        with self._counters.add_memory.measured():
            return self._ingest.add(Scope(user_id, session_id), messages, ttl=ttl)

    def flush(self, *, user_id: str | None = None, session_id: str | None = None, wait: bool = True) -> int:
        """Finish what is pending, of one user or of all: encode, empty the buffers, make facts and summaries.

        Args:
            user_id: whose; None for everybody's.
            session_id: only the buffers of this session. What waits for the embedder is kept by user.
            wait: for the language model; False lets it go on in the background.

        Returns:
            entries that were encoded now.

        Raises:
            EmbedderError: some could not be encoded; they stay pending.
            IndexUnavailableError: the index outside of the database could not be told; the next flush tells it.
            LLMError: some segments got no answer; they stay in the queue.
        """
        if user_id is not None or session_id is not None:
            Scope(user_id or "", session_id)
        encoded = self._drain(user_id)
        if self._reflection:
            errors = self._reflection.flush(user_id, session_id, wait=wait)
            waiting = self._buffers.waiting(user_id, session_id)
            if errors and any(w.open or w.parked for w in waiting):
                raise (LLMError if self._llm else LightMemError)(
                    f"{'; '.join(errors)}. Nothing is lost: the next flush tries again, and doctor tells what waits"
                )
            encoded += self._drain(user_id)
        if told := self._index.flush(user_id):
            raise IndexUnavailableError("; ".join(told))
        return encoded

    def work(
        self,
        stop: Event | None = None,
        *,
        once: bool = False,
        interval: float = 1.0,
        on_round: Callable[[Round], None] = lambda done: None,
    ) -> Round:
        """Work off what waits of everybody: entries to encode, segments to extract, facts to compare, an index to tell.

        Any number of threads, processes and hosts may do so at a time. What ``add`` does by itself it goes
        on doing: a worker takes up what was left.

        Args:
            stop: once it is set, what is under way is finished, and the call returns. None: never.
            once: return when nothing is left that can be done.
            interval: seconds between two looks at an empty queue, above 0.
            on_round: told of every round, from this thread.

        Returns:
            everything that was done.

        Raises:
            UsageError: an interval of 0 or less.
            ModelNotFoundError, MissingDependencyError: there is no model.
            StorageError: with ``once``, the database cannot be read. Otherwise it is tried again.
        """
        if not isinstance(interval, int | float) or not 0 < interval < _MOST:
            raise UsageError("interval", "must be a number of seconds above 0", interval)
        self._ingest.load()
        config = self.config
        work = Work(
            SqlBacklog(self._store),
            indexer=self._indexer,
            reflection=self._reflection,
            consolidator=self._consolidator if config.update == "online" else None,
            projection=self._projection,
            buffer_tokens=config.sensory_buffer_tokens,
            max_age=timedelta(hours=config.buffer_max_age_hours),
        )
        return work.run(stop or Event(), once=once, interval=interval, on_round=on_round)

    @property
    def _projection(self) -> Projection | None:
        """What keeps an index outside of the database like it; None without one."""
        return self._index.projection if isinstance(self._index, QdrantIndex) else None

    def bulk_add(
        self,
        path: str | Path,
        *,
        user_id: str | None = None,
        processes: int | None = None,
        progress: Callable[[int], None] = lambda turns: None,
    ) -> BulkResult:
        """Remember the turns of many users from a file, encoded by several processes.

        The result is that of ``add``, session by session. It is stored in parts: broken off and called
        again, it goes on. What is due then is done at the end, by ``work``; with a language model, which
        takes its time, extraction is left to the background and to workers.

        Args:
            path: JSON Lines as ``export`` writes it, with a ``user_id`` on every line. Turns of one session
                are in order.
            user_id: whose the lines are that name nobody.
            processes: that encode, at least 1; None for one a core. A script that is run needs the usual
                ``if __name__ == "__main__"``, and an embedder of your own must be one that pickle can copy.
            progress: told now and then how many turns are done.

        Raises:
            UsageError: naming the line at fault; what was stored before it stays.
            ModelNotFoundError, MissingDependencyError: there is no model; nothing was written.
            StorageError: the database refused, or what is due could not be done.
        """
        if not Path(path).is_file():
            raise UsageError("path", "must be a file", str(path))
        if processes is not None and (not isinstance(processes, int) or processes < 1):
            raise UsageError("processes", "must be a whole number of at least 1", processes)
        if user_id is not None:
            Scope(user_id)
        self._ingest.load()
        count = usable_cores() if processes is None else processes
        loader, ahead = SqlLoader(self._store), AHEAD * count if count > 1 else 0
        shared: Any = {"user_id": user_id, "progress": progress}
        if self._embedder is None:
            done = bulk_load(loader, Path(path), None, **shared)
        else:
            with encoders(self.config, self._embedder, given=self._is_given, processes=count) as encode:
                done = bulk_load(loader, Path(path), encode, ahead=ahead, agree=self._agree_on_shape, **shared)
        if self._by_rules or self._projection is not None:
            self.work(once=True)
        return done

    def _drain(self, user_id: str | None) -> int:
        users = self._store.pending_users() if user_id is None else [user_id]
        return sum(self._indexer.drain(user) for user in users) if self._indexer else 0

    def forget(
        self,
        *,
        user_id: str,
        session_id: str | None = None,
        ids: Iterable[str] | None = None,
        before: datetime | None = None,
    ) -> ForgetReport:
        """Remove turns for good, with all that was made from them. Conditions hold together.

        Args:
            user_id: whose memory; alone, it means everything.
            session_id: only this conversation.
            ids: only these, by entry id or by message id.
            before: only what was said before (timezone-aware).

        Returns:
            rows removed, by table.

        Raises:
            UsageError: a single string as ``ids``, or ``before`` without a timezone.
        """
        if before is not None and (not isinstance(before, datetime) or before.tzinfo is None):
            raise UsageError("before", "must be a timezone-aware datetime", before)
        scope = Scope(user_id, session_id)
        report = ForgetReport(self._store.forget(scope, None if ids is None else _id_list(ids), before))
        self._index.drop(user_id)
        self._index.flush(user_id)
        return report

    # ------------------------------------------------------------------ reading
    def search(
        self,
        query: str,
        *,
        user_id: str,
        session_id: str | None = None,
        k: int = 10,
        strategy: Strategy | None = None,
        profile: Profile | None = None,
        filter: Filter | None = None,
        score_threshold: float | None = None,
    ) -> Hits:
        """What this user's memory holds on a question, best first.

        Args:
            query: any text; a blank one finds nothing.
            user_id: whose memory.
            session_id: only this conversation; None for all.
            k: how many hits at most, at least 1.
            strategy: in place of the configured one; see ``core.rank``.
            profile: likewise.
            filter: what an entry must be; applied before ranking.
            score_threshold: 0..1, hits below are left out.

        Returns:
            hits with distinct entries; ties by time, then id.

        Raises:
            UsageError: a bad argument.
            ModelNotFoundError, MissingDependencyError: there is no model.
        """
        scope = Scope(user_id, session_id)
        with self._counters.retrieve.measured():
            hits = self._recalled(scope, query, k, strategy, profile, filter).hits
        if score_threshold is None:
            return hits
        if not isinstance(score_threshold, int | float) or not 0 <= score_threshold <= 1:
            raise UsageError("score_threshold", "must lie in 0..1", score_threshold)
        return [hit for hit in hits if hit.score >= score_threshold]

    def context(
        self,
        query: str,
        *,
        user_id: str,
        session_id: str | None = None,
        max_tokens: int = 1000,
        k: int = 50,
        strategy: Strategy | None = None,
        profile: Profile | None = None,
        filter: Filter | None = None,
    ) -> Context:
        """Recalled memory as text for a prompt, within a token budget.

        Args:
            query: as for ``search``, like every argument that is not named here.
            user_id: whose memory.
            session_id: only this conversation; None for all.
            max_tokens: budget of the whole text (``Context.tokenizer`` tells how it is counted).
            k: hits to choose from.
            strategy: see ``search``.
            profile: see ``search``.
            filter: see ``search``.

        Raises:
            UsageError: a bad argument.
        """
        if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
            raise UsageError("max_tokens", "must be a whole number of at least 1", max_tokens)
        with self._counters.retrieve.measured():
            recalled = self._recalled(Scope(user_id, session_id), query, k, strategy, profile, filter)
        return render(recalled.hits, max_tokens, budget_counter(), sentence_weigher(recalled.worth, terms))

    def expand(self, hit: Hit, *, user_id: str) -> MemoryEntry:
        """The whole entry behind a hit that shows a passage of it.

        Raises:
            UsageError: when it is not there any more, or is not this user's.
        """
        entry = self.get(hit.entry.id, user_id=user_id) if isinstance(hit, Hit) else None
        if entry is None:
            raise UsageError("hit", "must be of an entry that this user still has", hit)
        return entry

    def get(self, id: str, *, user_id: str) -> MemoryEntry | None:
        """One entry with its embedding, by entry id or by message id; None when there is none."""
        scope = Scope(user_id)
        entry = self._store.resolve(scope.user_id, check_identifier("id", id))
        if entry is None:
            return None
        passages = self._store.passages_of(scope.user_id, entry.id)
        if not passages:
            return entry
        total = np.sum([vector for _, vector in passages], axis=0)
        return replace(entry, embedding=(total / np.linalg.norm(total)).astype(np.float32))

    def list(
        self,
        *,
        user_id: str,
        session_id: str | None = None,
        kinds: Sequence[Kind] | None = None,
        filter: Filter | None = None,
        limit: int = 100,
        offset: int = 0,
        newest_first: bool = False,
    ) -> Entries:
        """Entries, oldest first unless asked otherwise; turns, unless ``kinds`` names others.

        Raises:
            UsageError: a negative ``limit`` or ``offset``, or ``kinds`` here and in the filter.
        """
        for name, value in (("limit", limit), ("offset", offset)):
            if not isinstance(value, int) or not 0 <= value <= _MOST:
                raise UsageError(name, f"must be a whole number in 0..{_MOST}", value)
        wanted = _filter(filter)
        if kinds is not None:
            if wanted.kinds is not None:
                raise UsageError("kinds", "must be given once, here or in the filter", kinds)
            wanted = replace(wanted, kinds=kinds)
        wanted = replace(wanted, kinds=wanted.kinds or ("turn",))
        return self._store.list_entries(Scope(user_id, session_id), wanted, limit, offset, newest_first=newest_first)

    def sessions(self, *, user_id: str) -> Sessions:
        """The user's conversations in numbers, the one that was written to last first."""
        return self._store.sessions_of(Scope(user_id).user_id)

    def history(self, entry_id: str, *, user_id: str) -> Changes:
        """What happened to an entry, oldest first; empty when there is no such entry."""
        scope = Scope(user_id)
        entry = self._store.resolve(scope.user_id, check_identifier("entry_id", entry_id))
        return self._store.history(scope.user_id, entry.id if entry else entry_id)

    # ------------------------------------------------------------------ time to reflect
    def update(self, *, user_id: str, session_id: str | None = None) -> UpdateReport:
        """Compare each fact with later ones that resemble it: duplicates merge, and what changed is replaced.

        Without a language model duplicates merge and nothing else. Nothing is rewritten: an entry that
        no longer holds keeps its text, and ``undo`` takes the change back.

        Args:
            user_id: whose facts.
            session_id: only those of this session.
        """
        scope = Scope(user_id, session_id)
        self._ingest.load()
        return self._consolidator.update(scope.user_id, scope.session_id)

    def undo(self, entry_id: str, *, user_id: str) -> Ids:
        """Take the last change of an entry back, so that what it replaced, or was replaced by, holds again.

        Returns:
            ids of the entries that hold again.

        Raises:
            UsageError: there is nothing to undo.
        """
        scope = Scope(user_id)
        entry = self._store.resolve(scope.user_id, check_identifier("entry_id", entry_id))
        if entry is None:
            raise UsageError("entry_id", "must be of an entry that this user has", entry_id)
        return self._consolidator.undo(scope.user_id, entry.id)

    def summarize(self, *, user_id: str, window: timedelta | None = None, flush: bool = False) -> SummaryReport:
        """Sum up facts over windows of time, across sessions. Doing it again does nothing new.

        Args:
            user_id: whose facts.
            window: time that one summary spans; None for ``summary_window_hours``.
            flush: sum up the window that is not over yet, too.
        """
        window = timedelta(hours=self.config.summary_window_hours) if window is None else window
        report = self._consolidator.summarize(Scope(user_id).user_id, window, flush=flush)
        if report.made:
            self._encode(user_id)
        return report

    def sweep(self, *, user_id: str | None = None, dry_run: bool = False) -> SweepReport:
        """Remove what has expired, and what has faded where ``retention_threshold`` asks for it.

        Args:
            user_id: whose memory; None for everybody's.
            dry_run: remove nothing and report the same.
        """
        if user_id is not None:
            Scope(user_id)
        config = self.config
        retention = Retention(
            config.retention_threshold, config.retention_half_life_days, config.retention_min_age_days
        )
        report = self._consolidator.sweep(user_id, retention, dry_run=dry_run)
        for user in () if dry_run else {*report.expired, *report.faded}:
            self._index.drop(user)
            self._index.flush(user)
        return report

    # ------------------------------------------------------------------ moving
    def export(self, path: str | Path, *, user_id: str) -> int:
        """Write the user's turns to a JSON Lines file.

        Returns:
            turns written.
        """
        return write_export(Path(path), self._store.turns_of(Scope(user_id).user_id))

    def import_(self, path: str | Path, *, user_id: str) -> AddResult:
        """Read a file that ``export`` wrote into this user's memory; known turns are passed over.

        Raises:
            UsageError: naming the line at fault; nothing was written.
        """
        return self._ingest.restore(Scope(user_id).user_id, read_export(Path(path)))

    # ------------------------------------------------------------------ looking after it
    def stats(self, *, user_id: str | None = None) -> dict[str, Any]:
        """Counts of rows, of one user or of all, and how the engine is doing. No text.

        Returns:
            ``rows`` by table; ``entries`` by kind; ``pending`` entries; ``embedder``; ``query_cache`` with ``hits``,
            ``misses`` and ``hit_ratio`` (0..1); ``index_cache`` with ``users`` and ``bytes``;
            ``buffers`` with ``turns`` in the sensory buffers and segments ``held``, ``queued`` and
            ``parked``; ``compression`` with tokens ``before`` and ``after``, and turns that ``failed``.
            Of this process, whoever the user: ``add_memory_tokens``, ``update_tokens`` and
            ``summarize_tokens``, charged by the language model; ``llm``, the same by purpose, with
            ``calls``; ``embedding_tokens``; ``add_memory_latency``, ``retrieve_latency`` and
            ``embedding_latency`` with ``p50`` and ``p95`` of the last 1,000, in milliseconds, and ``count``.
        """
        if user_id is not None:
            Scope(user_id)
        asked = self._queries.hits + self._queries.misses
        return {
            "rows": self._store.counts(user_id),
            "entries": self._store.counts_by_kind(user_id),
            "pending": self._store.pending_count(user_id),
            "embedder": name_of(self._embedder),
            "query_cache": {
                "hits": self._queries.hits,
                "misses": self._queries.misses,
                "hit_ratio": self._queries.hits / asked if asked else 0.0,
            },
            "index_cache": self._index.stats(),
            "buffers": self._buffers.totals(user_id),
            "compression": self._buffers.compression(user_id),
            **self._own_counters(),
        }

    def _own_counters(self) -> dict[str, Any]:
        usage, counters = self._meter.usage(), self._counters
        tokens = {purpose: used.input_tokens + used.output_tokens for purpose, used in usage.items()}
        return {
            "llm": {
                "name": self._llm.name if self._llm else None,
                "usage": {purpose: asdict(used) for purpose, used in usage.items() if purpose != "embedding"},
            },
            "add_memory_tokens": tokens["add_memory"],
            "update_tokens": tokens["update"],
            "summarize_tokens": tokens["summarize"],
            "embedding_tokens": counters.embedding_tokens,
            "add_memory_latency": counters.add_memory.summary(),
            "retrieve_latency": counters.retrieve.summary(),
            "embedding_latency": counters.embedding.summary(),
        }

    def doctor(self, *, repair: bool = False, user_id: str | None = None) -> DoctorReport:
        """Compare what is stored with what should be, and mend it on demand.

        Args:
            repair: encode what is pending or lacks its vectors, give parked segments another try,
                and write the file anew, so that nothing that was forgotten is left in its free space.
            user_id: whose pending entries to count and encode; None for everybody's. The database
                itself is always checked as a whole.
        """
        if user_id is not None:
            Scope(user_id)
        try:
            faults = self._store.integrity()
        except CorruptDataError as error:
            return DoctorReport((Finding("database", False, str(error), 1),))
        lacking = self._store.lacking() if self._indexer else 0
        parked = self._buffers.totals(user_id)["parked"]
        pending = self._store.pending_count(user_id)
        mended, failure = (0, "")
        if repair:
            mended, failure = self._repair(lacking, user_id)
            self._retry_parked(user_id)
            self._store.compact()
        left = self._store.pending_count(user_id)
        reasons = "; ".join(self._store.failures(user_id)) or failure
        return DoctorReport(
            (
                Finding("database", not faults, "; ".join(faults) or "sound", len(faults)),
                Finding("vectors", not lacking or repair, f"{lacking} entries lost their vectors", lacking),
                Finding(
                    "pending",
                    left == 0,
                    f"{left} entries wait for the embedder" + (f": {reasons}" if left and reasons else ""),
                    left,
                    repaired=max(0, mended if pending or lacking else 0),
                ),
                self._extraction(user_id, parked),
                *self._index.findings(repair=repair),
                *([_UNGUARDED] if self._store.passes_policies() else []),
            )
        )

    def _extraction(self, user_id: str | None, parked: int) -> Finding:
        """What the extractor has failed at. ``parked`` segments were so before a repair."""
        now = self._buffers.totals(user_id)
        reasons = self._buffers.reasons(user_id)
        lately = [e for e in self._reflection.lately if e not in reasons] if self._reflection else []
        told = f"{now['queued']} segments wait for the extractor, {now['parked']} are parked after {TRIES} failures"
        told += f": {'; '.join(reasons)}" if reasons else ""
        return Finding(
            "extraction",
            not reasons and not now["parked"],
            told + (f". Went wrong lately: {'; '.join(lately)}" if lately else ""),
            now["queued"] + now["parked"],
            repaired=max(0, parked - now["parked"]),
        )

    def _retry_parked(self, user_id: str | None) -> None:
        if self._reflection and self._buffers.unpark(user_id):
            self._reflection.retry(user_id)

    def _repair(self, lacking: int, user_id: str | None) -> tuple[int, str]:
        if lacking:
            self._store.requeue()
        mended, failure = 0, ""
        for user in self._store.pending_users() if user_id is None else [user_id]:
            before = self._store.pending_count(user)
            try:
                if self._indexer:
                    self._indexer.drain(user)
            except EmbedderError as error:
                failure = str(error)
            mended += before - self._store.pending_count(user)
        return mended, failure

    @classmethod
    def reindex(
        cls,
        path_or_url: str | Path = "lightmem.db",
        config: LightMemConfig | None = None,
        *,
        embedder: Embedder | None = None,
        to: Literal["exact", "qdrant"] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Make anew what is made of entries: their vectors, and the index in Qdrant where there is one.

        No entry changes. Killed half-way and called again it goes on; so do ``flush`` and
        ``doctor(repair=True)`` with what is pending. While Qdrant is filled, searches use what it had before.

        Args:
            path_or_url: the database.
            config: names the embedder, and Qdrant.
            embedder: in place of the one that ``config`` names. Without an embedder the vectors are removed.
            to: None encodes every entry anew, and fills Qdrant if ``config`` names one. ``"qdrant"`` fills
                it with the vectors that are there, unless they are another embedder's. ``"exact"`` lets the
                database answer by itself again, and removes what ``config``'s Qdrant has of it.
            progress: called now and then with (entries done, entries in all), first for vectors, then for Qdrant.

        Returns:
            entries encoded; with ``to``, entries that Qdrant was told.

        Raises:
            ConfigError: ``config`` names no Qdrant, and there is one or should be; nothing was changed.
            ModelNotFoundError, MissingDependencyError: before anything was changed.
            EmbedderError: some could not be encoded; they stay pending.
            IndexUnavailableError: Qdrant cannot be reached.
        """
        if to not in (None, "exact", "qdrant"):
            raise UsageError("to", "must be 'exact', 'qdrant' or None", to)
        memory = cls.__new__(cls)
        memory._setup(path_or_url, config or LightMemConfig(), embedder)
        try:
            if to == "exact":
                return memory._leave_qdrant()
            projection = memory._projection
            is_same = memory._store.claim_meta(memory._identity()) == memory._identity()
            if projection is None and (to or not (is_same or SqlOutbox(memory._store).index() is None)):
                rule = "must name the server that has, or shall have, the index of this database; or give to='exact'"
                raise ConfigError("qdrant", rule, None)
            encoded = memory._encode_all(progress, anew=to is None or not is_same)
            told = projection.rebuild(progress) if projection is not None else 0
            return encoded if to is None else told
        finally:
            memory.close()

    def _encode_all(self, progress: Callable[[int, int], None] | None, *, anew: bool) -> int:
        """Encode everything that is pending, or everything; returns how many entries."""
        if not anew and not self._store.pending_count():
            return 0
        self._ingest.load()
        if anew:
            # The vectors go before the name changes: at no moment has the database old ones under a new name.
            self._store.drop_encoded()
            self._store.drop_meta(("dim", "token_dim"))
            self._store.write_meta(self._identity())
        if self._indexer is None:
            return 0
        self._store.requeue()
        total, done = self._store.pending_count(), 0
        for user in self._store.pending_users():

            def told(encoded: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + encoded, total)

            done += self._indexer.drain(user, told)
            told(0, done)
        return done

    def _leave_qdrant(self) -> int:
        projection = self._projection
        if projection is not None:
            projection.collection.current()  # raises where another database has this name
        SqlOutbox(self._store).detach()
        if projection is not None:
            projection.collection.remove()
        return 0

    def close(self) -> None:
        """Flush the buffers that were fed, stop the threads and give back the connections. Safe to repeat.

        What waits for the embedder or for a language model stays in the database.
        """
        if self._reflection:
            self._reflection.close()
            self._reflection = None
        if self._indexer:
            self._indexer.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._index.close()
        self._store.close()

    def __enter__(self) -> LightMem:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LightMem({self._store.path!r}, embedder={name_of(self._embedder)!r})"

    def scope(self, *, user_id: str, session_id: str | None = None) -> ScopedMemory:
        """A view with the same verbs that is bound to one user, or to one of their sessions."""
        return ScopedMemory(self, Scope(user_id, session_id))

    # ------------------------------------------------------------------ inside
    def _recalled(
        self,
        scope: Scope,
        query: str,
        k: int,
        strategy: Strategy | None,
        profile: Profile | None,
        filter: Filter | None,
    ) -> Recalled:
        if not isinstance(query, str):
            raise UsageError("query", "must be a string", query)
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise UsageError("k", "must be a whole number of at least 1", k)
        for name, value, allowed in (("strategy", strategy, STRATEGIES), ("profile", profile, PROFILES)):
            if value is not None and value not in allowed:
                raise UsageError(name, f"must be one of {', '.join(allowed)}", value)
        self._ingest.load()
        config = self.config
        options = Options(
            strategy=strategy or _STRATEGY_OF.get(config.retrieve_strategy, config.strategy),
            profile=profile or config.profile,
            late_max_pieces=config.late_max_pieces,
            late_candidates=max(config.late_candidates, 4 * k),
            recency_weight=config.recency_weight,
            recency_half_life_days=config.recency_half_life_days,
            importance_weight=config.importance_weight,
        )
        return self._recall.search(scope, query, k, self._wanted(filter), options)

    def _wanted(self, filter: Filter | None) -> Filter:
        """The filter with the kinds that are searched when it names none."""
        wanted = _filter(filter)
        kinds: tuple[Kind, ...] = ("turn",) if self.config.summary_retriever == "none" else ("turn", "summary")
        return wanted if wanted.kinds else replace(wanted, kinds=kinds)

    def _identity(self) -> dict[str, str]:
        dim = getattr(self._embedder, "dim", None)
        identity = {"embedder": name_of(self._embedder), "analyzer": str(ANALYZER_VERSION)}
        return identity if dim is None else identity | {"dim": str(dim)}

    def _shape(self) -> tuple[int, int] | None:
        """(dim, token_dim) of the vectors that are stored, or that the embedder declares; None if unknown."""
        dim, token_dim = (self._store.read_meta(key) for key in ("dim", "token_dim"))
        if dim is not None and token_dim is not None:
            return int(dim), int(token_dim)
        declared = getattr(self._embedder, "dim", None)
        return None if declared is None else (int(declared), int(getattr(self._embedder, "token_dim", 0)))

    def _dim(self) -> int | None:
        """Length of the vectors; 1 where there are none to come, None while nobody knows."""
        shape = (1, 0) if self._embedder is None else self._shape()
        return None if shape is None else shape[0]

    def _agree_on_shape(self, shape: tuple[int, int]) -> None:
        mine = {"dim": str(shape[0]), "token_dim": str(shape[1])}
        found = self._store.claim_meta(mine)
        if found != mine:
            raise EmbedderError(
                f"{name_of(self._embedder)} gave vectors of (dim, token_dim) {shape}; the database has {found}"
            )

    def _check_identity(self) -> None:
        mine = self._identity()
        found = self._store.claim_meta(mine)
        if found != mine:
            told = ", ".join(f"{key} {found[key]!r} (now {mine[key]!r})" for key in mine if found[key] != mine[key])
            raise EmbedderMismatchError(
                f"{self._store.path} was indexed with {told}. Open it with that one, or rebuild its vectors with "
                f"`lightmem reindex` or LightMem.reindex(...). Nothing was changed."
            )

    async def _run(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args, **kwargs))
        except RuntimeError as error:
            raise ClosedError(f"{self._store.path} was closed; open a new LightMem") from error
        return await future

    # ------------------------------------------------------------------ async twins
    async def aadd(
        self, messages: Any, *, user_id: str, session_id: str | None = None, ttl: timedelta | None = None
    ) -> AddResult:
        """``add`` in a thread of the engine."""
        return await self._run(self.add, messages, user_id=user_id, session_id=session_id, ttl=ttl)

    async def aflush(self, *, user_id: str | None = None, session_id: str | None = None, wait: bool = True) -> int:
        """``flush`` in a thread of the engine."""
        return await self._run(self.flush, user_id=user_id, session_id=session_id, wait=wait)

    async def asessions(self, *, user_id: str) -> Sessions:
        """``sessions`` in a thread of the engine."""
        return await self._run(self.sessions, user_id=user_id)

    async def aforget(
        self,
        *,
        user_id: str,
        session_id: str | None = None,
        ids: Iterable[str] | None = None,
        before: datetime | None = None,
    ) -> ForgetReport:
        """``forget`` in a thread of the engine."""
        return await self._run(self.forget, user_id=user_id, session_id=session_id, ids=ids, before=before)

    async def asearch(
        self,
        query: str,
        *,
        user_id: str,
        session_id: str | None = None,
        k: int = 10,
        strategy: Strategy | None = None,
        profile: Profile | None = None,
        filter: Filter | None = None,
        score_threshold: float | None = None,
    ) -> Hits:
        """``search`` in a thread of the engine."""
        return await self._run(
            self.search,
            query,
            user_id=user_id,
            session_id=session_id,
            k=k,
            strategy=strategy,
            profile=profile,
            filter=filter,
            score_threshold=score_threshold,
        )

    async def acontext(
        self,
        query: str,
        *,
        user_id: str,
        session_id: str | None = None,
        max_tokens: int = 1000,
        k: int = 50,
        strategy: Strategy | None = None,
        profile: Profile | None = None,
        filter: Filter | None = None,
    ) -> Context:
        """``context`` in a thread of the engine."""
        return await self._run(
            self.context,
            query,
            user_id=user_id,
            session_id=session_id,
            max_tokens=max_tokens,
            k=k,
            strategy=strategy,
            profile=profile,
            filter=filter,
        )

    async def aexpand(self, hit: Hit, *, user_id: str) -> MemoryEntry:
        """``expand`` in a thread of the engine."""
        return await self._run(self.expand, hit, user_id=user_id)

    async def aget(self, id: str, *, user_id: str) -> MemoryEntry | None:
        """``get`` in a thread of the engine."""
        return await self._run(self.get, id, user_id=user_id)

    async def alist(
        self,
        *,
        user_id: str,
        session_id: str | None = None,
        kinds: Sequence[Kind] | None = None,
        filter: Filter | None = None,
        limit: int = 100,
        offset: int = 0,
        newest_first: bool = False,
    ) -> Entries:
        """``list`` in a thread of the engine."""
        return await self._run(
            self.list,
            user_id=user_id,
            session_id=session_id,
            kinds=kinds,
            filter=filter,
            limit=limit,
            offset=offset,
            newest_first=newest_first,
        )

    async def aupdate(self, *, user_id: str, session_id: str | None = None) -> UpdateReport:
        """``update`` in a thread of the engine."""
        return await self._run(self.update, user_id=user_id, session_id=session_id)

    async def aundo(self, entry_id: str, *, user_id: str) -> Ids:
        """``undo`` in a thread of the engine."""
        return await self._run(self.undo, entry_id, user_id=user_id)

    async def asummarize(self, *, user_id: str, window: timedelta | None = None, flush: bool = False) -> SummaryReport:
        """``summarize`` in a thread of the engine."""
        return await self._run(self.summarize, user_id=user_id, window=window, flush=flush)

    async def asweep(self, *, user_id: str | None = None, dry_run: bool = False) -> SweepReport:
        """``sweep`` in a thread of the engine."""
        return await self._run(self.sweep, user_id=user_id, dry_run=dry_run)

    async def ahistory(self, entry_id: str, *, user_id: str) -> Changes:
        """``history`` in a thread of the engine."""
        return await self._run(self.history, entry_id, user_id=user_id)

    async def aexport(self, path: str | Path, *, user_id: str) -> int:
        """``export`` in a thread of the engine."""
        return await self._run(self.export, path, user_id=user_id)

    async def aimport_(self, path: str | Path, *, user_id: str) -> AddResult:
        """``import_`` in a thread of the engine."""
        return await self._run(self.import_, path, user_id=user_id)

    async def astats(self, *, user_id: str | None = None) -> dict[str, Any]:
        """``stats`` in a thread of the engine."""
        return await self._run(self.stats, user_id=user_id)

    async def adoctor(self, *, repair: bool = False, user_id: str | None = None) -> DoctorReport:
        """``doctor`` in a thread of the engine."""
        return await self._run(self.doctor, repair=repair, user_id=user_id)

    async def aclose(self) -> None:
        """``close`` without blocking the event loop."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> LightMem:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


_UNGUARDED = Finding(
    "guard", True, "row level security is in place, but this role passes it; connect as the one of `lightmem db init`"
)

_STRATEGY_OF: dict[str, Strategy] = {"embedding": "dense", "context": "bm25"}


def _vectors(config: LightMemConfig, embedder: Embedder | None) -> Embedder | None:
    """Who makes vectors; None when only words are indexed."""
    if config.index_strategy == "context":
        return None
    return make_embedder(config) if embedder is None else embedder


def _filter(value: Filter | None) -> Filter:
    if value is not None and not isinstance(value, Filter):
        raise UsageError("filter", "must be a Filter", value)
    return value or Filter()


def _id_list(values: Iterable[str]) -> list[str]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError("ids", "must be a list of ids", values)
    return [check_identifier("ids", value) for value in values]


class ScopedMemory:
    """A ``LightMem`` bound to one user, or to one of their sessions; made by ``LightMem.scope``.

    The verbs and their options are those of ``LightMem``, without ``user_id`` and ``session_id``.
    """

    def __init__(self, memory: LightMem, scope: Scope) -> None:
        self._memory = memory
        self._user: dict[str, Any] = {"user_id": scope.user_id}
        self._both: dict[str, Any] = {"user_id": scope.user_id, "session_id": scope.session_id}

    def __repr__(self) -> str:
        return f"{self._memory!r}.scope({', '.join(f'{k}={v!r}' for k, v in self._both.items())})"

    def add(self, messages: Any, **options: Any) -> AddResult:
        """See ``LightMem.add``."""
        return self._memory.add(messages, **self._both, **options)

    def flush(self, **options: Any) -> int:
        """See ``LightMem.flush``."""
        return self._memory.flush(**self._both, **options)

    def sessions(self) -> Sessions:
        """See ``LightMem.sessions``."""
        return self._memory.sessions(**self._user)

    def forget(self, **options: Any) -> ForgetReport:
        """See ``LightMem.forget``."""
        return self._memory.forget(**self._both, **options)

    def search(self, query: str, **options: Any) -> Hits:
        """See ``LightMem.search``."""
        return self._memory.search(query, **self._both, **options)

    def context(self, query: str, **options: Any) -> Context:
        """See ``LightMem.context``."""
        return self._memory.context(query, **self._both, **options)

    def expand(self, hit: Hit) -> MemoryEntry:
        """See ``LightMem.expand``."""
        return self._memory.expand(hit, **self._user)

    def get(self, id: str) -> MemoryEntry | None:
        """See ``LightMem.get``."""
        return self._memory.get(id, **self._user)

    def list(self, **options: Any) -> Entries:
        """See ``LightMem.list``."""
        return self._memory.list(**self._both, **options)

    def update(self) -> UpdateReport:
        """See ``LightMem.update``."""
        return self._memory.update(**self._both)

    def undo(self, entry_id: str) -> Ids:
        """See ``LightMem.undo``."""
        return self._memory.undo(entry_id, **self._user)

    def summarize(self, **options: Any) -> SummaryReport:
        """See ``LightMem.summarize``; across the user's sessions."""
        return self._memory.summarize(**self._user, **options)

    def sweep(self, **options: Any) -> SweepReport:
        """See ``LightMem.sweep``; the whole user."""
        return self._memory.sweep(**self._user, **options)

    def history(self, entry_id: str) -> Changes:
        """See ``LightMem.history``."""
        return self._memory.history(entry_id, **self._user)

    def export(self, path: str | Path) -> int:
        """See ``LightMem.export``; the whole user."""
        return self._memory.export(path, **self._user)

    def import_(self, path: str | Path) -> AddResult:
        """See ``LightMem.import_``; into the sessions that the file names."""
        return self._memory.import_(path, **self._user)

    def stats(self) -> dict[str, Any]:
        """See ``LightMem.stats``."""
        return self._memory.stats(**self._user)

    def doctor(self, *, repair: bool = False) -> DoctorReport:
        """See ``LightMem.doctor``."""
        return self._memory.doctor(repair=repair, **self._user)

    async def aadd(self, messages: Any, **options: Any) -> AddResult:
        """See ``LightMem.add``."""
        return await self._memory.aadd(messages, **self._both, **options)

    async def aflush(self, **options: Any) -> int:
        """See ``LightMem.flush``."""
        return await self._memory.aflush(**self._both, **options)

    async def asessions(self) -> Sessions:
        """See ``LightMem.sessions``."""
        return await self._memory.asessions(**self._user)

    async def aforget(self, **options: Any) -> ForgetReport:
        """See ``LightMem.forget``."""
        return await self._memory.aforget(**self._both, **options)

    async def asearch(self, query: str, **options: Any) -> Hits:
        """See ``LightMem.search``."""
        return await self._memory.asearch(query, **self._both, **options)

    async def acontext(self, query: str, **options: Any) -> Context:
        """See ``LightMem.context``."""
        return await self._memory.acontext(query, **self._both, **options)

    async def aexpand(self, hit: Hit) -> MemoryEntry:
        """See ``LightMem.expand``."""
        return await self._memory.aexpand(hit, **self._user)

    async def aget(self, id: str) -> MemoryEntry | None:
        """See ``LightMem.get``."""
        return await self._memory.aget(id, **self._user)

    async def alist(self, **options: Any) -> Entries:
        """See ``LightMem.list``."""
        return await self._memory.alist(**self._both, **options)

    async def aupdate(self) -> UpdateReport:
        """See ``LightMem.update``."""
        return await self._memory.aupdate(**self._both)

    async def aundo(self, entry_id: str) -> Ids:
        """See ``LightMem.undo``."""
        return await self._memory.aundo(entry_id, **self._user)

    async def asummarize(self, **options: Any) -> SummaryReport:
        """See ``LightMem.summarize``; across the user's sessions."""
        return await self._memory.asummarize(**self._user, **options)

    async def asweep(self, **options: Any) -> SweepReport:
        """See ``LightMem.sweep``; the whole user."""
        return await self._memory.asweep(**self._user, **options)

    async def ahistory(self, entry_id: str) -> Changes:
        """See ``LightMem.history``."""
        return await self._memory.ahistory(entry_id, **self._user)

    async def aexport(self, path: str | Path) -> int:
        """See ``LightMem.export``."""
        return await self._memory.aexport(path, **self._user)

    async def aimport_(self, path: str | Path) -> AddResult:
        """See ``LightMem.import_``."""
        return await self._memory.aimport_(path, **self._user)

    async def astats(self) -> dict[str, Any]:
        """See ``LightMem.stats``."""
        return await self._memory.astats(**self._user)

    async def adoctor(self, *, repair: bool = False) -> DoctorReport:
        """See ``LightMem.doctor``."""
        return await self._memory.adoctor(repair=repair, **self._user)
