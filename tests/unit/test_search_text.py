"""What a person types, the tokens of a text, and excerpts."""

from __future__ import annotations

import html
import time

import pytest
from hypothesis import given, strategies as st

from palaver.search.excerpt import excerpt, highlight
from palaver.search.text import MAX_PHRASE, MAX_TERMS, MAX_TOKEN, Term, parse, quoted, spans, tokens

TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=st.characters(max_codepoint=0x8FF)),
    st.text(alphabet='ab "*-+“”.\n', max_size=30),
    st.text(alphabet="がか\u3099ﾊﾟ각각ㄱㅏ가ﾡￂ\u200d\ufe0f👩é\u0301नी़ ", max_size=30),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Hello, World! don't", "hello world don t"),
        ("Müller, STRASSE Straße", "muller strasse strasse"),
        ("ISPARTA İstanbul ılık", "isparta istanbul ilik"),
        ("Café cafe\u0301 Œuvre", "cafe cafe oeuvre"),
        ("Łódź Øre Đà", "lodz ore da"),
        ("مُحَمَّد أحمد ٣", "محمد احمد 3"),
        ("שָׁלוֹם", "שלום"),
        ("हिन्दी में", "हिन्दी में"),
        ("東京タワー", "東 京 タ ワ ー"),
        ("ﾊﾟｿ", "パ ソ"),
        ("ハ\u309aソ", "パ ソ"),
        ("서울에서", "서 울 에 서"),
        ("ไทย", "ไ ท ย"),
        ("ລາວ ខ្មែរ မြ", "ລ າ ວ ខ ្ ម ែ រ မ ြ"),
        ("Ελλάδα ΟΔΟΣ οδός", "ελλαδα οδοσ οδοσ"),
        ("Ёлка", "елка"),
        ("ＦＵＬＬ　ｗｉｄｔｈ１", "full width1"),
        ("👍🏽ok 👩‍💻", "👍 🏽 ok 👩 💻"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zero width"),
        ("a_b x² ½", "a b x2 1 2"),
        ("\0\ud800x\uffff", "x"),
    ],
)
def test_tokens_are_words_without_case_and_accents(text: str, expected: str) -> None:
    assert expected.split() == tokens(text)


@given(TEXTS)
def test_spans_are_the_tokens_and_lie_in_order(text: str) -> None:
    found = spans(text)
    assert tokens(text) == [token.text for token in found]
    assert all(0 <= token.start < token.end <= len(text) for token in found)
    assert [token.start for token in found] == sorted(token.start for token in found)


@given(TEXTS)
def test_tokens_are_their_own_tokens(text: str) -> None:
    assert tokens(text) == tokens(" ".join(tokens(text)))


@given(TEXTS, TEXTS)
def test_tokens_of_texts_apart_are_the_tokens_of_each(one: str, other: str) -> None:
    assert [*tokens(one), *tokens(other)] == tokens(f"{one} {other}")


@pytest.mark.parametrize("piece", ["word ", "Ünï-", "東京", "각", "\u093c\u094d", "x\u0316\u0301", "か\u3099", "z"])
def test_long_texts_have_the_tokens_of_their_parts(piece: str) -> None:
    began = time.monotonic()
    found = tokens(piece * 100_000)
    # Not how fast it is, which depends on the machine: what takes quadratic time would take minutes.
    assert time.monotonic() - began < 120
    assert sorted("".join(tokens(piece)) * 100_000) == sorted("".join(found))
    assert max(map(len, found), default=0) <= MAX_TOKEN


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", []),
        ("Two Words", [Term(("two",)), Term(("words",))]),
        ('"a Phrase" x', [Term(("a", "phrase")), Term(("x",))]),
        ("“curly quotes” „low“ «french»", [Term(("curly", "quotes")), Term(("low",)), Term(("french",))]),
        ('"never closed', [Term(("never", "closed"))]),
        ("pre* inner*star *", [Term(("pre",), prefix=True), Term(("inner", "star"))]),
        ("a -b -\"c d\" -e*", [Term(("a",)), Term(("b",), without=True), Term(("c", "d"), without=True), Term(("e",), True, True)]),
        ("- a-b --verbose -", [Term(("a", "b")), Term(("verbose",))]),
        ("me@example.org", [Term(("me", "example", "org"))]),
        ("東京* タワー", [Term(("東", "京"), prefix=True), Term(("タ", "ワ", "ー"))]),
        ("AND OR NOT NEAR(a b)", [Term(("and",)), Term(("or",)), Term(("not",)), Term(("near", "a")), Term(("b",))]),
        ("^a {b c}: d + e", [Term(("a",)), Term(("b",)), Term(("c",)), Term(("d",)), Term(("e",))]),
        ("same same", [Term(("same",))]),
        ("?!. \0 \n\t", []),
    ],
)  # fmt: skip
def test_what_was_typed_becomes_terms(typed: str, expected: list[Term]) -> None:
    assert tuple(expected) == parse(typed)


@given(TEXTS)
def test_anything_typed_is_bounded_terms(typed: str) -> None:
    terms = parse(typed)
    assert len(terms) <= MAX_TERMS
    assert all(0 < len(term.tokens) <= MAX_PHRASE for term in terms)


def test_very_long_typing_is_cut() -> None:
    assert MAX_TERMS == len(parse(" ".join(f"w{number}" for number in range(100_000))))
    assert MAX_PHRASE == len(parse("東" * 100_000)[0].tokens)


@given(TEXTS)
def test_a_quoted_text_is_one_phrase_of_its_tokens(text: str) -> None:
    found = tokens(text)
    assert ([Term(tuple(found[:MAX_PHRASE]))] if found else []) == list(parse(quoted(text)))


@pytest.mark.parametrize(
    ("text", "typed", "expected"),
    [
        ("Die Straße nach Müllheim", "STRASSE müll*", "Die **Straße** nach **Müllheim**"),
        ("one two three two", '"two three" -one', "one **two three** two"),
        ("東京タワーへ", "京タ", "東**京タ**ワーへ"),
        ("cafe\u0301s and cafés", "cafe*", "**cafe\u0301s** and **cafés**"),
        ("👩‍💻 and 👍🏽", "👍", "👩‍💻 and **👍**🏽"),
        ("a\r\nb\tc\0d\u202ee", "c", "a b **c** de"),
        ("nothing here", "else", "nothing here"),
        ("", "x", ""),
    ],
)
def test_matches_are_marked(text: str, typed: str, expected: str) -> None:
    assert expected == highlight(text, typed)


def test_an_excerpt_is_cut_around_the_first_match() -> None:
    text = "filler " * 50 + "the needle is here " + "filler " * 50
    assert "…filler the **needle** is here filler filler…" == highlight(text, "needle", length=44)
    assert "filler filler…" == highlight(text, "missing", length=16)
    assert len(excerpt("x" * 1_000, "x*", length=20).text) <= 22


def test_a_page_may_embed_an_excerpt() -> None:
    marked = highlight("<b>bold</b> & <i>x</i>", "bold", marks=("<mark>", "</mark>"), escape=html.escape)
    assert "&lt;b&gt;<mark>bold</mark>&lt;/b&gt; &amp; &lt;i&gt;x&lt;/i&gt;" == marked


@given(TEXTS, TEXTS, st.integers(-1, 60))
def test_excerpts_never_fail_and_stay_near_their_length(text: str, typed: str, length: int) -> None:
    found = excerpt(text, typed, length=length)
    assert len(found.text) <= max(length, 1) + 2
    assert all(0 <= start < end <= len(found.text) for start, end in found.marks)
    assert not [character for character in found.text if character < " " or character == "\u202e"]
