"""Compressors with models: the real llmlingua and transformers code on tiny random models."""

from __future__ import annotations

import importlib.util
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightmem_integrations import LightMem, LightMemConfig, Message
from lightmem_integrations.core.compress import LexicalCompressor, join_spans, safely
from lightmem_integrations.core.ports import Attention, Compressor
from lightmem_integrations.core.types import Compression
from lightmem_integrations.errors import ConfigError, MissingDependencyError, ModelNotFoundError, UsageError
from lightmem_integrations.models.compress import COMPRESSORS, make_compressor
from lightmem_integrations.models.compress.entropy import EntropyCompressor
from lightmem_integrations.models.compress.llmlingua import LLMLinguaCompressor

llmlingua = pytest.mark.llmlingua

TEXTS = [
    "The boat left Oslo at noon, and we waved from the pier.",
    "In 2023 my sister bought 3 red bicycles for 450 euros; she never rode them!",
    "Did you not say that the lighthouse keeper was called Marta?",
    "Wow.",
    "the old harbour was quiet and the gulls were sleeping on the wall. " * 3,
]
LONG = " ".join(
    f"On day {i} the keeper wrote about the {word} and the weather was calm." for i, word in enumerate(["gulls"] * 80)
)


def words_of(texts: Sequence[str]) -> list[str]:
    return sorted({word for text in texts for word in "".join(c if c.isalnum() else f" {c} " for c in text).split()})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random token classifier of 12 small layers, and a WordPiece tokenizer with some split words."""
    torch = pytest.importorskip("torch", reason="the llmlingua extra is not installed")
    pytest.importorskip("llmlingua", reason="the llmlingua extra is not installed")
    from lightmem_integrations.core.tokens import budget_counter

    if budget_counter().name != "cl100k_base":
        pytest.skip("cl100k_base is not on this machine")
    from transformers import BertConfig, BertForTokenClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-bert-base-multilingual-cased"
    folder.mkdir()
    whole = [word for word in words_of([*TEXTS, LONG]) if word not in ("lighthouse", "bicycles", "sleeping")]
    pieces = ["light", "##house", "bi", "##cycle", "##s", "sleep", "##ing"]
    letters = [f"{mark}{c}" for mark in ("", "##") for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *whole, *pieces, *letters]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)), encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=False, model_max_length=512)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=12, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=512, num_labels=2, initializer_range=0.15,
    )  # fmt: skip
    BertForTokenClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 with 64 positions and a byte-level tokenizer."""
    torch = pytest.importorskip("torch", reason="the llmlingua extra is not installed")
    pytest.importorskip("transformers", reason="the llmlingua extra is not installed")
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([*TEXTS, LONG], vocab_size=500, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.5,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def check(text: str, made: Compression) -> None:
    assert join_spans(text, made.kept) == made.text
    assert made.tokens_after <= made.tokens_before
    assert made.failed is False or made.text == text


# ------------------------------------------------------------------------------------ by name
def test_compressors_by_name() -> None:
    assert isinstance(make_compressor("lexical", rate=0.5), LexicalCompressor)
    assert make_compressor("none") is None
    for name in COMPRESSORS[:-1]:
        made = make_compressor(name, rate=0.5)
        assert isinstance(made, Compressor)
        assert made.name == name
    with pytest.raises(ConfigError, match="pre_compressor must be one of lexical, llmlingua, entropy, none"):
        make_compressor("zip")


@pytest.mark.parametrize("name", ["lexical", "llmlingua", "entropy"])
@pytest.mark.parametrize("rate", [0, -0.1, 1.01, float("nan"), True, "0.5"])
def test_a_rate_out_of_range_is_refused(name: str, rate: Any) -> None:
    with pytest.raises(UsageError, match="rate must lie in 0 < rate <= 1"):
        make_compressor(name, rate=rate)


def test_a_model_of_another_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="bert-base-multilingual-cased or xlm-roberta-large"):
        LLMLinguaCompressor("somewhere/roberta-base")


