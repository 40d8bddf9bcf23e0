"""Fakes that behave, for tests of the package and of programs that use it."""

from lightmem_integrations.testing.embedders import Fault, FlakyEmbedder, HashEmbedder

__all__ = ["Fault", "FlakyEmbedder", "HashEmbedder"]
