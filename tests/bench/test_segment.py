"""The figures of topic segmentation: by hand, as laws, and equal to an evaluator from outside.

``LIGHTMEM_SEGMENTATION_EVALUATOR`` is the path of a Python file with ``load``, ``evaluate`` and
``texttiling``, ``LIGHTMEM_SEGMENTATION_DATA`` a labelled file.
"""

import gzip
import importlib.util
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lightmem_integrations.bench.segment import (
    hits,
    load_dialogues,
    pk,
    render_segment,
    run_segment,
    texttiling,
    through_buffer,
    windowdiff,
)
from lightmem_integrations.core.segment import segment
from lightmem_integrations.errors import UsageError
from lightmem_integrations.testing import HashEmbedder

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=6)


# ------------------------------------------------------------------------------------ by hand
def test_pk_and_windowdiff_by_hand():
    # Eight turns, seven gaps. Gold 4 + 4: gaps 0001000, found 2 + 2 + 4: gaps 0101000. Half the mean
    # length is 2, so there are six windows of two gaps. Boundaries in each:
    #   gold  0 0 1 1 0 0
    #   found 1 1 1 1 0 0
    assert pk([4, 4], [2, 2, 4]) == pytest.approx(2 / 6)
    assert windowdiff([4, 4], [2, 2, 4]) == pytest.approx(2 / 6)
    # Found 3 + 1 + 4: gaps 0011000.
    #   found 0 1 2 1 0 0: one window too early, and one with two boundaries for one
    assert pk([4, 4], [3, 1, 4]) == pytest.approx(1 / 6)
    assert windowdiff([4, 4], [3, 1, 4]) == pytest.approx(2 / 6)
    # Nothing found.
    assert pk([4, 4], [8]) == windowdiff([4, 4], [8]) == pytest.approx(2 / 6)


def test_windows_at_their_smallest():
    assert pk([1], [1]) == windowdiff([1], [1]) == 0
    # Two turns have one gap, and the window shrinks to it.
    assert pk([1, 1], [2]) == windowdiff([2], [1, 1]) == 1
    assert pk([1, 1], [1, 1]) == 0


def test_the_window_is_half_the_mean_segment():
    # Gold 12: windows of six gaps; a cut after the first of twelve turns is seen by one of six windows.
    assert pk([12], [1, 11]) == pytest.approx(1 / 6)


def test_segments_must_add_up():
    with pytest.raises(UsageError, match="add up"):
        pk([2, 2], [2, 1])


def test_hits_by_hand():
    assert hits([3, 6, 9], [3, 5, 10], 0) == 1
    assert hits([3, 6, 9], [3, 5, 10], 1) == 3
    # One gold boundary counts once, and the nearest comes before the earlier.
    assert hits([3], [2, 3, 4], 1) == 1
    assert hits([3, 4], [4, 5], 1) == 1
    assert hits([], [1], 1) == hits([1], [], 1) == 0


@given(SIZES)
def test_the_truth_is_perfect(sizes: list[int]):
    assert pk(sizes, sizes) == windowdiff(sizes, sizes) == 0


@given(SIZES, st.data())
def test_windowdiff_is_never_below_pk(gold: list[int], data: st.DataObject):
    n = sum(gold)
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1)))) if n > 1 else []
    found = [int(size) for size in np.diff([0, *cuts, n])]
    assert 0 <= pk(gold, found) <= windowdiff(gold, found) <= 1


# ------------------------------------------------------------------------------------ methods
def test_texttiling_cuts_at_the_deepest_valleys():
    vectors = np.repeat(np.eye(3), 4, axis=0)
    assert texttiling(vectors, [""] * 12) == [4, 8]
    assert texttiling(vectors, [""] * 12, cutoff=3) == []
    assert texttiling(vectors[:2], [""] * 2) == []