@pytest.mark.skipif(importlib.util.find_spec("llmlingua") is not None, reason="llmlingua is installed")
def test_without_the_package_the_extra_is_named() -> None:
    compressor = LLMLinguaCompressor()
    with pytest.raises(MissingDependencyError, match=r"lightmem-integrations\[llmlingua\]"):
        compressor.compress(TEXTS)
    made, reasons = safely(compressor, TEXTS)
    assert [(m.text, m.failed) for m in made] == [(text, True) for text in TEXTS]
    assert len(reasons) == 1
    assert "lightmem-integrations[llmlingua]" in reasons[0]


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed")
def test_without_transformers_the_extra_is_named() -> None:
    with pytest.raises(MissingDependencyError, match=r"lightmem-integrations\[llmlingua\]"):
        EntropyCompressor().compress(TEXTS)


# ------------------------------------------------------------------------------------ llmlingua
@llmlingua
@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("force", [(), (".", "?", "!"), (".", "the", "##s")])
@pytest.mark.parametrize("digits", [True, False])
def test_keeps_the_words_that_the_package_keeps(
    classifier: Path, rate: float, force: tuple[str, ...], digits: bool
) -> None:
    mine = LLMLinguaCompressor(classifier, rate=rate, force_tokens=force, keep_digits=digits)
    theirs = mine.prompt_compressor.compress_prompt_llmlingua2(
        [*TEXTS, LONG], rate=rate, force_tokens=list(force), force_reserve_digit=digits, chunk_end_tokens=[".", "\n"]
    )["compressed_prompt_list"]
    differ = 0
    for text, made, expected in zip([*TEXTS, LONG], mine.compress([*TEXTS, LONG]), theirs, strict=True):
        check(text, made)
        if not expected:
            assert made.text == text
        elif made.tokens_after < made.tokens_before:
            differ += "".join(made.text.split()) != "".join(expected.split())
    assert differ == 0


@llmlingua
def test_messages_share_a_pass(classifier: Path) -> None:
    compressor = LLMLinguaCompressor(classifier)
    passes: list[int] = []
    compressor.prompt_compressor.model.register_forward_hook(lambda module, args, output: passes.append(1))
    compressor.compress(TEXTS * 10)
    assert len(passes) == 2


@llmlingua
def test_one_pass_gives_what_two_give(classifier: Path) -> None:
    torch = pytest.importorskip("torch")
    compressor = LLMLinguaCompressor(classifier)
    model = compressor.prompt_compressor.model
    passes: list[int] = []
    handle = model.register_forward_hook(lambda module, args, output: passes.append(1))
    reading = compressor.read(TEXTS)
    handle.remove()
    assert len(passes) == 1
    assert [c.failed for c in reading.compressions] == [False] * 5
    for text, made in zip(TEXTS, reading.compressions, strict=True):
        check(text, made)

    # The same figures by hand, from one sequence.
    tokenizer = compressor.prompt_compressor.tokenizer
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    ids = [tokenizer.cls_token_id, *(i for row in rows for i in row), tokenizer.sep_token_id]
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        outputs = model(input_ids=torch.tensor([ids]), output_attentions=True)
    layers = torch.stack(outputs.attentions[8:12]).mean(dim=(0, 2))[0].numpy()
    inside = np.zeros(len(ids), bool)
    inside[3:-3] = True
    bounds = np.cumsum([1, *map(len, rows)])
    for k in range(1, len(TEXTS)):
        mine = np.arange(bounds[k], bounds[k + 1])
        sums = []
        for j in range(k):
            other = np.arange(bounds[j], bounds[j + 1])
            sums.append(layers[np.ix_(mine[inside[mine]], other[inside[other]])].sum())
        assert reading.attention[k, :k] == pytest.approx(np.array(sums) / sum(sums), rel=1e-4)
        assert not reading.attention[k, k:].any()
    assert not reading.attention[0].any()
    assert compressor.attend(TEXTS) == pytest.approx(reading.attention)
    assert isinstance(compressor, Attention)


