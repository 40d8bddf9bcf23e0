"""Processes that encode for one that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.test_pipeline import talk
from tests.servers import children_of
from tests.test_bulk import _LOAD, line, written


def is_running(pid: int) -> bool:
    """There is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes where Linux tells them")
def test_who_encodes_for_a_load_that_is_killed_ends_too(path: Path | str, tmp_path: Path) -> None:
    file = written(tmp_path / "all.jsonl", [line("ana", "one", message) for message in talk(1_500)])
    script = tmp_path / "load.py"
    script.write_text(_LOAD, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(script), str(path), str(file), "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = children_of(process.pid)
        assert len(children) >= 2
        process.kill()
    limit = time.monotonic() + 30
    while any(map(is_running, children)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(map(is_running, children))
