"""What the fault tests share: worker processes that are never left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("worker.py")

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start ``worker.py`` with arguments and wait for its ``ready``; killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, wait: bool = True) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, str(WORKER), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(worker)
        if wait:
            await_ready(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
        worker.communicate()


def await_ready(worker: subprocess.Popen[str]) -> None:
    """Block until the worker has opened its database."""
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n", worker.communicate()[1]
