"""What a configuration accepts, where it comes from, and that the engine reads all of it."""

import ast
import copy
import logging
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.core.compress import RATE
from lightmem_integrations.core.extract import SUMMARY_TOKENS
from lightmem_integrations.core.llm_update import MAX_CANDIDATES
from lightmem_integrations.core.segment import BUFFER_TOKENS
from lightmem_integrations.errors import ConfigError, MissingDependencyError
from lightmem_integrations.models.compress import COMPRESSORS
from lightmem_integrations.models.embed import PRESETS as EMBEDDERS
from lightmem_integrations.models.llm import PRESETS as PROVIDERS

PACKAGE = Path(__file__).resolve().parent.parent / "lightmem_integrations"
KEY = "sk-secret-0123456789"

# Another valid value of every field, as YAML has it.
OTHER = {
    "pre_compress": False,
    "pre_compressor": "llmlingua",
    "compression_rate": 0.4,
    "compressor_model": "folder/bert-base-multilingual-cased",
    "compressor_device": "cuda:1",
    "topic_segment": False,
    "topic_segmenter": "attention",
    "precomp_topic_shared": False,
    "sensory_buffer_tokens": 256,
    "short_term_buffer_tokens": 1024,
    "segment_gap_hours": 0.5,
    "buffer_max_age_hours": 1.5,
    "messages_use": "user_only",
    "metadata_generate": False,
    "entity_finder": "spacy",
    "text_summary": False,
    "summary_tokens": 80,
    "memory_manager": "none",
    "extraction_mode": "event",
    "extract_threshold": 0.7,
    "llm": "openai/gpt-4o",
    "llm_base_url": "http://localhost:9/v1",
    "llm_api_key": KEY,
    "llm_fallback_models": ["gpt-4o-mini", "gpt-4.1"],
    "llm_timeout_seconds": 5.0,
    "llm_retries": 0,
    "llm_concurrency": 4,
    "daily_token_quota": 1_000_000,
    "embedder": "multilingual",
    "model_path": "folder",
    "index_strategy": "context",
    "retrieve_strategy": "context",
    "strategy": "rrf",
    "profile": "peer",
    "embedding_retriever": "qdrant",
    "qdrant": ["http://one:6333", "http://two:6333"],
    "qdrant_api_key": KEY,
    "qdrant_collection": "chat-1",
    "qdrant_preset": "cluster",
    "qdrant_grpc": False,
    "qdrant_timeout_seconds": 2.5,
    "candidates_dense": 20,
    "candidates_bm25": 30,
    "summary_retriever": "exact",
    "late_max_pieces": 0,
    "late_candidates": 7,
    "recency_weight": 0.25,
    "recency_half_life_days": 3.5,
    "importance_weight": 0.5,
    "conversation_gap_hours": 2.0,
    "fuzzy": False,
    "update": "online",
    "update_similarity": 0.95,
    "update_candidates": 3,
    "summary_window_hours": 1.0,
    "ttl_days": 365.0,
    "retention_threshold": 0.2,
    "retention_half_life_days": 10.0,
    "retention_min_age_days": 0.0,
    "query_cache_size": 0,
    "index_cache_mb": 16,
    "index_wait_seconds": 0.0,
    "busy_timeout_seconds": 1.0,
    "threads": 2,
    "embed_threads": 1,
    "logging": "DEBUG",
}


def as_variables(settings: dict) -> dict[str, str]:
    return {
        f"LIGHTMEM_{name.upper()}": ",".join(value) if isinstance(value, list) else str(value)
        for name, value in settings.items()
    }


def as_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "lightmem.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------------- fields
def read_by_the_engine() -> set[str]:
    """Attributes that are read off something called a config, outside of config.py."""
    read = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "config.py":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        methods = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and id(node) not in methods:
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                if owner.lstrip("_") == "config":
                    read.add(node.attr)
    return read


def test_every_field_is_read_somewhere():
    assert set(LightMemConfig.model_fields) - read_by_the_engine() == set()


