"""Where, when and on which commit a figure was measured: a number without these says little."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from lightmem_integrations.__about__ import __version__


@dataclass(frozen=True, slots=True)
class Provenance:
    """What every report states.

    Attributes:
        commit: short hash of the checkout, with ``-dirty`` when tracked files were changed; None
            when the package does not run from a checkout.
        date: day of the measurement in UTC, ISO 8601.
        machine: processor, cores that this process may use, memory and system.
    """

    machine: str
    python: str
    version: str
    commit: str | None
    date: str

    def __str__(self) -> str:
        commit = f"commit {self.commit}" if self.commit else "no commit"
        return f"{self.machine}, Python {self.python}, lightmem-integrations {self.version}, {commit}, {self.date}"


def provenance() -> Provenance:
    """Describe this machine, this moment and this checkout."""
    return Provenance(
        machine=f"{_processor()}, {_cores()} cores, {_memory()}, {platform.system()}",
        python=platform.python_version(),
        version=__version__,
        commit=_commit(),
        date=datetime.now(timezone.utc).date().isoformat(),
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, ValueError, OSError):
        return "memory unknown"


def _commit() -> str | None:
    here = Path(__file__).resolve()
    # An installed copy may lie inside some other project's checkout, whose commit says nothing.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