@llmlingua
def test_a_buffer_of_many_windows(classifier: Path) -> None:
    compressor = LLMLinguaCompressor(classifier)
    sentences = [*TEXTS * 12, LONG, *TEXTS]
    reading = compressor.read(sentences)
    assert reading.attention.shape == (len(sentences), len(sentences))
    assert (reading.attention >= 0).all()
    sums = reading.attention.sum(axis=1)
    assert (np.isclose(sums, 1, atol=1e-5) | (sums == 0)).all()
    linked = [k for k, text in enumerate(sentences) if k and len(text) > 10]  # a sentence of few tokens may be masked
    assert (np.diag(reading.attention, -1)[np.array(linked) - 1] > 0).all()
    for text, made in zip(sentences, reading.compressions, strict=True):
        check(text, made)
    assert compressor.read([]).attention.shape == (0, 0)


@llmlingua
def test_texts_of_any_kind_come_back(classifier: Path) -> None:
    texts = [
        "",
        " \n",
        "\x00\x01",
        "\ud800 lone",
        "[SEP] [CLS] <|endoftext|>",
        "𝔘𝔫𝔦 😀😀",
        "的我他们走了" * 300,
        "x" * 5_000,
    ]
    compressor = LLMLinguaCompressor(classifier)
    for texts_at_once in (texts, [*texts, *TEXTS]):
        made = compressor.compress(texts_at_once)
        for text, result in zip(texts_at_once, made, strict=True):
            check(text, result)
        assert safely(compressor, texts_at_once)[1] == []
    assert [c.text for c in made[-5:]] == [c.text for c in compressor.compress(TEXTS)]
    for text, result in zip(texts, compressor.read(texts).compressions, strict=True):
        check(text, result)
    assert compressor.compress([]) == []


@llmlingua
def test_line_breaks_and_forced_strings_stay(classifier: Path) -> None:
    compressor = LLMLinguaCompressor(classifier, rate=0.3, force_tokens=("lighthouse keeper",))
    made = compressor.compress([f"{TEXTS[2]}\n{TEXTS[0]}\n{TEXTS[1]}"])[0]
    assert "lighthouse keeper" in made.text
    assert {"2023", "3", "450"} <= set(made.text.split())


@llmlingua
def test_a_failing_pass_costs_one_text(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = LLMLinguaCompressor(classifier)
    expected = compressor.compress(TEXTS)
    loaded = compressor._ready()
    real = loaded._run

    def run(ids: Sequence[Sequence[int]], *, attentions: bool) -> Any:
        if any(len(row) == 2 for row in ids):
            raise RuntimeError("out of memory")
        return real(ids, attentions=attentions)

    monkeypatch.setattr(loaded, "_run", run)
    made = compressor.compress(TEXTS)
    assert [m.failed for m in made] == [False, False, False, True, False]
    assert [m.text for i, m in enumerate(made) if i != 3] == [m.text for i, m in enumerate(expected) if i != 3]


@llmlingua
def test_loading_leaves_the_random_generators_alone(classifier: Path) -> None:
    torch = pytest.importorskip("torch")
    random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), torch.rand(1).item()
    random.seed(1)
    torch.manual_seed(1)
    LLMLinguaCompressor(classifier).load()
    assert (random.random(), torch.rand(1).item()) == expected


