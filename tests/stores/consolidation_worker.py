"""A process that updates a memory, and may be killed on the way. Not a test.

    consolidation_worker.py PATH update        until it is done
    consolidation_worker.py PATH answer N      dies when answer number N is on its way back
    consolidation_worker.py PATH commit N      dies when commit number N of its database is due

It says ``ready``, waits for a line, and in the end prints the texts of the facts that it asked about,
one line of JSON a call.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from sqlalchemy import event

from lightmem_integrations.core.consolidate import Consolidator
from lightmem_integrations.core.ports import Completion, Purpose
from lightmem_integrations.errors import LLMError
from lightmem_integrations.stores.sql.consolidation import SqlConsolidation
from lightmem_integrations.stores.sql.store import SqlStore

KEEP = {"decision": "keep", "entries": [], "text": None}


def moves(older: str, later: list[str]) -> dict[str, Any]:
    """Whoever lives elsewhere by now, lives there: the last "X lives in Y" of the same X replaces the older."""
    who = older.split(" lives in ")[0]
    same = [n for n, text in enumerate(later, 1) if text.startswith(f"{who} lives in ")]
    return {"decision": "supersede", "entries": same[-1:], "text": None} if same else KEEP


class Judge:
    """A language model in the process, which decides by a function of the texts, or fails.

    Args:
        rule: from the older text and the later ones to an answer, which is sent as JSON unless it is a string.
        fail: from the number of a call, from 0, to the error that it ends with, if any.
    """

    name = "judge"

    def __init__(
        self,
        rule: Callable[[str, list[str]], Any] = moves,
        fail: Callable[[int], LLMError | None] = lambda n: None,
    ) -> None:
        self._rule, self._fail, self._lock = rule, fail, Lock()
        self.calls = 0
        self.answered: list[tuple[str, ...]] = []
        self.prompts: list[str] = []

    def complete(
        self, system: str, user: str, *, schema: Mapping[str, Any] | None = None, purpose: Purpose
    ) -> Completion:
        with self._lock:
            number, self.calls = self.calls, self.calls + 1
            self.prompts.append(user)
        if error := self._fail(number):
            raise error
        lines = [re.sub(r"^(\[\d+\] )?\S+ \S+ \S+ ", "", line) for line in user.splitlines()[1:-1]]
        if "older entry" in lines:
            older, later = lines[1], lines[3:]
        else:
            older, later = "", lines
        with self._lock:
            self.answered.append((older, *later))
        answer = self._rule(older, later)
        return Completion(answer if isinstance(answer, str) else json.dumps(answer), 1, 1, self.name)


def main(path: str, act: str, number: int) -> None:
    store = SqlStore(path)

    def dying(older: str, later: list[str]) -> dict[str, Any]:
        if act == "answer" and len(judge.answered) > number:
            os._exit(9)
        return moves(older, later)

    judge = Judge(dying)
    commits = iter(range(sys.maxsize))

    def due(_: object) -> None:
        if act == "commit" and next(commits) == number:
            os._exit(9)

    event.listen(store._engine, "commit", due)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    report = Consolidator(SqlConsolidation(store), judge, threads=2).update("ana")
    assert not report.errors, report.errors
    for asked in judge.answered:
        sys.stdout.write(json.dumps(asked) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