def test_every_field_has_a_description_and_another_value_in_these_tests():
    assert set(OTHER) == set(LightMemConfig.model_fields)
    assert [name for name, field in LightMemConfig.model_fields.items() if not field.description] == []
    defaults = LightMemConfig()
    assert [name for name, value in OTHER.items() if getattr(defaults, name) == value] == []


def test_defaults_are_those_of_the_parts():
    config = LightMemConfig()
    assert config.compression_rate == RATE
    assert config.sensory_buffer_tokens == BUFFER_TOKENS
    assert config.summary_tokens == SUMMARY_TOKENS
    assert config.update_candidates == MAX_CANDIDATES
    assert config.pre_compressor in COMPRESSORS
    assert config.embedder in EMBEDDERS


def test_settings_survive_a_round_trip():
    config = LightMemConfig(**OTHER)
    assert LightMemConfig(**config.model_dump()) == config
    assert hash(LightMemConfig(**OTHER)) == hash(config)


def test_settings_do_not_change():
    config = LightMemConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.fuzzy = False
    assert config.fuzzy


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"compression_rate": 0}, r"^compression_rate must be greater than 0 \(got 0\)$"),
        ({"compression_rate": 1.01}, r"^compression_rate must be less than or equal to 1 \(got 1\.01\)$"),
        ({"messages_use": "both"}, r"^messages_use must be 'hybrid', 'user_only' or 'assistant_only' \(got 'both'\)$"),
        ({"ttl_days": float("inf")}, r"^ttl_days must be a finite number \(got inf\)$"),
        ({"ttl_days": 0}, r"^ttl_days must be greater than 0 \(got 0\)$"),
        ({"update_candidates": 11}, r"^update_candidates must be less than or equal to 10 \(got 11\)$"),
        ({"logging": "debug"}, r"^logging must be 'DEBUG', 'INFO', .* \(got 'debug'\)$"),
        (
            {"compresion_rate": 0.5},
            r"^compresion_rate is no setting; did you mean compression_rate\? \(got 'a float'\)$",
        ),
        ({"llm_retries": None}, r"^llm_retries must be a valid integer \(got None\)$"),
    ],
)
def test_a_bad_setting_is_named_with_its_rule_and_value(settings, told):
    with pytest.raises(ConfigError, match=told):
        LightMemConfig(**settings)


def test_all_bad_settings_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        LightMemConfig(threads=0, fuzzy="perhaps", colour="red")
    told = str(caught.value)
    assert "- threads must be greater than or equal to 1 (got 0)\n" in told
    assert "- fuzzy must be a valid boolean" in told
    assert "- colour is no setting (got 'a str')\n" in told


def test_text_embedder_is_another_name_of_embedder():
    config = LightMemConfig(text_embedder="none")
    assert config.embedder == config.text_embedder == "none"
    assert LightMemConfig(text_embedder="none", embedder="none") == config
    with pytest.raises(ConfigError, match="text_embedder must be the same as embedder"):
        LightMemConfig(text_embedder="none", embedder="minilm")


def test_a_language_model_that_is_named_is_used():
    assert LightMemConfig().memory_manager == "extractive"
    assert LightMemConfig(llm="ollama").memory_manager == "llm"
    assert LightMemConfig(llm=None).memory_manager == "extractive"
    assert LightMemConfig(llm="ollama", memory_manager="extractive").memory_manager == "extractive"


@pytest.mark.parametrize("setting", ["llm_base_url", "llm_api_key", "llm_fallback_models"])
def test_settings_of_a_language_model_need_one(setting):
    with pytest.raises(ConfigError, match=f"llm must name a provider, such as 'openai', when {setting} is given"):
        LightMemConfig(**{setting: OTHER[setting]})


