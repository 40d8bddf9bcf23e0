"""Embedders by name: the presets of ``LightMemConfig.embedder``."""

from __future__ import annotations

from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.ports import Embedder
from lightmem_integrations.errors import ConfigError

__all__ = ["PRESETS", "make_embedder"]

PRESETS = ("minilm", "multilingual", "none", "sentence-transformers")


def make_embedder(config: LightMemConfig) -> Embedder | None:
    """The embedder that the configuration names; None for ``none``.

    Raises:
        ConfigError: unknown name.
        ModelNotFoundError: the model is not on this machine.
        MissingDependencyError: the package behind the preset is not installed.
    """
    match config.embedder:
        case "minilm":
            from lightmem_integrations.models.embed.onnx import OnnxMiniLM

            return OnnxMiniLM(config.model_path, config.embed_threads)
        case "multilingual":
            from lightmem_integrations.models.embed.multilingual import MultilingualE5

            return MultilingualE5(config.model_path)
        case "sentence-transformers":
            from lightmem_integrations.models.embed.sentence import SentenceTransformersMiniLM

            return SentenceTransformersMiniLM(config.model_path)
        case "none":
            return None
        case other:
            raise ConfigError("embedder", f"must be one of {', '.join(PRESETS)}", other)
