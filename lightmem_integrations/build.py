"""From a configuration to the parts of the engine. Models are loaded on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.extract import NameFinder, spacy_names
from lightmem_integrations.core.managers import (
    CorpusOf,
    ExtractiveManager,
    LLMManager,
    Manager,
    ManagerOptions,
)
from lightmem_integrations.core.pipeline import Pipeline, PipelineOptions
from lightmem_integrations.core.ports import LLM, Attention, Buffers, Compressor, Index
from lightmem_integrations.errors import ConfigError, MissingDependencyError
from lightmem_integrations.models.compress import make_compressor
from lightmem_integrations.models.llm import Meter, QuotaStore, make_llm
from lightmem_integrations.stores.exact import ExactIndex
from lightmem_integrations.stores.sql.store import SqlStore

Dim = Callable[[], int | None]


def build_index(config: LightMemConfig, store: SqlStore, identity: Mapping[str, str], dim: Dim) -> Index:
    """What searches one user's memory.

    Args:
        config: says where.
        store: the truth.
        identity: model and analyzer, which an index outside of the database depends on.
        dim: tells the length of vectors; None while nobody knows.

    Raises:
        MissingDependencyError: the ``qdrant-client`` package is not installed.
    """
    exact = ExactIndex(store, config.index_cache_mb << 20, config.conversation_gap_hours)
    if config.embedding_retriever == "exact":
        return exact
    from lightmem_integrations.stores.qdrant import open_index

    return open_index(config, store, identity, dim, exact)


def build_llm(config: LightMemConfig, llm: Any, quota: QuotaStore) -> tuple[LLM | None, Meter]:
    """The language model of a configuration, or the one given, and what counts its tokens.

    Raises:
        ConfigError: two language models, or none where one is asked for; no API key.
        MissingDependencyError: the ``openai`` package is not installed.
    """
    meter = Meter(config.daily_token_quota, quota)
    if llm is not None and config.llm is not None:
        raise ConfigError("llm", "must be given once, in the configuration or as an argument", config.llm)
    if llm is not None:
        return make_llm(llm, meter=meter), meter
    if config.llm is None:
        if config.memory_manager == "llm":
            raise ConfigError("memory_manager", "needs a language model: set llm, or give LightMem one", "llm")
        return None, meter
    preset, _, model = config.llm.partition("/")
    made = make_llm(
        preset,
        meter=meter,
        model=model or None,
        base_url=config.llm_base_url,
        api_key=config.llm_api_key,
        fallback_models=config.llm_fallback_models,
        timeout_seconds=config.llm_timeout_seconds,
        max_retries=config.llm_retries,
    )
    return made, meter


def build_manager(config: LightMemConfig, llm: LLM | None) -> Manager | None:
    """What makes memory of segments; None when nothing does. A language model that was given is used."""
    options = ManagerOptions(
        messages_use=config.messages_use,
        metadata=config.metadata_generate,
        summary_tokens=config.summary_tokens if config.text_summary else 0,
        threshold=config.extract_threshold,
        find_names=_spacy() if config.entity_finder == "spacy" else None,
    )
    chosen = "memory_manager" in config.model_fields_set
    if config.memory_manager == "none":
        return None
    if llm is not None and (config.memory_manager == "llm" or not chosen):
        return LLMManager(llm, options, config.extraction_mode)
    return ExtractiveManager(options)


def _spacy() -> NameFinder:
    """Names by spaCy's small English pipeline.

    Raises:
        MissingDependencyError: spaCy or the pipeline is not installed.
    """
    try:
        import spacy

        return spacy_names(spacy.load("en_core_web_sm"))
    except (ImportError, OSError) as error:
        raise MissingDependencyError("en_core_web_sm", "spacy", "entity_finder='spacy'") from error


def build_pipeline(
    config: LightMemConfig,
    buffers: Buffers,
    manager: Manager,
    corpus: CorpusOf,
    on_made: Callable[[str, Sequence[str]], Sequence[str]] | None,
    *,
    compressor: Compressor | None = None,
    attention: Attention | None = None,
) -> Pipeline:
    """Compression, segmentation and buffers, with the compressor and the attention model given or configured."""
    compressor = compressor or build_compressor(config)
    attention = attention or _attention(config, compressor)
    shared: object = compressor
    return Pipeline(
        buffers,
        manager,
        corpus,
        PipelineOptions(
            sensory_tokens=config.sensory_buffer_tokens,
            short_term_tokens=config.short_term_buffer_tokens,
            topic_segment=config.topic_segment,
            max_gap=timedelta(hours=config.segment_gap_hours),
            max_age=timedelta(hours=config.buffer_max_age_hours),
            shared=attention is not None and attention is shared,
        ),
        compressor=compressor,
        attention=attention,
        on_made=on_made,
    )


def build_compressor(config: LightMemConfig) -> Compressor | None:
    """The compressor that the configuration names; None when it compresses nothing."""
    if not config.pre_compress:
        return None
    return make_compressor(
        config.pre_compressor,
        rate=config.compression_rate,
        model=config.compressor_model,
        device=config.compressor_device,
    )


def _attention(config: LightMemConfig, compressor: Compressor | None) -> Attention | None:
    """The model whose attention shows the topics: the compressor's, where it may be shared."""
    if not config.topic_segment or config.topic_segmenter != "attention":
        return None
    shared: object = compressor
    if config.precomp_topic_shared and isinstance(shared, Attention):
        return shared
    from lightmem_integrations.models.compress.llmlingua import LLMLinguaCompressor

    return LLMLinguaCompressor(
        config.compressor_model if config.pre_compressor == "llmlingua" else None, device=config.compressor_device
    )
