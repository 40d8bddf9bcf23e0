"""How a memory behaves: one flat, validated object. Every field is read somewhere."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from lightmem_integrations.core.types import Profile, Strategy
from lightmem_integrations.errors import ConfigError, MissingDependencyError

logger = logging.getLogger(__name__)

_PREFIX = "LIGHTMEM_"
"""What the name of an environment variable begins with; the name of a field in capitals follows."""

_OTHER_VARIABLES = ("LIGHTMEM_DB", "LIGHTMEM_DEBUG", "LIGHTMEM_MODEL")
"""They are the command line's and the examples'."""

Index = Literal["embedding", "context", "hybrid"]


class LightMemConfig(BaseModel):
    """Settings of one ``LightMem``.

    The defaults suit a chat on one machine. Fields are documented with their unit and range. Where LightMem
    (arXiv 2510.18866) has the thing, the name is LightMem's.

    Raises:
        ConfigError: naming every field at fault, the rule and what was got.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, protected_namespaces=()
    )

    # ------------------------------------------------------------------ compression
    pre_compress: bool = Field(
        default=True,
        description="Compress turns for the extractor. What is stored, indexed and shown first stays verbatim. "
        "LightMem: off; the paper's runs have it on.",
    )
    pre_compressor: Literal["lexical", "llmlingua", "entropy"] = Field(
        default="lexical",
        description="`lexical` needs no model; `llmlingua` is LightMem's LLMLingua-2; `entropy` is surprisal under a "
        "causal language model.",
    )
    compression_rate: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="Share of tokens to keep. The best on average in the paper's ablation; LightMem's code: 0.8.",
    )
    compressor_model: Path | str | None = Field(
        default=None,
        description="Model of `llmlingua`, which `attention` shares, or of `entropy`: a folder or a name on the hub. "
        "None: the usual one.",
    )
    compressor_device: str = Field(default="cpu", description="`cpu`, `cuda`, `cuda:1` or `mps`.")

    # ------------------------------------------------------------------ topics and buffers
    topic_segment: bool = Field(
        default=True,
        description="Cut the sensory buffer into topics; off, each full buffer is one segment. LightMem: off, and then "
        "it stores nothing.",
    )
    topic_segmenter: Literal["similarity", "attention"] = Field(
        default="similarity",
        description="`similarity` needs no further model; `attention` is LightMem's hybrid, on LLMLingua-2.",
    )
    precomp_topic_shared: bool = Field(
        default=True,
        description="One pass over the LLMLingua-2 model serves `llmlingua` and `attention`. LightMem: off.",
    )
    sensory_buffer_tokens: int = Field(
        default=512, ge=1, description="Tokens of a session that are collected before they are cut (the paper's 512)."
    )
    short_term_buffer_tokens: int = Field(
        default=512,
        ge=1,
        description="Compressed tokens of a session that are collected before facts are extracted. LightMem's code: "
        "512, fixed; the paper tries 0 to 1,024.",
    )
    segment_gap_hours: float = Field(
        default=1.0, gt=0, le=876_000, description="A longer pause is always a boundary of topics (hours). Ours."
    )
    buffer_max_age_hours: float = Field(
        default=24.0,
        gt=0,
        le=876_000,
        description="A session that was silent for longer is flushed when its user writes again (hours). Ours.",
    )

    # ------------------------------------------------------------------ extraction
    messages_use: Literal["hybrid", "user_only", "assistant_only"] = Field(
        default="hybrid",
        description="Whose turns facts and summaries are made from; all are stored. LightMem: `user_only`, with which "
        "its answers on what the assistant said fall from 98 to 32 %.",
    )
    metadata_generate: bool = Field(default=True, description="Keywords, entities and importance. As in LightMem.")
    entity_finder: Literal["rules", "spacy"] = Field(
        default="rules",
        description="What finds names for `metadata_generate`: rules, or rules and spaCy's `en_core_web_sm`, which "
        "is slower and must be installed. Ours.",
    )
    text_summary: bool = Field(default=True, description="A summary of each segment. As in LightMem.")
    summary_tokens: int = Field(default=60, ge=1, description="Longest summary of a segment (WordPiece tokens). Ours.")
    memory_manager: Literal["extractive", "llm", "none"] = Field(
        default="extractive",
        description="What makes facts and summaries: `extractive`, rules without a language model; `llm`, as in "
        "LightMem; or `none`. Left out, `llm` when `llm` is given.",
    )
    extraction_mode: Literal["flat", "event"] = Field(
        default="flat",
        description="`flat`: facts; `event`: factual and relational entries that share an event (StructMem, arXiv "
        "2604.21748). With `llm` only.",
    )
    extract_threshold: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Importance below which nothing is extracted. LightMem's code: 0.5, never read; its runs: 0.1.",
    )

    # ------------------------------------------------------------------ language model
    llm: str | None = Field(
        default=None,
        min_length=1,
        description="`openai`, `deepseek`, `ollama` or `vllm`, and the model after a slash: `openai/gpt-4o-mini`. "
        "See docs/llm.md. None: no language model, or the object given to `LightMem`.",
    )
    llm_base_url: str | None = Field(default=None, description="Address of the API. None: the provider's.")
    llm_api_key: SecretStr | None = Field(
        default=None, description="None: the provider's environment variable, such as `OPENAI_API_KEY`."
    )
    llm_fallback_models: tuple[str, ...] = Field(
        default=(), description="Models of the same provider, tried in this order when the first one fails."
    )
    llm_timeout_seconds: float = Field(default=60.0, gt=0, description="Of one attempt.")
    llm_retries: int = Field(default=3, ge=0, le=10, description="Attempts after the first, 2^n seconds apart.")
    llm_concurrency: int = Field(default=2, ge=1, le=64, description="Sessions worked on at a time, in the background.")
    daily_token_quota: int | None = Field(
        default=None, ge=1, description="Tokens, in and out, per UTC day; above it work stays pending. None: no limit."
    )

    # ------------------------------------------------------------------ index and ranking
    embedder: str = Field(
        default="minilm",
        description="`minilm` (all-MiniLM-L6-v2 on ONNX Runtime), `sentence-transformers` (the same model on "
        "PyTorch), `multilingual` (multilingual-e5-small) or `none` (keywords only). Also `text_embedder`.",
    )
    model_path: Path | None = Field(
        default=None, description="Folder or file of the model; searched first. None: installed package, cache, hub."
    )
    index_strategy: Index = Field(
        default="hybrid",
        description="What is indexed: `embedding` (vectors), `context` (words) or both. LightMem's runs: `embedding`.",
    )
    retrieve_strategy: Index = Field(
        default="hybrid",
        description="What is searched: `embedding` ranks by vectors alone, `context` by BM25 alone, `hybrid` by "
        "`strategy`. Needs an index. LightMem: `embedding`; its `context` and `hybrid` cannot run.",
    )
    strategy: Strategy = Field(
        default="late", description="How results of `hybrid` retrieval are ranked; see docs/ranking.md."
    )
    profile: Profile = Field(
        default="auto",
        description="`peer` (people), `assistant` (user and assistant), `notes` (no conversation), or chosen per user.",
    )
    embedding_retriever: Literal["exact", "qdrant"] = Field(
        default="exact",
        description="Where candidates come from: `exact` searches one user's memory in the database, `qdrant` a Qdrant "
        "(the default when `qdrant` is given). LightMem: Qdrant.",
    )
    qdrant: tuple[str, ...] | None = Field(
        default=None,
        description="URL of a Qdrant server, or several of one cluster (with commas in a variable); for tests "
        "`:memory:` or a folder. gRPC is expected on the next port.",
    )
    qdrant_api_key: SecretStr | None = Field(default=None, description="Key of the Qdrant server.")
    qdrant_collection: str = Field(
        default="lightmem", min_length=1, max_length=128, pattern=r"^[\w-]+$", description="Name (alias) in Qdrant."
    )
    qdrant_preset: Literal["single", "cluster"] = Field(
        default="single", description="`cluster`: 4 shards, 2 replicas of each, and no collection with less."
    )
    qdrant_grpc: bool = Field(default=True, description="Speak gRPC to Qdrant; HTTP alone where it is blocked.")
    qdrant_timeout_seconds: float = Field(default=10.0, gt=0, description="Of one call to Qdrant.")
    candidates_dense: int = Field(
        default=100, ge=1, le=500, description="Candidates by vector that Qdrant gives for ranking (entries)."
    )
    candidates_bm25: int = Field(
        default=200, ge=1, le=500, description="Candidates by words that Qdrant gives for ranking (entries)."
    )
    summary_retriever: Literal["none", "exact"] = Field(
        default="none",
        description="`exact`: summaries across events are found beside turns. LightMem: a second Qdrant collection.",
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

    # ------------------------------------------------------------------ update and forgetting
    update: Literal["offline", "online"] = Field(
        default="offline",
        description="`offline`: new facts are added as they are, and `update` compares them later; `online`: compared "
        "at once. As in LightMem, whose `online` stores nothing.",
    )
    update_similarity: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Cosine from which a later fact may update an earlier one. LightMem's examples: 0.8, its code 0.9.",
    )
    update_candidates: int = Field(
        default=10, ge=1, le=10, description="Later facts compared with one earlier fact, at most (the paper's n = 10)."
    )
    summary_window_hours: float = Field(
        default=24.0,
        gt=0,
        le=876_000,
        description="Time that one summary across events spans (hours). LightMem: 1 hour or more.",
    )
    ttl_days: float | None = Field(
        default=None, gt=0, le=36_500, description="How long new turns are kept (days). None: for ever. Ours."
    )
    retention_threshold: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Retention score, from importance and age, below which an entry may go. 0 is off. Ours.",
    )
    retention_half_life_days: float = Field(
        default=90.0, gt=0, le=36_500, description="Age at which the retention score is halved (days). Ours."
    )
    retention_min_age_days: float = Field(
        default=30.0, ge=0, le=36_500, description="Younger entries are always retained (days). Ours."
    )

    # ------------------------------------------------------------------ process
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
    logging: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] | None = Field(
        default=None, description="Level of the package's logger. None leaves it as it is. LightMem: a dict."
    )

    # ------------------------------------------------------------------ where settings come from
    if not TYPE_CHECKING:  # a type checker reads the arguments off the fields

        def __init__(self, **settings: Any) -> None:
            _fill(self, settings, {}, [])

    @classmethod
    def load(
        cls, path: str | Path | None = None, *, environ: Mapping[str, str] | None = None, **settings: Any
    ) -> LightMemConfig:
        """Settings from a YAML file and the environment.

        ``settings`` given here go before the environment, which goes before the file. The variable of a
        field is ``LIGHTMEM_`` and its name in capitals; an empty one counts as not set.

        Args:
            path: a YAML file that maps fields to values; None for no file.
            environ: the variables; None for those of the process, ``{}`` for none.
            settings: fields, as the constructor takes them.

        Raises:
            ConfigError: naming every variable, and every field of the file, at fault.
            MissingDependencyError: there is a file, and PyYAML is not installed.

        Example:
            >>> LightMemConfig.load(environ={"LIGHTMEM_TTL_DAYS": "365", "LIGHTMEM_FUZZY": "off"}, fuzzy=True).ttl_days
            365.0
        """
        given: dict[str, Any] = {}
        names: dict[str, str] = {}
        for source, name in (
            ({} if path is None else _from_yaml(Path(path)), lambda field: f"{path}: {field}"),
            (_from_environment(os.environ if environ is None else environ), _variable),
            (settings, str),
        ):
            source = _renamed(source)
            given.update(source)
            names.update({field: name(field) for field in source})
        return _fill(cls.__new__(cls), given, names, [])

    @classmethod
    def from_lightmem(cls, given: Mapping[str, Any]) -> LightMemConfig:
        """The settings that a configuration of zjunlp/LightMem asks for.

        What it leaves out has LightMem's default. What is only about the machine (where Qdrant keeps
        its files, batch sizes, log files) is passed over, with a warning in the log; docs/configuration.md
        has the list.

        Args:
            given: the nested dict that ``LightMemory.from_config`` takes. It is not modified.

        Raises:
            ConfigError: naming each setting that has no counterpart, why, and what to do about it.

        Example:
            >>> manager = {"model_name": "ollama", "configs": {"model": "qwen3:8b"}}
            >>> LightMemConfig.from_lightmem({"memory_manager": manager, "update": "online"}).llm
            'ollama/qwen3:8b'
        """
        if not isinstance(given, Mapping):
            raise ConfigError("configuration", "must be a dict, as LightMemory.from_config takes it", _kind(given))
        return _fill(cls.__new__(cls), *_translated(given))

    @property
    def text_embedder(self) -> str:
        """LightMem's name of ``embedder``."""
        return self.embedder

    # ------------------------------------------------------------------ rules
    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """A language model or a Qdrant that is named is used, unless another one is named too."""
        if not isinstance(given, Mapping):
            return given
        implied = {} if given.get("llm") is None else {"memory_manager": "llm"}
        if given.get("qdrant"):
            implied["embedding_retriever"] = "qdrant"
        return implied | _renamed(given)

    @field_validator("llm_fallback_models", "qdrant", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Names with commas between them, as a variable has them."""
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> LightMemConfig:
        if self.index_strategy not in ("hybrid", self.retrieve_strategy):
            rule = f"must be {self.index_strategy!r}, as nothing else is indexed; or set index_strategy to 'hybrid'"
            raise ConfigError("retrieve_strategy", rule, self.retrieve_strategy)
        if self.embedder == "none" and "embedding" in (self.index_strategy, self.retrieve_strategy):
            raise ConfigError("embedder", "must name a model, as the strategy 'embedding' needs vectors", self.embedder)
        for name in ("llm_base_url", "llm_api_key", "llm_fallback_models"):
            if getattr(self, name) and self.llm is None:
                raise ConfigError("llm", f"must name a provider, such as 'openai', when {name} is given", self.llm)
        if (self.embedding_retriever == "qdrant") != bool(self.qdrant):
            rule = "must be 'qdrant' exactly when qdrant names a server"
            raise ConfigError("embedding_retriever", rule, self.embedding_retriever)
        return self


# ---------------------------------------------------------------------- reading
def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """With LightMem's name ``text_embedder`` replaced by ours."""
    settings = dict(given)
    if "text_embedder" in settings:
        name = settings.pop("text_embedder")
        if settings.setdefault("embedder", name) != name:
            raise ConfigError("text_embedder", "must be the same as embedder, of which it is another name", name)
    return settings


def _variable(field: str) -> str:
    return _PREFIX + field.upper()


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in environ.items()
        if name.startswith(_PREFIX) and name not in _OTHER_VARIABLES and value
    }