@pytest.mark.parametrize("index", ["embedding", "context", "hybrid"])
@pytest.mark.parametrize("retrieve", ["embedding", "context", "hybrid"])
def test_only_what_is_indexed_can_be_retrieved(index, retrieve):
    if index in ("hybrid", retrieve):
        assert LightMemConfig(index_strategy=index, retrieve_strategy=retrieve).retrieve_strategy == retrieve
    else:
        with pytest.raises(ConfigError, match=f"^retrieve_strategy must be '{index}'.*'hybrid' \\(got '{retrieve}'"):
            LightMemConfig(index_strategy=index, retrieve_strategy=retrieve)


def test_vectors_need_a_model():
    with pytest.raises(ConfigError, match="embedder must name a model"):
        LightMemConfig(embedder="none", retrieve_strategy="embedding")
    assert LightMemConfig(embedder="none", retrieve_strategy="context").embedder == "none"


def test_the_key_is_shown_nowhere():
    config = LightMemConfig(llm="openai", llm_api_key=KEY)
    assert config.llm_api_key.get_secret_value() == KEY
    assert KEY not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"
    for settings in (
        {"llm_api_key": KEY},
        {"llm": "openai", "llm_api_key": KEY, "index_strategy": "context"},
        {"llm": "openai", "llm_api_kye": KEY},
        {"llm": "openai", "llm_api_key": [KEY]},
    ):
        with pytest.raises(ConfigError) as caught:
            LightMemConfig(**settings)
        assert KEY not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None
        with pytest.raises(ValueError, match="LightMemConfig") as caught:
            LightMemConfig.model_validate(settings)
        assert KEY not in str(caught.value)


# ---------------------------------------------------------------------- file and environment
def test_every_field_can_be_set_in_a_file_and_in_the_environment(tmp_path):
    wanted = LightMemConfig(**OTHER)
    path = as_file(tmp_path, yaml.safe_dump(OTHER))
    assert LightMemConfig.load(path, environ={}) == wanted
    assert LightMemConfig.load(environ=as_variables(OTHER)) == wanted
    assert LightMemConfig.load(environ={}, **OTHER) == wanted


def test_arguments_go_before_the_environment_and_the_environment_before_the_file(tmp_path):
    path = as_file(tmp_path, "threads: 1\nindex_cache_mb: 1\nttl_days: 1\ntext_embedder: none\n")
    environ = {"LIGHTMEM_INDEX_CACHE_MB": "2", "LIGHTMEM_TTL_DAYS": "2", "LIGHTMEM_EMBEDDER": "multilingual"}
    config = LightMemConfig.load(path, environ=environ, ttl_days=3)
    assert (config.threads, config.index_cache_mb, config.ttl_days) == (1, 2, 3.0)
    assert config.embedder == "multilingual"


def test_the_environment_of_the_process_is_read(monkeypatch):
    monkeypatch.setenv("LIGHTMEM_DB", "elsewhere.db")  # the command line's
    monkeypatch.setenv("LIGHTMEM_DEBUG", "1")
    monkeypatch.setenv("LIGHTMEM_TTL_DAYS", "")  # not set
    monkeypatch.setenv("LIGHTMEM_TEXT_EMBEDDER", "none")
    assert LightMemConfig.load() == LightMemConfig(embedder="none")


def test_errors_name_the_variable_or_the_file(tmp_path):
    path = as_file(tmp_path, "threads: many\nllm_retries: 3\n")
    environ = {"LIGHTMEM_LLM_RETRIES": "-1", "LIGHTMEM_COMPRESS_RATE": "0.5"}
    with pytest.raises(ConfigError) as caught:
        LightMemConfig.load(path, environ=environ)
    told = str(caught.value)
    assert f"- {path}: threads must be a valid integer" in told
    assert "- LIGHTMEM_LLM_RETRIES must be greater than or equal to 0 (got '-1')" in told
    assert "- LIGHTMEM_COMPRESS_RATE is no setting; did you mean compression_rate? (got 'a str')" in told


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n"])
def test_an_empty_file_sets_nothing(tmp_path, text):
    assert LightMemConfig.load(as_file(tmp_path, text), environ={}) == LightMemConfig()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("llm: openai\nllm_api_key: {{" + KEY + "\n", r"lightmem\.yaml, line \d+, column \d+ must be YAML"),
        ("a\x00b", r"lightmem\.yaml must be YAML"),
        ("[threads, 1]", r"lightmem\.yaml must map names of settings to values \(got 'a list'\)"),
        ("1: 2", r"lightmem\.yaml: 1 is no setting \(got 'a int'\)"),
        ("!!python/object/apply:os.getcwd []", r"lightmem\.yaml, line 1, column 1 must be YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told) as caught:
        LightMemConfig.load(as_file(tmp_path, text), environ={})
    assert KEY not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="must be a file that can be read"):
        LightMemConfig.load(tmp_path / "nowhere.yaml", environ={})


