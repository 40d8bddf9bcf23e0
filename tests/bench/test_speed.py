"""The speed benchmark at toy sizes: what it measures, and the embedder and texts it feeds."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from lightmem_integrations.bench.instant import InstantEmbedder, questions, sentences
from lightmem_integrations.bench.speed import PARTS, peak_mib, render_speed, run_speed
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.ports import TokenEmbedder
from lightmem_integrations.errors import UsageError

TOY = {"turns": 120, "adds": 3, "queries": 3, "sizes": (110, 20), "own": 10, "others": 1_005}


# ------------------------------------------------------------------------------------ what goes in
def test_instant_embedder_is_a_token_embedder_with_unit_vectors():
    embedder = InstantEmbedder()
    assert isinstance(embedder, TokenEmbedder)
    vectors = embedder.embed(["a red door", "绘本馆", "...", ""])
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert embedder.embed([]).shape == (0, 384)
    [encoding] = embedder.encode(["A red, red door"])
    assert encoding.pieces.shape == (4, 64)
    assert encoding.pieces.dtype == np.int8
    assert np.linalg.norm(encoding.pieces / 127.0, axis=1) == pytest.approx(1, abs=0.02)


def test_instant_embedder_gives_equal_words_equal_pieces_in_every_instance():
    [one] = InstantEmbedder().encode(["the red door"])
    [other] = InstantEmbedder().encode(["Door"], query=True)
    assert one.piece_ids[2] == other.piece_ids[0]
    assert (one.pieces[2] == other.pieces[0]).all()
    similarity = float(InstantEmbedder().embed(["the red door"])[0] @ InstantEmbedder().embed(["a red door"])[0])
    assert 0.4 < similarity < 0.9


def test_texts_are_seeded_uneven_and_of_the_promised_length():
    texts = sentences(2_000)
    assert texts == sentences(2_000)
    assert texts[:100] != sentences(100, seed=1)
    assert len(set(texts)) > 1_900
    assert 12 < sum(len(text.split()) for text in texts) / len(texts) < 18
    words = " ".join(texts).lower().split()
    _, counts = np.unique(words, return_counts=True)
    assert counts.max() > 100 * np.median(counts)


def test_questions_start_with_those_of_the_demo():
    asked = questions(20)
    assert len(asked) == 20
    assert asked[0].endswith("?")
    assert all(1 <= len(text.split()) <= 8 for text in asked[12:])


# ------------------------------------------------------------------------------------ what comes out
def test_every_part_measures_what_it_names():
    parts = [part for part in PARTS if part != "startup"]
    made = run_speed(config=LightMemConfig(embedder="none"), embedder=InstantEmbedder(), parts=parts, **TOY)
    assert [figure.part for figure in made.figures] == ["ingest"] * 3 + ["add"] * 2 + ["search"] * 8 + [
        "neighbours"
    ] * 3 + ["memory"] * 2
    value = {figure.name: figure.value for figure in made.figures}
    assert len(value) == len(made.figures)
    assert all(number > 0 for number in value.values())
    assert value["add / model alone"] == pytest.approx(value["add, 100 turns at a time"] / value["model alone"])
    name = "search, 10 entries of mine"
    assert value[f"{name}, beside 1,005 of others / nobody else's"] == pytest.approx(
        value[f"{name} beside 1,005 of others, median"] / value[f"{name} and nobody else's, median"]
    )
    for strategy in ("late", "weighted"):
        for size in (20, 110):
            search = f"{strategy} search, {size} entries, model left out"
            assert value[f"{search}, 95th percentile"] >= value[f"{search}, median"]
    screen = io.StringIO()
    render_speed(made, Console(file=screen, width=200))
    assert all(figure.name in screen.getvalue() and figure.name in made.markdown() for figure in made.figures)
    assert made.provenance.date in screen.getvalue()
    json.dumps(made.as_dict(), allow_nan=False)


@pytest.mark.slow
def test_startup_is_measured_in_new_processes():
    made = run_speed(config=LightMemConfig(embedder="none"), parts=["startup"], **TOY)
    package, engine, search = (figure.value for figure in made.figures)
    assert package <= engine <= search


def test_peak_memory_counts_what_was_touched():
    before = peak_mib()
    block = np.ones(int(before + 64) * 2**17)  # more than the whole process ever had
    assert peak_mib() >= before + 64
    assert block.nbytes > 0


@pytest.mark.parametrize(
    ("arguments", "field"), [({"parts": ["everything"]}, "parts"), ({"sizes": ()}, "sizes"), ({"adds": 0}, "adds")]
)
def test_bad_arguments_are_named(arguments: dict, field: str):
    with pytest.raises(UsageError) as caught:
        run_speed(**arguments)
    assert caught.value.field == field