def _from_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("PyYAML", "yaml", "a configuration in YAML") from error
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError("path", f"must be a file that can be read ({error.strerror})", str(path)) from error
    except yaml.YAMLError as error:
        # The error's own text quotes the file, which may hold a key.
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(f"{path}{where}", "must be YAML", type(error).__name__) from None
    if not isinstance(content, dict | None):
        raise ConfigError(str(path), "must map names of settings to values", _kind(content))
    return {str(name): value for name, value in (content or {}).items()}


# ---------------------------------------------------------------------- checking
def _fill(
    config: LightMemConfig, settings: Mapping[str, Any], names: Mapping[str, str], faults: Sequence[ConfigError]
) -> LightMemConfig:
    """Validate ``settings`` into ``config``.

    Args:
        config: an object without values.
        settings: values by field.
        names: what to call a field in an error; its own name where it is not there.
        faults: what is known to be wrong already.

    Raises:
        ConfigError: of everything that is wrong. Pydantic's error holds every value, the key too, and stays here.
    """
    try:
        BaseModel.__init__(config, **settings)
    except ValidationError as error:
        faults = [*faults, *(_fault(told, names) for told in error.errors(include_url=False))]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        lines = "".join(f"\n- {fault}" for fault in faults)
        raise ConfigError("configuration", f"must have no faults:{lines}\n", [fault.field for fault in faults])
    return config