def test_without_pyyaml_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match=r"lightmem-integrations\[yaml\]"):
        LightMemConfig.load(as_file(tmp_path, "threads: 1\n"), environ={})
    assert LightMemConfig.load(environ={"LIGHTMEM_THREADS": "1"}).threads == 1


# ---------------------------------------------------------------------- LightMem's configurations
def qdrant(**configs) -> dict:
    return {"model_name": "qdrant", "configs": {"collection_name": "chat", "embedding_model_dims": 384, **configs}}


# The example of LightMem's README, and the LoCoMo experiment's compress_config and extraction_mode.
THEIRS = {
    "pre_compress": True,
    "pre_compressor": {
        "model_name": "llmlingua-2",
        "configs": {
            "llmlingua_config": {
                "model_name": "models/llmlingua-2-bert-base-multilingual-cased-meetingbank",
                "device_map": "cuda",
                "use_llmlingua2": True,
            },
            "compress_config": {"instruction": "", "rate": 0.6, "target_token": -1},
        },
    },
    "topic_segment": True,
    "precomp_topic_shared": True,
    "topic_segmenter": {"model_name": "llmlingua-2"},
    "messages_use": "user_only",
    "metadata_generate": True,
    "text_summary": True,
    "memory_manager": {
        "model_name": "openai",
        "configs": {
            "model": "gpt-4o-mini",
            "api_key": KEY,
            "max_tokens": 16000,
            "openai_base_url": "https://example.org/v1",
        },
    },
    "extract_threshold": 0.1,
    "index_strategy": "embedding",
    "text_embedder": {
        "model_name": "huggingface",
        "configs": {"model": "models/all-MiniLM-L6-v2", "embedding_dims": 384, "model_kwargs": {"device": "cuda"}},
    },
    "retrieve_strategy": "embedding",
    "embedding_retriever": qdrant(path="./chat", on_disk=True),
    "summary_retriever": qdrant(path="./summaries"),
    "update": "offline",
    "logging": {"level": "debug", "file_enabled": True, "log_dir": "logs"},
    "extraction_mode": "event",
}


def test_a_configuration_of_lightmem_is_translated(caplog):
    given = copy.deepcopy(THEIRS)
    with caplog.at_level(logging.WARNING, "lightmem_integrations"):
        config = LightMemConfig.from_lightmem(given)
    assert given == THEIRS
    assert config == LightMemConfig(
        pre_compressor="llmlingua",
        compressor_model="models/llmlingua-2-bert-base-multilingual-cased-meetingbank",
        compressor_device="cuda",
        compression_rate=0.6,
        topic_segmenter="attention",
        messages_use="user_only",
        memory_manager="llm",
        llm="openai/gpt-4o-mini",
        llm_base_url="https://example.org/v1",
        llm_api_key=SecretStr(KEY),
        index_strategy="embedding",
        retrieve_strategy="embedding",
        embedder="sentence-transformers",
        model_path=Path("models/all-MiniLM-L6-v2"),
        summary_retriever="exact",
        logging="DEBUG",
        extraction_mode="event",
    )
    assert "memory_manager.configs.max_tokens" in caplog.text
    assert "embedding_retriever.configs.path" in caplog.text
    assert "logging.log_dir" in caplog.text
    assert KEY not in caplog.text


