"""Run a command beside a private PostgreSQL and Qdrant, with their addresses in the environment.

    python -m tests.benchmarks.with_servers lightmem bench clients

Both are durable (fsync is on) and are gone when the command ends.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.qdrant_servers import qdrant
from tests.servers import postgresql

DURABLE = (
    *("fsync=on", "full_page_writes=on", "synchronous_commit=on", "shared_buffers=1GB"),
    *("max_wal_size=8GB", "checkpoint_timeout=15min", "wal_compression=on"),
)


def main() -> int:
    try:
        with postgresql(DURABLE) as database, qdrant() as index:
            addresses = {
                "LIGHTMEM_BENCH_DB": database.url(),
                "LIGHTMEM_BENCH_QDRANT": index.url,
                "LIGHTMEM_BENCH_QDRANT_FOLDER": str(index.folder / "storage"),
            }
            return subprocess.run(sys.argv[1:], env=os.environ | addresses).returncode
    except pytest.skip.Exception as reason:
        sys.stderr.write(f"skipped: {reason}\n")
        return 0


if __name__ == "__main__":
    sys.exit(main())
