"""How a memory behaves: one flat, validated object. Every field is read somewhere."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lightmem_integrations.core.types import Profile, Strategy


class LightMemConfig(BaseModel):
    """Settings of one ``LightMem``.

    The defaults suit a chat on one machine. Fields are documented with their unit and range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedder: str = Field(
        default="minilm",
        description="`minilm` (all-MiniLM-L6-v2 on ONNX Runtime), `sentence-transformers` (the same model on "
        "PyTorch), `multilingual` (multilingual-e5-small) or `none` (keywords only).",
    )
    model_path: Path | None = Field(
        default=None, description="Folder or file of the model; searched first. None: installed package, cache, hub."
    )
    strategy: Strategy = Field(default="late", description="How results are ranked; see docs/ranking.md.")
    profile: Profile = Field(
        default="auto",
        description="`peer` (people), `assistant` (user and assistant), `notes` (no conversation), or chosen per user.",
    )
    late_max_pieces: int = Field(
        default=120_000,
        ge=0,
        description="Token vectors of one user up to which late interaction scores every entry; above it, the "
        "best candidates of the other signals. 15 a short turn.",
    )
    late_candidates: int = Field(
        default=2_000, ge=1, description="Entries scored by late interaction above `late_max_pieces`."
    )
    recency_weight: float = Field(default=0.0, ge=0, description="Weight of the `recency` signal; 0 leaves it out.")
    recency_half_life_days: float = Field(default=30.0, gt=0, description="Age at which recency is one half (days).")
    importance_weight: float = Field(default=0.0, ge=0, description="Weight of the `importance` signal.")
    conversation_gap_hours: float = Field(
        default=12.0, gt=0, description="Turns of one session further apart than this are not neighbours (hours)."
    )
    fuzzy: bool = Field(default=True, description="Match misspelt query words that this user never used.")
    query_cache_size: int = Field(default=1_000, ge=0, description="Query encodings kept in memory (entries).")
    index_cache_mb: int = Field(default=1_024, ge=1, description="Working sets of users kept in memory (MiB).")
    index_wait_seconds: float = Field(
        default=30.0,
        ge=0,
        description="How long `add` waits for an embedder that gets nothing done, before it leaves the rest pending.",
    )
    busy_timeout_seconds: float = Field(
        default=30.0, ge=0, description="How long a write waits for another process's lock."
    )
    threads: int = Field(default=8, ge=1, le=64, description="Threads behind the async methods.")
    embed_threads: int | None = Field(
        default=None, ge=1, description="Threads of the embedder; None: one per core that this process may use."
    )
