"""The text analyzer: which texts meet which queries, in many languages."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from lightmem_integrations.core import analyze
from lightmem_integrations.core.analyze import (
    MAX_WORD_CHARS,
    SINGLE_CHARACTER_WEIGHT,
    detect_language,
    expand_unknown,
    normalize,
    query_terms,
    query_weights,
    terms,
)

ROOT = Path(analyze.__file__).parents[2]
# Hypothesis leaves lone surrogates out of text() unless they are asked for.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
LANGUAGES = st.sampled_from(["en", "de", "fr", "es", "it", "pt", "nl", "sv", "ru", "zh", "ja", "ko", "th", "xx"])
HAN = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)
LATIN = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyzàáâãäåçèéêëìíîïñòóôõöùúûüýÿœøß"), min_size=1, max_size=12)
SENTENCES = {
    "en": "I went to the market with my sister yesterday.",
    "de": "Ich habe gestern mit meiner Schwester einen Kuchen gebacken.",
    "fr": "Nous avons mangé dans un restaurant avec des amis.",
    "es": "Ayer fui al mercado con mi hermana y no compré nada.",
    "it": "Non ho tempo per andare in palestra.",
    "pt": "Ontem fui ao mercado com a minha irmã.",
    "nl": "Ik ben gisteren met mijn zus naar de markt gegaan.",
    "sv": "Jag gick till marknaden med min syster och köpte fisk.",
    "fi": "Minä olen Suomesta, ja se on totta.",
    "tr": "Bu çok güzel bir gün, ben de öyle.",
    "ru": "Вчера я ходил в магазин.",
    "uk": "Я їду до Києва.",
    "el": "Χθες πήγα στην αγορά.",
    "ar": "ذهبت إلى السوق أمس",
    "he": "הלכתי לשוק אתמול",
    "hi": "मैं कल बाज़ार गया था",
    "th": "เมื่อวานฉันไปตลาด",
    "ko": "어제 시장에 갔어요",
    "ja": "昨日は市場に行きました",
    "zh": "我昨天在超市买了一台MacBook Pro电脑",
}


def meets(query: str, text: str, *languages: str) -> bool:
    """Does the query share a term with the text, indexed in its own language?"""
    return bool(set(query_terms(query, languages or [detect_language(text)])) & set(terms(text)))


@pytest.mark.parametrize("language", SENTENCES)
def test_language_of_a_sentence(language: str) -> None:
    assert detect_language(SENTENCES[language]) == language


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12345",
        "ok",
        "Hi!",
        "no no no",
        "La la la",
        "My friend's name is 李明.",
        "I saw La Vie en Rose with you",
        "🎉🎉",
    ],
)
def test_little_evidence_means_english(text: str) -> None:
    assert detect_language(text) == "en"


def test_another_latin_language_needs_two_function_words_and_more_than_english() -> None:
    assert detect_language("Hund und Katze") == "en"
    assert detect_language("Hund und Katze und Maus") == "en"  # one word, twice
    assert detect_language("der Hund und Katze") == "de"
    assert detect_language("the dog, der Hund und you") == "en"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("北京", "我去年去过北京旅游"),
        ("京", "我去年去过北京旅游"),
        ("東京タワー", "昨日は東京タワーに行きました"),
        ("학교", "어제 학교에서 책을 읽었어요"),
        ("책", "어제 학교에서 책을 읽었어요"),
        ("ตลาด", "เมื่อวานฉันไปตลาด"),
        ("muller", "I met Müller at the station"),
        ("Müller", "I met Muller at the station"),
        ("fiance", "her fiancé is late"),
        ("E_1234", "the ticket is E_1234, closed"),
        ("1234", "the ticket is E_1234, closed"),
        ("painting", "She paints every day"),
        ("Häuser", "Wir haben ein Haus auf dem Land und einen Garten"),
        ("informacao", "Eu não tenho informação do hotel"),
        ("canciones", "La canción que me gusta es de mi madre"),
        ("chantées", "Il a chanté dans un restaurant avec des amis"),
        ("магазины", "Вчера я ходил в магазин"),
        ("елка", "На улице стоит ёлка"),
        ("बाज़ार", "मैं कल बाज़ार गया था"),
        ("سوق", "ذهبت إلى السُّوق أمس"),
        ("hello 123", "ＨＥＬＬＯ　１２３"),
        ("ﾀﾜｰ", "東京タワー"),
        ("cooperate", "co\u00adoperate"),
        ("STRASSE", "Die Straße ist nicht lang und mit Bäumen"),
    ],
)
def test_query_finds_text(query: str, text: str) -> None:
    assert meets(query, text)


def test_order_and_repeats_are_kept() -> None:
    assert terms("Dogs chase cats; cats chase a dog.") == ["dog", "chase", "cat", "cat", "chase", "dog"]


def test_function_words_leave_nothing() -> None:
    assert terms("Don't you think that we've been there?") == ["think"]
    assert terms("Wer ist das und was ist der?", "de") == terms("wer", "de")


def test_unknown_language_is_neither_stopped_nor_stemmed() -> None:
    assert terms("the running dogs", "xx") == ["the", "running", "dogs"]


def test_latin_words_in_a_chinese_text_are_english() -> None:
    assert terms("我喜欢 running")[-1] == "run"
    assert query_weights("running", ["zh"]) == {"run": 1.0}


def test_pairs_and_single_characters() -> None:
    assert terms("看北京") == ["看北", "北京", "看", "北", "京"]
    assert terms("食べる") == ["食べ", "べる", "食"]
    assert terms("ที่นี่") == ["ที่นี่"]  # two letters with their marks are one pair
    assert terms("京") == ["京"]
    assert query_weights("北京") == {"北京": 1.0, "北": SINGLE_CHARACTER_WEIGHT, "京": SINGLE_CHARACTER_WEIGHT}


def test_chinese_query_is_cut_at_function_words() -> None:
    weights = query_weights("你喜欢什么书？")
    assert {term for term, weight in weights.items() if weight == 1.0} == {"喜欢", "书"}
    assert query_terms("什么") == ["什么", "什", "么"]  # nothing else is left to ask for


def test_query_is_stemmed_for_every_language_of_the_memory() -> None:
    assert set(query_terms("Häuser", ["de", "en"])) == {"haus", "hauser"}
    assert query_terms("Häuser", []) == query_terms("Häuser", ["en"])
    assert query_terms("what is the house", ["de", "en"]) == ["hous"]


def test_long_words_are_indexed_in_pieces() -> None:
    found = terms("x1" * 500 + " é" + "9é" * 500, "xx")
    assert len(found) > 20
    assert max(map(len, found)) <= MAX_WORD_CHARS


@given(HAN, ANY_TEXT, ANY_TEXT)
@example("的", "是", "了")
@example("一", "", "")
def test_one_han_character_finds_every_text_with_it(char: str, before: str, after: str) -> None:
    assert set(query_terms(char)) <= set(terms(before + char + after))


@given(ANY_TEXT, LANGUAGES | st.none())
@example("\ud800a\udfffb", None)
@example("\u0301\u0e31\u093e", None)
@example("ẞİŉǰΐﬃ", "tr")
def test_any_text_gives_clean_terms(text: str, language: str | None) -> None:
    found = terms(text, language)
    assert found == terms(text, language)
    assert all(term and term == normalize(term) and not term.isspace() for term in found)
    assert len(detect_language(text)) == 2
    languages = [language] if language else []
    assert list(query_weights(text, languages)) == query_terms(text, languages)
    assert len(set(query_terms(text, languages))) == len(query_terms(text, languages))


@given(ANY_TEXT)
def test_normalize_is_idempotent(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert terms(once) == terms(text)


@given(ANY_TEXT)
def test_canonically_equal_texts_have_equal_terms(text: str) -> None:
    assert terms(unicodedata.normalize("NFD", text)) == terms(unicodedata.normalize("NFC", text))


@given(LATIN, LANGUAGES)
def test_accents_never_hide_a_word(word: str, language: str) -> None:
    plain = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    assert set(terms(plain, language)) <= set(terms(word, language))


@given(ANY_TEXT, LANGUAGES)
def test_a_text_without_cuts_is_found_by_itself(text: str, language: str) -> None:
    own = detect_language(text)
    if own != "zh":
        assert set(query_terms(text, [own])) == set(terms(text))


def test_threads_get_the_same_stems() -> None:
    words = [f"{stem}{ending}" for stem in ("paint", "walk", "organiz", "relat") for ending in ("ing", "ed", "ational")]
    texts = [f"{word} x{i}y" for i in range(300) for word in words]
    expected = [terms(text, "en") for text in texts]
    with ThreadPoolExecutor(8) as pool:
        # New words miss the cache, so that the threads do stem at the same time.
        fresh = list(pool.map(lambda text: terms(text.replace("x", "q"), "en"), texts))
    assert fresh == [[term.replace("x", "q") for term in found] for found in expected]


def test_import_is_light() -> None:
    loaded = "sorted({'Stemmer', 'rapidfuzz', 'numpy'} & {*sys.modules})"
    code = f"import sys, {analyze.__name__}; print({loaded})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "[]\n"


# ------------------------------------------------------------------------------- misspellings
def test_expansion_is_nearest_first_then_alphabetical() -> None:
    known = ["painted", "saint", "point", "faint", "paint", "print", "taint", "northern"]
    assert expand_unknown("paintt", known) == ["paint", "faint", "painted"]
    assert expand_unknown("paint", known) == ["faint", "point", "print"]  # never the term itself


def test_short_terms_allow_one_edit() -> None:
    assert expand_unknown("nite", ["bit", "nice", "note", "site", "nights"]) == ["nice", "note", "site"]
    assert expand_unknown("cat", ["bat", "cart"]) == []


@pytest.mark.parametrize("term", ["12345", "e1234", "北京大学", "안녕하세요", "カメラマン", ""])
def test_no_expansion(term: str) -> None:
    assert expand_unknown(term, [term + "x", term[:-1] + "z", term[1:]]) == []


@given(st.text("abcde", min_size=4, max_size=7), st.lists(st.text("abcde", min_size=1, max_size=8), unique=True))
def test_expansion_law(term: str, vocabulary: list[str]) -> None:
    limit = 1 if len(term) == 4 else 2
    by_distance = sorted((Levenshtein.distance(term, known), known) for known in vocabulary)
    assert expand_unknown(term, vocabulary) == [known for distance, known in by_distance if 0 < distance <= limit][:3]