def test_through_the_buffer_every_turn_is_seen_once_with_context_before_it():
    seen: list[tuple[int, ...]] = []

    def halves(vectors: Any, texts: Sequence[str]) -> list[int]:
        seen.append(tuple(int(row[0]) for row in vectors))
        assert [str(row[0]) for row in vectors] == list(texts)
        return [len(texts) // 2]

    vectors = np.arange(8).reshape(8, 1)
    found = through_buffer(halves, limit=4, context=2)(vectors, [str(i) for i in range(8)])
    # 0 1 2 3 is cut before 2; then 2 3 4 5 with 0 1 before it, before 3, and so on.
    assert seen == [(0, 1, 2, 3), (0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6), (2, 3, 4, 5, 6, 7), (3, 4, 5, 6, 7)]
    assert found == [2, 3, 4, 5]


# ------------------------------------------------------------------------------------ a run
@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    tea = ["Green tea is hot", "I like green tea", "Tea with milk", "Hot tea with milk"]
    trains = ["The train was late", "Late train again", "My train left late", "The late train left"]
    rows = [
        {"id": "a", "language": "en", "utterances": tea + trains, "segments": [4, 4]},
        {"id": "b", "utterances": ["Hello", ""], "segments": [2]},
    ]
    plain, packed = tmp_path / "plain.v1.jsonl", tmp_path / "packed.jsonl.gz"
    plain.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    packed.write_bytes(gzip.compress(json.dumps(rows[0]).encode()))
    return [plain, packed]


def test_run_by_hand(files: list[Path]):
    report = run_segment(files, limit=1_000)
    assert [(row.file, row.method) for row in report.rows[:5]] == [
        ("plain", "lightmem"),
        ("plain", "lightmem, buffer of 1000"),
        ("plain", "texttiling 0.5"),
        ("plain", "texttiling 1.5"),
        ("plain", "cut nothing"),
    ]
    assert {row.file for row in report.rows} == {"plain", "packed"}
    row = report.row("plain", "lightmem")
    assert (row.dialogues, row.utterances, row.boundaries) == (2, 10, 1)
    assert (row.pk.mean, row.windowdiff, row.f1, row.precision, row.recall, row.ratio) == (0, 0, 1, 1, 1, 1)
    nothing = report.row("plain", "cut nothing")
    assert nothing.pk.mean == pytest.approx(1 / 6)  # 2 of 6 windows in one dialogue, none in the other
    assert (nothing.f1, nothing.precision, nothing.recall, nothing.ratio) == (0, 0, 0, 0)
    with pytest.raises(UsageError, match="measured"):
        report.row("plain", "dice")


def test_run_with_vectors_and_another_method(files: list[Path]):
    def each(vectors: Any, texts: Sequence[str]) -> list[int]:
        assert vectors.shape[0] == len(texts)
        return list(range(1, len(texts)))

    asked = []
    report = run_segment(
        str(files[0].parent / "pl*.jsonl"),
        segmenter=each,
        name="each",
        embedder=HashEmbedder(),
        baselines=False,
        progress=lambda done, total, file: asked.append((done, total, file)),
    )
    assert asked == [(0, 1, "plain")]
    row = report.row("plain", "each")
    assert row.f1 == pytest.approx(2 / (8 + 1))
    assert (row.precision, row.recall, row.ratio) == (1 / 8, 1, 8)
    assert json.loads(json.dumps(report.as_dict()))["rows"][0]["pk"]["n"] == 2


def test_printing(files: list[Path]):
    report = run_segment(files[0].parent)
    out = io.StringIO()
    render_segment(report, Console(file=out, width=200))
    table = report.markdown().splitlines()
    assert len(table) == 2 + 10 + 2
    assert {line.count("|") for line in table[:12]} == {11}
    for text in ("WindowDiff", "texttiling 1.5", "packed", "buffer of 512"):
        assert text in out.getvalue()
        assert text in report.markdown()


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("[]", "[0]"),
        ("{", "jsonl"),
        ('{"utterances": ["a"], "segments": [2]}', "segments"),
        ('{"utterances": ["a"], "segments": [0, 1]}', "segments"),
        ('{"utterances": [], "segments": []}', "utterances"),
        ('{"utterances": [1], "segments": [1]}', "utterances"),
    ],
)
def test_bad_files_name_the_place(tmp_path: Path, line: str, field: str):
    path = tmp_path / "bad.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_dialogues(path)
    assert field in caught.value.field


def test_files_that_are_not_there(tmp_path: Path):
    with pytest.raises(UsageError, match="files"):
        run_segment(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match="at least one dialogue"):
        run_segment(tmp_path / "empty.jsonl")


# ------------------------------------------------------------------------------------ from outside
@pytest.fixture
def reference() -> Iterator[ModuleType]:
    path = os.environ.get("LIGHTMEM_SEGMENTATION_EVALUATOR")
    if not path:
        pytest.skip("LIGHTMEM_SEGMENTATION_EVALUATOR is not set")
    spec = importlib.util.spec_from_file_location("reference_segmentation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.bench
def test_our_figures_are_those_of_another_evaluator(reference: ModuleType):
    data = os.environ.get("LIGHTMEM_SEGMENTATION_DATA")
    if not data:
        pytest.skip("LIGHTMEM_SEGMENTATION_DATA is not set")
    embedder = HashEmbedder()

    def encode(texts: Sequence[str]) -> Any:
        return embedder.embed([text if text.strip() else "." for text in texts])

    def sizes(cuts: Sequence[int], n: int) -> list[int]:
        return [int(size) for size in np.diff([0, *cuts, n])]

    report = run_segment(data, embedder=embedder)
    rows = reference.load([data])
    theirs = {
        "lightmem": lambda texts: sizes(segment(encode(texts), texts), len(texts)),
        "lightmem, buffer of 512": lambda texts: sizes(through_buffer(segment)(encode(texts), texts), len(texts)),
        "texttiling 0.5": reference.texttiling(encode, 2, 0.5),
        "texttiling 1.5": reference.texttiling(encode, 2, 1.5),
        "cut nothing": reference.no_cut,
    }
    assert {row.method for row in report.rows} == theirs.keys()
    for row in report.rows:
        expected = reference.evaluate(rows, theirs[row.method])
        ours = (row.dialogues, row.utterances, row.pk.mean, row.windowdiff, row.f1, row.f1_within_1, row.ratio)
        names = ("n", "utterances", "pk", "windowdiff", "f1", "f1~1", "ratio")
        assert ours == pytest.approx(tuple(expected[name] for name in names), abs=1e-9), row.method