def _fault(told: Mapping[str, Any], names: Mapping[str, str]) -> ConfigError:
    """Pydantic's words in ours."""
    own = told.get("ctx", {}).get("error")
    if isinstance(own, ConfigError):
        return own
    field = str(told["loc"][0])
    name = names.get(field, field)
    if told["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, LightMemConfig.model_fields, 1, cutoff=0.75)
        # The value is not shown: it may be a key under a misspelt name.
        return ConfigError(name, f"is no setting{f'; did you mean {near[0]}?' if near else ''}", _kind(told["input"]))
    rule = told["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return ConfigError(name, rule, _kind(told["input"]) if field.endswith("api_key") else told["input"])


def _kind(value: Any) -> str:
    """What to show of a value that may be a key."""
    return f"a {type(value).__name__}"


# ---------------------------------------------------------------------- LightMem's configurations
_THEIRS: Mapping[str, Any] = {
    "pre_compress": False,
    "topic_segment": False,
    "precomp_topic_shared": False,
    "messages_use": "user_only",
    "retrieve_strategy": "embedding",
    "memory_manager": {},
}
"""LightMem's defaults, where they are not ours. ``extract_threshold`` is not among them: it is never read there."""

_THEIR_PARTS: Mapping[str, Mapping[str, Any]] = {
    "pre_compressor": {"model_name": "llmlingua-2"},
    "topic_segmenter": {"model_name": "llmlingua-2"},
    "memory_manager": {"model_name": "openai"},
    "summary_retriever": {"model_name": "qdrant"},
    "logging": {"level": "INFO"},
}
"""The same within a part that is there."""

_SWITCHES = {"pre_compress": "pre_compressor", "topic_segment": "topic_segmenter"}
_THEIR_RATES = {"llmlingua": 0.8, "entropy": 0.5}
_PROVIDERS = ("openai", "deepseek", "ollama", "vllm")


class _NoCounterpart(Exception):
    """Why a value cannot be translated, in the words of ``ConfigError.rule``, and whether to show the value."""

    def __init__(self, rule: str, *, shown: bool = True) -> None:
        self.rule, self.shown = rule, shown


_Reader = Callable[[Any], Mapping[str, Any]]


def _to(field: str, choices: Mapping[str, str] | None = None, otherwise: str = "") -> _Reader:
    """The value, or our word for it, belongs to ``field``."""

    def read(value: Any) -> Mapping[str, Any]:
        if choices is None:
            return {field: value}
        if str(value) not in choices:
            raise _NoCounterpart(f"must be one of {', '.join(choices)}{otherwise}")
        return {field: choices[str(value)]}

    return read


def _only(accepted: Any, instead: str) -> _Reader:
    """The one value for which nothing needs to be done."""

    def read(value: Any) -> Mapping[str, Any]:
        if value != accepted:
            raise _NoCounterpart(f"must be {accepted!r}; {instead}")
        return {}

    return read


def _absent(instead: str) -> _Reader:
    def read(value: Any) -> Mapping[str, Any]:
        raise _NoCounterpart(f"has no counterpart: {instead}", shown=False)

    return read


def _embedder(value: Any) -> Mapping[str, Any]:
    model = str(value)
    if model.removeprefix("sentence-transformers/") == "all-MiniLM-L6-v2":
        return {"embedder": "minilm"}
    if "all-MiniLM-L6-v2" in model:
        return {"embedder": "sentence-transformers", "model_path": value}
    if model.removeprefix("intfloat/") == "multilingual-e5-small":
        return {"embedder": "multilingual"}
    raise _NoCounterpart(f"must be all-MiniLM-L6-v2, its folder, or multilingual-e5-small; {_OWN_EMBEDDER}")


def _level(value: Any) -> Mapping[str, Any]:
    name = logging.getLevelName(value) if isinstance(value, int) else str(value).upper()
    return {} if name == "NOTSET" else {"logging": name}


_OWN_EMBEDDER = "remove it, and give LightMem(embedder=...) an object with a method embed"
_DATABASE = "vectors are kept in the database that LightMem(...) opens; remove it"
_LLMLINGUA = "pre_compressor.configs.llmlingua_config"
_COMPRESS = "pre_compressor.configs.compress_config"
_ENTROPY = "pre_compressor.configs.entropy_config"
_SEGMENTER = "topic_segmenter.configs"
_MANAGER = "memory_manager.configs"
_EMBEDDER = "text_embedder.configs"
_RETRIEVERS = ("embedding_retriever", "summary_retriever")

_READERS: Mapping[str, _Reader] = {
    **{
        name: _to(name)
        for name in (
            "pre_compress",
            "topic_segment",
            "precomp_topic_shared",
            "messages_use",
            "metadata_generate",
            "text_summary",
            "extraction_mode",
            "extract_threshold",
            "index_strategy",
            "retrieve_strategy",
            "update",
        )
    },
    "pre_compressor.model_name": _to("pre_compressor", {"llmlingua-2": "llmlingua", "entropy_compress": "entropy"}),
    f"{_LLMLINGUA}.model_name": _to("compressor_model"),
    f"{_LLMLINGUA}.device_map": _to("compressor_device"),
    f"{_LLMLINGUA}.use_llmlingua2": _only(True, "take a model of LLMLingua-2"),
    f"{_COMPRESS}.rate": _to("compression_rate"),
    f"{_COMPRESS}.target_token": _only(-1, "say with rate how much to keep"),
    f"{_COMPRESS}.instruction": _absent("LLMLingua-2 takes none; remove it"),
    f"{_ENTROPY}.model_name": _to("compressor_model"),
    f"{_ENTROPY}.device": _to("compressor_device"),
    f"{_ENTROPY}.compress_rate": _to("compression_rate"),
    "topic_segmenter.model_name": _to("topic_segmenter", {"llmlingua-2": "attention"}),
    f"{_SEGMENTER}.model_name": lambda model: {"pre_compressor": "llmlingua", "compressor_model": model},
    f"{_SEGMENTER}.device_map": _to("compressor_device"),
    f"{_SEGMENTER}.buffer_len": _to("sensory_buffer_tokens"),
    f"{_SEGMENTER}.layers": _only([8, 9, 10, 11], "these are the paper's"),
    "memory_manager.model_name": _to(
        "provider",
        {name: name for name in _PROVIDERS},
        "; put a model inside the process behind a server, or give LightMem(llm=...) a model of LangChain",
    ),
    f"{_MANAGER}.model": _to("model"),
    f"{_MANAGER}.api_key": _to("llm_api_key"),
    **{f"{_MANAGER}.{name}_base_url": _to(f"{name}_base_url") for name in _PROVIDERS},
    f"{_MANAGER}.host": _to("ollama_base_url"),
    f"{_MANAGER}.enable_vision": _only(False, "memory is text; describe pictures in the message"),
    "text_embedder.model_name": _only("huggingface", _OWN_EMBEDDER),
    f"{_EMBEDDER}.model": _embedder,
    f"{_EMBEDDER}.embedding_dims": _only(384, _OWN_EMBEDDER),
    f"{_EMBEDDER}.huggingface_base_url": _absent(f"the model runs in this process; {_OWN_EMBEDDER}"),
    "context_retriever.model_name": _only("BM25", "words are indexed by BM25"),
    **{f"{name}.model_name": _to(name, {"qdrant": "exact"}) for name in _RETRIEVERS},
    **{
        f"{name}.configs.{remote}": _absent(_DATABASE)
        for name in _RETRIEVERS
        for remote in ("host", "port", "url", "api_key", "client")
    },
    "logging.level": _level,
    "kv_cache": _only(False, "servers of language models keep such caches themselves"),
    "graph_mem": _only(False, "extraction_mode 'event' ties facts to events"),
    "multimodal_embedder": _absent("memory is text; describe pictures in the message, and remove it"),
}
"""What each setting of LightMem is here, by its dotted path."""

_PASSED_OVER = (
    "version",
    "history_db_path",
    "kv_cache_path",
    "pre_compressor.configs.llmlingua2_config",
    f"{_ENTROPY}.word_level_strategy",
    f"{_ENTROPY}.max_length",
    f"{_SEGMENTER}.torch_dtype",
    f"{_SEGMENTER}.use_llmlingua2",
    f"{_MANAGER}.max_tokens",
    f"{_MANAGER}.temperature",
    f"{_MANAGER}.top_p",
    f"{_MANAGER}.top_k",
    f"{_MANAGER}.include_topic_summary",
    f"{_MANAGER}.vision_details",
    f"{_MANAGER}.site_url",
    f"{_MANAGER}.app_name",
    f"{_EMBEDDER}.model_kwargs",
    f"{_EMBEDDER}.api_key",
    f"{_EMBEDDER}.openai_base_url",
    f"{_EMBEDDER}.ollama_base_url",
    *(
        f"{name}.configs.{local}"
        for name in _RETRIEVERS
        for local in ("collection_name", "embedding_model_dims", "path", "on_disk")
    ),
    "logging",
)
"""Settings about the machine, or that LightMem never reads; each with all below it."""


def _translated(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], list[ConfigError]]:
    """Our settings, LightMem's path for each, and what has no counterpart."""
    settings: dict[str, Any] = {}
    names: dict[str, str] = {}
    faults: list[ConfigError] = []
    passed: list[str] = []
    for path, value in _leaves(_completed(given)):
        reader = _reader(path)
        if reader is None:
            passed.append(path)
            continue
        try:
            counterpart = reader(value)
        except _NoCounterpart as error:
            faults.append(ConfigError(path, error.rule, value if error.shown else _kind(value)))
            continue
        for field, ours in counterpart.items():
            other = names.setdefault(field, path)
            if settings.setdefault(field, ours) != ours:
                faults.append(ConfigError(path, f"must agree with {other}; both are {field} here", value))
    _name_llm(settings)
    if settings.get("pre_compressor") in _THEIR_RATES:
        settings.setdefault("compression_rate", _THEIR_RATES[settings["pre_compressor"]])
    if passed:
        logger.warning("without effect here: %s; see docs/configuration.md", ", ".join(passed))
    return settings, names, faults


def _completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """With LightMem's defaults, and without the parts that are switched off."""
    whole = {**_THEIRS, **given}
    off = {part for switch, part in _SWITCHES.items() if not whole.get(switch)}
    return {
        name: {**_THEIR_PARTS.get(name, {}), **value} if isinstance(value, Mapping) else value
        for name, value in whole.items()
        if name not in off
    }


def _leaves(given: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Values with their dotted paths, without those that are empty."""
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        elif value is not None and value != "":
            yield f"{above}{name}", value


def _reader(path: str) -> _Reader | None:
    """None for what is passed over."""
    if path in _READERS:
        return _READERS[path]
    if path.startswith("multimodal_embedder."):
        return _READERS["multimodal_embedder"]
    if any(below.startswith(f"{path}.") for below in _READERS):
        return _absent("it is a dict in LightMem; give that, or remove it")
    if any(f"{path}.".startswith(f"{above}.") for above in _PASSED_OVER):
        return None
    return _absent("LightMem has no such setting; remove it")


def _name_llm(settings: dict[str, Any]) -> None:
    """Provider and model in one name, and the address of that provider."""
    provider, model = settings.pop("provider", "openai"), settings.pop("model", None)
    settings["llm"] = f"{provider}/{model}" if model else provider
    urls = {name: settings.pop(f"{name}_base_url", None) for name in _PROVIDERS}
    url = urls.get(provider)
    if url is not None:
        # LightMem has the server's address for these two; the OpenAI-compatible API is below it.
        missing = provider in ("ollama", "vllm") and not str(url).rstrip("/").endswith("/v1")
        settings["llm_base_url"] = f"{str(url).rstrip('/')}/v1" if missing else url
