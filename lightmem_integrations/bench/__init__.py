"""Measuring a memory: how well it finds evidence, and how fast it is.

``run_recall`` and ``run_speed`` do the work and return plain dataclasses; ``render_recall`` and
``render_speed`` print them.
"""

from __future__ import annotations

from lightmem_integrations.bench.recall import RecallReport, render_recall, run_recall
from lightmem_integrations.bench.speed import SpeedReport, render_speed, run_speed

__all__ = ["RecallReport", "SpeedReport", "render_recall", "render_speed", "run_recall", "run_speed"]