def test_what_a_configuration_of_lightmem_leaves_out_has_lightmems_default():
    assert LightMemConfig.from_lightmem({}) == LightMemConfig(
        pre_compress=False,
        topic_segment=False,
        precomp_topic_shared=False,
        messages_use="user_only",
        retrieve_strategy="embedding",
        llm="openai",
    )
    config = LightMemConfig.from_lightmem({"pre_compress": True, "pre_compressor": {}, "logging": {}})
    assert (config.pre_compressor, config.compression_rate, config.logging) == ("llmlingua", 0.8, "INFO")


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (
            {"pre_compress": True, "pre_compressor": {"model_name": "entropy_compress"}},
            {"pre_compressor": "entropy", "compression_rate": 0.5, "compressor_model": None},
        ),
        (
            {
                "pre_compress": True,
                "pre_compressor": {
                    "model_name": "entropy_compress",
                    "configs": {"entropy_config": {"model_name": "gpt2", "device": "mps", "compress_rate": 0.3}},
                },
            },
            {"compressor_model": "gpt2", "compressor_device": "mps", "compression_rate": 0.3},
        ),
        (
            {
                "topic_segment": True,
                "topic_segmenter": {"configs": {"model_name": "bert", "device_map": "cpu", "buffer_len": 256}},
            },
            {
                "pre_compress": False,
                "pre_compressor": "llmlingua",  # whose model the segmenter takes
                "compressor_model": "bert",
                "topic_segmenter": "attention",
                "sensory_buffer_tokens": 256,
            },
        ),
        (
            {"pre_compressor": {"model_name": "entropy_compress"}, "topic_segmenter": "off"},
            {"pre_compress": False, "pre_compressor": "lexical", "topic_segmenter": "similarity"},
        ),
        ({"memory_manager": {"model_name": "deepseek"}}, {"llm": "deepseek", "llm_base_url": None}),
        (
            {"memory_manager": {"model_name": "ollama", "configs": {"model": "qwen3:8b", "host": "http://h:11434/"}}},
            {"llm": "ollama/qwen3:8b", "llm_base_url": "http://h:11434/v1"},
        ),
        (
            {"memory_manager": {"model_name": "vllm", "configs": {"vllm_base_url": "http://h:8000/v1"}}},
            {"llm": "vllm", "llm_base_url": "http://h:8000/v1"},
        ),
        (
            {"memory_manager": {"configs": {"api_key": "", "openai_base_url": "", "ollama_base_url": "http://h"}}},
            {"llm": "openai", "llm_api_key": None, "llm_base_url": None},
        ),
        ({"text_embedder": {"configs": {"model": "all-MiniLM-L6-v2"}}}, {"embedder": "minilm", "model_path": None}),
        (
            {"text_embedder": {"configs": {"model": "intfloat/multilingual-e5-small"}}},
            {"embedder": "multilingual", "model_path": None},
        ),
        ({"retrieve_strategy": "hybrid", "context_retriever": {"model_name": "BM25"}}, {"retrieve_strategy": "hybrid"}),
        ({"update": "online", "text_summary": None}, {"update": "online", "text_summary": True}),
        ({"logging": {"level": logging.ERROR}}, {"logging": "ERROR"}),
        ({"logging": {"level": "NOTSET"}}, {"logging": None}),
        ({"kv_cache": False, "graph_mem": False, "multimodal_embedder": None, "version": "v1.1"}, {}),
    ],
)
def test_parts_of_a_configuration_of_lightmem(given, settings):
    config = LightMemConfig.from_lightmem(given)
    assert {name: getattr(config, name) for name in settings} == settings