@llmlingua
def test_a_missing_model_is_named(classifier: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "bert-base-multilingual-cased"
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        LLMLinguaCompressor(nowhere).compress(TEXTS)
    shutil.copytree(classifier, nowhere)
    (nowhere / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="could not load"):
        LLMLinguaCompressor(nowhere).compress(TEXTS)
    with pytest.raises(ModelNotFoundError, match="could not load"):
        LLMLinguaCompressor("nobody/bert-base-multilingual-cased").compress(TEXTS)


# ------------------------------------------------------------------------------------ entropy
@llmlingua
def test_surprisal_is_that_of_the_model(causal: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(causal).eval(), AutoTokenizer.from_pretrained(causal)
    ids = tokenizer(TEXTS[0])["input_ids"]
    given = torch.tensor([[0, *ids]])
    with torch.inference_mode():
        loss = model(input_ids=given, labels=given).loss.item()
    found = EntropyCompressor(causal).surprisal(TEXTS[0])
    assert sum(nats for _, _, nats in found) / len(found) == pytest.approx(loss, rel=1e-4)
    assert [TEXTS[0][a:b] for a, b, _ in found][:3] == [TEXTS[0][a:b] for a, b in
        tokenizer(TEXTS[0], return_offsets_mapping=True)["offset_mapping"]][:3]  # fmt: skip


@llmlingua
def test_entropy_keeps_the_rate_in_long_texts(causal: Path) -> None:
    for rate in (0.4, 0.6, 0.8):
        made = EntropyCompressor(causal, rate=rate).compress([LONG, *TEXTS])
        assert made[0].rate == pytest.approx(rate, abs=0.05)
        for text, result in zip([LONG, *TEXTS], made, strict=True):
            check(text, result)
            assert not result.failed
    assert "2023" in made[2].text
    assert "never" in made[2].text


@llmlingua
def test_entropy_takes_texts_of_any_kind(causal: Path, tmp_path: Path) -> None:
    compressor = EntropyCompressor(causal)
    texts = ["", " \n", "\ud800 lone", "<|endoftext|> said", "😀😀 的我他们走了", "x" * 5_000]
    for text, made in zip(texts, compressor.compress(texts), strict=True):
        check(text, made)
    assert safely(compressor, texts)[1] == []
    with pytest.raises(ModelNotFoundError, match="could not load"):
        EntropyCompressor(tmp_path).compress(TEXTS)


# ------------------------------------------------------------------------------------ in the engine
def conversation() -> list[Message]:
    """Sixty turns of words that the tiny models know."""
    sentences = [part.strip() for part in LONG.split(".") if part.strip()]
    return [Message("user", f"{sentences[n % len(sentences)]}.", id=f"m{n}") for n in range(60)]


@llmlingua
@pytest.mark.parametrize("shared", [True, False])
def test_the_engine_compresses_and_cuts_in_one_pass_over_the_model(classifier: Path, shared: bool) -> None:
    config = LightMemConfig(
        embedder="none",
        pre_compressor="llmlingua",
        compressor_model=classifier,
        topic_segmenter="attention",
        precomp_topic_shared=shared,
        extract_threshold=0.0,
    )
    with LightMem(":memory:", config) as memory:
        assert memory._reflection is not None
        pipeline = memory._reflection._pipeline
        compressor, attention = pipeline._compressor, pipeline._attention
        assert (compressor is attention) is shared
        passes = dict.fromkeys(("compress", "read"), 0)
        for name in passes:
            whole = getattr(compressor, name)

            def counted(texts: Any, name: str = name, whole: Any = whole) -> Any:
                passes[name] += 1
                return whole(texts)

            setattr(compressor, name, counted)
        assert not memory.add(conversation(), user_id="ana").errors
        memory.flush()
        stats = memory.stats(user_id="ana")
        segments = memory.list(user_id="ana", kinds=["segment"], limit=999)
        assert sorted(i for e in segments for i in e.source_messages) == sorted(f"m{n}" for n in range(60))
        assert stats["compression"]["failed"] == 0
        assert 0 < stats["compression"]["after"] < stats["compression"]["before"]
        assert (passes["read"] > 0, passes["compress"] > 0) == (shared, not shared)


@llmlingua
def test_the_engine_compresses_by_surprisal(causal: Path) -> None:
    config = LightMemConfig(embedder="none", pre_compressor="entropy", compressor_model=causal)
    with LightMem(":memory:", config) as memory:
        assert not memory.add(conversation(), user_id="ana").errors
        memory.flush()
        stats = memory.stats(user_id="ana")["compression"]
        assert stats["failed"] == 0
        assert 0.5 < stats["after"] / stats["before"] < 0.75