def test_every_provider_is_translated():
    for provider in PROVIDERS:
        manager = {"model_name": provider, "configs": {"model": "m"}}
        assert LightMemConfig.from_lightmem({"memory_manager": manager}).llm == f"{provider}/m"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kv_cache": True}, r"^kv_cache must be False; servers .* \(got True\)$"),
        ({"graph_mem": True}, r"^graph_mem must be False; .* \(got True\)$"),
        (
            {"multimodal_embedder": {"model_name": "huggingface"}},
            r"^multimodal_embedder.* has no counterpart: .*remove",
        ),
        ({"memory_manager": {"model_name": "vllm_offline"}}, r"^memory_manager\.model_name must be one of .*'vllm_off"),
        (
            {"text_embedder": {"model_name": "openai"}},
            r"^text_embedder\.model_name must be 'huggingface'; .*\(embedder=",
        ),
        ({"text_embedder": {"configs": {"model": "bge-m3"}}}, r"^text_embedder\.configs\.model must be .* 'bge-m3'"),
        ({"text_embedder": {"configs": {"embedding_dims": 1024}}}, r"embedding_dims must be 384; .* \(got 1024\)$"),
        ({"embedding_retriever": qdrant(url="http://a:b@h")}, r"^embedding_retriever\.configs\.url has no counterpart"),
        ({"summary_retriever": qdrant(host="h")}, r"^summary_retriever\.configs\.host has no counterpart: .*remove"),
        ({"embedding_retriever": {"model_name": "faiss"}}, r"model_name must be one of qdrant \(got 'faiss'\)$"),
        (
            {"shortmem_max_tokens": 256},
            r"^shortmem_max_tokens has no counterpart: LightMem has no such setting; remove",
        ),
        (
            {"pre_compress": True, "pre_compressor": "llmlingua-2"},
            r"^pre_compressor has no counterpart: it is a dict in LightMem",
        ),
        ({"logging": "DEBUG"}, r"^logging has no counterpart: it is a dict in LightMem"),
        ({"extract_threshold": 5}, r"^extract_threshold must be less than or equal to 1 \(got 5\)$"),
        (
            {"topic_segment": True, "topic_segmenter": {"configs": {"buffer_len": 0}}},
            r"^topic_segmenter\.configs\.buffer_len must be greater than or equal to 1 \(got 0\)$",
        ),
        (
            {
                "pre_compress": True,
                "pre_compressor": {"configs": {"llmlingua_config": {"model_name": "a"}}},
                "topic_segment": True,
                "topic_segmenter": {"configs": {"model_name": "b"}},
            },
            r"^topic_segmenter\.configs\.model_name must agree with pre_compressor\..*; both are compressor_model",
        ),
        (
            {
                "pre_compress": True,
                "pre_compressor": {"model_name": "entropy_compress"},
                "topic_segment": True,
                "topic_segmenter": {"configs": {"model_name": "b"}},
            },
            r"^topic_segmenter\.configs\.model_name must agree with pre_compressor\.model_name",
        ),
        ([], r"^configuration must be a dict"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(given, told):
    with pytest.raises(ConfigError, match=told):
        LightMemConfig.from_lightmem(given)


def test_all_that_has_no_counterpart_is_refused_at_once_and_no_key_is_shown():
    given = THEIRS | {
        "kv_cache": True,
        "extract_threshold": 5,
        "memory_manager": {"model_name": "transformers", "configs": {"api_key": KEY, "token": KEY}},
        "embedding_retriever": qdrant(url="https://example.org", api_key=KEY),
    }
    with pytest.raises(ConfigError) as caught:
        LightMemConfig.from_lightmem(given)
    told = str(caught.value)
    for path in (
        "kv_cache",
        "extract_threshold",
        "memory_manager.model_name",
        "memory_manager.configs.token",
        "embedding_retriever.configs.url",
        "embedding_retriever.configs.api_key",
    ):
        assert f"\n- {path} " in told
    assert KEY not in told
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_translated_configuration_runs():
    given = {"retrieve_strategy": "context", "text_embedder": {"configs": {"model": "all-MiniLM-L6-v2"}}}
    settings = LightMemConfig.from_lightmem(given).model_dump() | {"embedder": "none", "llm": None}
    with LightMem(":memory:", LightMemConfig(**settings | {"memory_manager": "extractive"})) as memory:
        memory.add("My cat is called Miso.", user_id="ana")
        assert memory.search("cat", user_id="ana")[0].entry.memory == "My cat is called Miso."
