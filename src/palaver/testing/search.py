"""The conformance suite of search indexes for text, filters and facets.

Subclass `SearchIndexTests` and give it the fixture `search`, a fresh index. Needs pytest-asyncio in auto mode.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from palaver.errors import ConfigError, NotProvisioned, PalaverError, Validation
from palaver.ports import SearchDoc, SearchFilter, SearchIndex, SearchQuery, SearchSpec
from palaver.search.text import parse, quoted, tokens
from palaver.values import Scalar

NOTES = SearchSpec("notes", ("title", "body"), {"kind": "text", "stamp": "int", "score": "float", "done": "bool", "people": "text"})
OWNED = SearchSpec("owned", ("body",), {"tenant": "text", "owner": "text", "stamp": "int"}, required=("tenant", "owner"))

# A text, what finds it, and what does not.
SCRIPTS = [
    ("english", "The quick brown fox didn't jump", ["QUICK fox", "didn't", "jum*", '"brown fox"'], ["quic", '"fox brown"', "jumping"]),
    ("german", "Müller wohnt in der Straße nach Österreich", ["muller", "MÜLLER", "strasse", "STRASSE", "oster*"], ["mueller"]),
    ("turkish", "İstanbul'da ılık bir gün, ISPARTA", ["istanbul", "İSTANBUL", "ILIK", "ilik", "ısparta", "gun"], ["ankara"]),
    ("french", "Où est l'élève? Cœur naïf, ça va", ["ou", "eleve", "ÉLÈVE", "coeur", "naif", "ca va", "e\u0301le\u0300ve"], ["lève*"]),
    ("vietnamese", "Tiếng Việt rất đẹp", ["tieng viet", "VIỆT", "dep"], ["vit"]),
    ("arabic", "اَلْعَرَبِيَّةُ لُغَةٌ جميلة، محـمد", ["العربية", "لغة", "جميله", "محمد"], ["عرب"]),
    ("hebrew", "שָׁלוֹם עֲלֵיכֶם", ["שלום", "עליכם", '"שלום עליכם"'], ["שלו"]),
    ("hindi", "मुझे हिन्दी में खोज करनी है", ["हिन्दी", "खोज करनी", "हिन्*"], ["हिन", "हन्दी"]),
    ("chinese", "我在東京吃寿司，很好吃", ["東京", "寿司", "好吃", "我在", '"吃寿司"'], ["京東", "上海"]),
    ("japanese", "東京タワーへﾊﾞｽで行きました", ["タワー", "バス", "東京", "行き", "ました"], ["京都", "ハス"]),
    ("korean", "서울에서 부산까지 기차로", ["서울", "서울에서", "부산", "\u1109\u1165\u110b\u116e\u11af"], ["산부", "대구"]),
    ("thai", "ฉันชอบกินข้าวผัดและน้ำส้ม", ["ข้าวผัด", "น้ำ", "กิน", "ฉัน"], ["ข้าวต้ม"]),
    ("lao, khmer, burmese", "ຂ້ອຍຮັກລາວ ខ្ញុំស្រលាញ់ខ្មែរ မြန်မာစာ", ["ລາວ", "ខ្មែរ", "မြန်မာ"], ["ໄທ"]),
    ("greek", "Ο Οδυσσέας στην Ελλάδα, ΟΔΟΣ", ["οδυσσεας", "ΟΔΥΣΣΈΑΣ", "οδος", "ελλαδα"], ["οδο"]),
    ("russian", "Ёлка и её подарки", ["елка", "ЁЛКА", "ее", "подар*"], ["подар"]),
    ("emoji", "Great job 👍🏽 from 👩‍💻, see ❤️", ["👍", "👍🏽", "👩‍💻", "💻", "❤", "❤️ job"], ["👎", "👨"]),
    ("full width", "ＡＢＣ　１２３ ｶﾅ ①", ["abc", "123", "カナ", "1"], ["12"]),
    ("mixed", "iPhone15を買った e-mail: a.b@c.de C++ 50%", ["iphone15", "買った", "a.b@c.de", "E-Mail", "c++", "50%"], ["b.a@c.de"]),
]  # fmt: skip

HOSTILE = [
    "AND", "OR", "NOT", "AND AND", "a AND", "NEAR", "NEAR(a b, 2)", "NEAR(", '"', '""', '"""', '" OR "', "'", "''", "'; DROP TABLE x; --",
    "*", "**", "* a", "^a", "^", "{", "}", "{a b}: c", "title: x", "title:", ": x", "body:*", "-", "--", "-a", "- -", '-"', '-"a b"',
    "a -", "(", ")", "((((", "a)", "+", "a + b", "a\0b", "\0", "\ud800", "\ufffe", "\\", "%", "_", "a%b", "?", ";", ",", "t0 : x",
    "keys : x",
    "/* x */", "<script>", "[a]", "a|b", "a&b", "!a", "~a", "a~1", "#a", "@a", "$1", "rowid", "rank", "x" * 100_000, "a " * 50_000,
    '"' * 10_000, "(" * 10_000, "-a " * 10_000, "a* " * 10_000, "東" * 10_000, "\u0301" * 10_000,
]  # fmt: skip


def doc(id: str, body: str = "", revision: int = 1, title: str = "", **filters: Scalar | Sequence[Scalar]) -> SearchDoc:
    return SearchDoc(id, revision, {"title": title, "body": body}, filters)


def equal(field: str, value: Scalar) -> SearchFilter:
    return SearchFilter(field, "==", value)


class SearchIndexTests:
    @pytest.fixture
    async def search(self) -> AsyncIterator[SearchIndex]:
        raise NotImplementedError("a subclass gives the fixture `search`")
        yield  # noqa: PT022 - it makes this an async generator, as the fixtures that replace it are

    @pytest.fixture(autouse=True)
    async def _applied(self, search: SearchIndex) -> None:
        await search.apply([NOTES, OWNED])

    async def found(self, search: SearchIndex, text: str = "", *filters: SearchFilter, **asked: Any) -> list[str]:
        """Return the ids found in `notes`, in order of ids."""
        await search.visible("notes")
        page = await search.search("notes", SearchQuery(text, filters, limit=1_000, **asked))
        assert page.total == len(page.hits)
        return sorted(hit.id for hit in page.hits)

    # --- words ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("typed", "expected"),
        [
            ("", ["a", "b", "c", "d"]),
            ("?!", ["a", "b", "c", "d"]),
            ("cats", ["a", "b", "c"]),
            ("cats dogs", ["a", "b"]),
            ("dogs cats", ["a", "b"]),
            ('"cats and dogs"', ["a"]),
            ('"cats dogs"', []),
            ('"and dogs" cats', ["a"]),
            ("cat", []),
            ("cat*", ["a", "b", "c", "d"]),
            ("cats dog*", ["a", "b"]),
            ('"dogs or cat"', []),
            ('"dogs or" cat*', ["b"]),
            ("or cat*", ["b"]),
            ("or-cats", ["b"]),
            ("dogs-or-cat*", ["b"]),
            ("cats -dogs", ["c"]),
            ("-dogs", ["c", "d"]),
            ("-dogs -birds", ["d"]),
            ('cats -"and dogs"', ["b", "c"]),
            ("cat* -cats", ["d"]),
            ("-cat*", []),
            ("cats -cat*", []),
            ("missing", []),
            ("cats missing", []),
        ],
    )
    async def test_words_phrases_prefixes_and_exclusions(self, search: SearchIndex, typed: str, expected: list[str]) -> None:
        texts = {"a": "Cats and dogs.", "b": "dogs or cats", "c": "CATS, birds", "d": "category"}
        await search.put("notes", [doc(id, text) for id, text in texts.items()])
        assert expected == await self.found(search, typed)

    async def test_words_may_be_in_different_fields_and_phrases_may_not(self, search: SearchIndex) -> None:
        await search.put("notes", [doc("a", "dogs bark", title="cats and"), doc("b", "nothing")])
        assert ["a"] == await self.found(search, "cats dogs")
        assert [] == await self.found(search, '"and dogs"')
        assert ["b"] == await self.found(search, "-cats")
        assert ["b"] == await self.found(search, "-bark")

    @pytest.mark.parametrize(("text", "finding", "missing"), [case[1:] for case in SCRIPTS], ids=[case[0] for case in SCRIPTS])
    async def test_every_script_is_found(self, search: SearchIndex, text: str, finding: list[str], missing: list[str]) -> None:
        await search.put("notes", [doc(f"{number}", case[1]) for number, case in enumerate(SCRIPTS)])
        wanted = str([case[1] for case in SCRIPTS].index(text))
        assert [] == [typed for typed in (text, quoted(text), *finding) if wanted not in await self.found(search, typed)]
        assert [] == [typed for typed in missing if wanted in await self.found(search, typed)]

    async def test_the_better_match_comes_first(self, search: SearchIndex) -> None:
        docs = [doc(f"other{number}", "filler words about nothing at all") for number in range(10)]
        docs += [doc("often", "coffee coffee beans"), doc("once", "coffee " + "and many other words " * 5), doc("both", "coffee milk")]
        await search.put("notes", docs)
        page = await search.search("notes", SearchQuery("coffee"))
        assert "once" == page.hits[-1].id
        assert [hit.score for hit in page.hits] == sorted((hit.score for hit in page.hits), reverse=True)
        assert all(hit.score > 0 for hit in page.hits)

    async def test_long_documents_are_found_by_everything_in_them(self, search: SearchIndex) -> None:
        """Beyond what engines keep of a long text: places after the 16,383rd, the 257th of a word, a megabyte of different words."""
        many = " ".join(f"w{number}" for number in range(40_000))
        huge = " ".join(f"{'long' * 12}{number}" for number in range(25_000))
        texts = {"many": f"{many} last words of many", "often": "again and " * 20_000 + "again at last", "huge": f"{huge} end of all"}
        await search.put("notes", [*(doc(id, text, kind=id) for id, text in texts.items()), doc("short", "words of another kind")])
        assert ["many"] == await self.found(search, '"last words" w39999')
        assert ["many", "short"] == await self.found(search, '"words of" -again')
        assert ["often"] == await self.found(search, '"again at last"')
        assert [] == await self.found(search, '"again at again"')
        assert ["huge"] == await self.found(search, f'"end of" {"long" * 12}24999 longlong*')
        assert ["huge"] == await self.found(search, "end -words", equal("kind", "huge"))
        assert [] == await self.found(search, "end", equal("kind", "many"))
        await search.put("notes", [doc(id, "short now", 2) for id in texts])
        assert sorted(texts) == await self.found(search, '"short now"')
        assert [] == await self.found(search, "end")

    async def test_long_ids_and_filter_values_are_whole(self, search: SearchIndex) -> None:
        long = "".join(chr(number * number * 7 % 20_000 + 33) for number in range(3_000))  # does not compress
        ids = [f"{long}{end}" for end in "ba"] + [long[:700], long[:600], "z"]
        await search.put("notes", [doc(id, "word", kind=f"{long}{id[-1]}", people=[f'{long}"{id[-1]}', "x"]) for id in ids])
        assert [(id, 1) for id in sorted(ids)] == await search.ids("notes", "", 10)
        assert [(id, 1) for id in sorted(ids)[2:]] == await search.ids("notes", sorted(ids)[1], 10)
        assert ids[:1] == await self.found(search, "word", equal("kind", f"{long}b"), equal("people", f'{long}"b'))
        await search.delete("notes", ids[:1])
        assert sorted(ids[1:]) == await self.found(search)

    # --- filters ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ([("kind", "==", "x")], ["a", "b"]),
            ([("kind", "==", "X")], []),
            ([("kind", "in", ["x", "y"])], ["a", "b", "c"]),
            ([("kind", "in", [])], []),
            ([("kind", ">", "x")], ["c", "é"]),
            ([("stamp", "==", 2)], ["b"]),
            ([("stamp", ">=", 2)], ["b", "c"]),
            ([("stamp", ">", 2)], ["c"]),
            ([("stamp", "<=", 2)], ["a", "b", "é"]),
            ([("stamp", "<", 2)], ["a", "é"]),
            ([("stamp", ">=", 1), ("stamp", "<", 3)], ["a", "b"]),
            ([("score", ">", 0.5)], ["b", "c"]),
            ([("score", "==", 1)], ["c"]),
            ([("done", "==", True)], ["a"]),
            ([("done", "==", False)], ["b"]),
            ([("done", "in", [True, False])], ["a", "b"]),
            ([("people", "==", "Ann")], ["a", "b"]),
            ([("people", "==", "Bob")], ["a", "c"]),
            ([("people", "==", "Ann"), ("people", "==", "Bob")], ["a"]),
            ([("people", "in", ["Bob", "Nobody"])], ["a", "c"]),
            ([("people", ">=", "B")], ["a", "c"]),
            ([("people", "==", "Bob"), ("kind", "==", "x")], ["a"]),
        ],
    )
    async def test_filters(self, search: SearchIndex, filters: list[tuple[str, Any, Any]], expected: list[str]) -> None:
        await search.put(
            "notes",
            [
                doc("a", "word one", kind="x", stamp=1, score=0.5, done=True, people=["Ann", "Bob", "Ann"]),
                doc("b", "word two", kind="x", stamp=2, score=0.75, done=False, people="Ann"),
                doc("c", "word three", kind="y", stamp=3, score=1, people=["Bob", "Cid"]),
                doc("d", "word four", people=[]),
                doc("é", "word five", kind="é", stamp=-(2**63)),
            ],
        )
        wanted = [SearchFilter(*one) for one in filters]
        for text in ("", "word", "-missing"):
            assert sorted(expected) == await self.found(search, text, *wanted)

    @pytest.mark.parametrize(
        ("filters", "asked"),
        [
            ([("missing", "==", "x")], {}),
            ([("title", "==", "x")], {}),
            ([("kind", "==", 1)], {}),
            ([("kind", "==", b"x")], {}),
            ([("kind", "==", ["x"])], {}),
            ([("kind", "==", "x\0")], {}),
            ([("kind", "==", "\ud800")], {}),
            ([("kind", "!=", "x")], {}),
            ([("kind", "in", [1])], {}),
            ([("kind", "in", ["x"] * 2_000)], {}),
            ([("stamp", "==", "1")], {}),
            ([("stamp", "==", True)], {}),
            ([("stamp", "==", 1.5)], {}),
            ([("stamp", "==", 2**63)], {}),
            ([("score", "==", float("nan"))], {}),
            ([("done", "==", 1)], {}),
            ([], {"facets": ("missing",)}),
            ([], {"newest_first": "missing"}),
            ([], {"limit": -1}),
            ([], {"offset": -1}),
        ],
    )
    async def test_queries_that_make_no_sense_are_not_valid(self, search: SearchIndex, filters: list[Any], asked: dict[str, Any]) -> None:
        with pytest.raises(Validation):
            await search.search("notes", SearchQuery("x", tuple(SearchFilter(*one) for one in filters), **asked))

    @pytest.mark.parametrize(
        "wrong",
        [doc(""), doc("a\0"), doc("\ud800"), doc("a", missing=1), doc("a", kind=1), doc("a", stamp=2**63), doc("a", score=float("inf")),
         doc("a", done=1), doc("a", people=["x", 1]), doc("a", revision=2**63), SearchDoc("a", 1, {"missing": "x"}, {})],
    )  # fmt: skip
    async def test_documents_that_do_not_fit_are_not_valid(self, search: SearchIndex, wrong: SearchDoc) -> None:
        with pytest.raises(Validation):
            await search.put("notes", [wrong])
        assert [] == await self.found(search)

    async def test_required_filters_must_name_values(self, search: SearchIndex) -> None:
        await search.put(
            "owned",
            [
                SearchDoc(f"{t}{o}{n}", n, {"body": f"word {n}"}, {"tenant": t, "owner": o, "stamp": n})
                for t in "st"
                for o in "uv"
                for n in range(20)
            ],
        )
        tenant, owner = equal("tenant", "t"), equal("owner", "u")
        wrong: list[tuple[SearchFilter, ...]] = [(), (tenant,), (owner,), (tenant, SearchFilter("owner", ">=", ""))]
        for filters in wrong:
            with pytest.raises(Validation):
                await search.search("owned", SearchQuery("word", filters))
        for text, total in (("word", 20), ("", 20), ("word -3", 19), ("-3", 19), ("7", 1), ("missing", 0)):
            page = await search.search("owned", SearchQuery(text, (tenant, owner), limit=5, facets=("owner",)))
            assert total == page.total
            assert {"owner": {"u": total} if total else {}} == page.facets
            assert {"tu"} >= {hit.id[:2] for hit in page.hits}
        both = SearchFilter("owner", "in", ["u", "v", "w"])
        assert 2 == (await search.search("owned", SearchQuery("7", (tenant, both)))).total
        assert 0 == (await search.search("owned", SearchQuery("7", (tenant, SearchFilter("owner", "in", []))))).total
        assert 0 == (await search.search("owned", SearchQuery("word", (equal("tenant", "nobody"), owner)))).total

    # --- pages and facets -------------------------------------------------------------------------------------------

    async def test_facets_count_all_matches_by_value(self, search: SearchIndex) -> None:
        await search.put(
            "notes",
            [
                doc("a", "word", kind="x", stamp=1, done=True, people=["Ann", "Bob", "Ann"]),
                doc("b", "word", kind="x", stamp=2, done=False, people="Ann"),
                doc("c", "word", kind="y", stamp=1),
                doc("d", "other", kind="x", stamp=1, people=["Cid", "Bob"]),
            ],
        )
        page = await search.search("notes", SearchQuery("word", facets=("kind", "stamp", "done", "people"), limit=0))
        assert ((), 3) == (tuple(page.hits), page.total)
        assert {"kind": {"x": 2, "y": 1}, "stamp": {1: 2, 2: 1}, "done": {True: 1, False: 1}, "people": {"Ann": 2, "Bob": 1}} == page.facets
        assert ["x", "y"] == list(page.facets["kind"])
        assert all(isinstance(value, bool) for value in page.facets["done"])
        page = await search.search("notes", SearchQuery(facets=("people",), filters=(equal("kind", "x"), equal("people", "Bob"))))
        assert {"people": {"Bob": 2, "Ann": 1, "Cid": 1}} == page.facets
        assert {"people": {}} == (await search.search("notes", SearchQuery("missing", facets=("people",)))).facets

    @pytest.mark.parametrize("asked", [{}, {"text": "word"}, {"newest_first": "stamp"}, {"text": "word", "newest_first": "stamp"}])
    async def test_pages_follow_each_other_without_gaps(self, search: SearchIndex, asked: dict[str, Any]) -> None:
        await search.put("notes", [doc(f"{number:03d}", "word", stamp=number // 3) for number in range(50)])
        whole = await search.search("notes", SearchQuery(**asked, limit=100))
        paged = [await search.search("notes", SearchQuery(**asked, limit=7, offset=offset)) for offset in range(0, 63, 7)]
        assert [hit.id for hit in whole.hits] == [hit.id for page in paged for hit in page.hits]
        assert [50] * 9 == [page.total for page in paged]

    async def test_newest_first_is_by_the_field_and_then_by_id(self, search: SearchIndex) -> None:
        stamps = {"a": 1, "b": 3, "c": 2, "d": 3, "e": -5}
        await search.put("notes", [*(doc(id, "word", stamp=stamp) for id, stamp in stamps.items()), doc("none", "word")])
        for text in ("", "word", "-missing"):
            page = await search.search("notes", SearchQuery(text, newest_first="stamp"))
            assert ["b", "d", "c", "a", "e", "none"] == [hit.id for hit in page.hits]
        by_text = await search.search("notes", SearchQuery("", newest_first="kind"))
        assert sorted([*stamps, "none"]) == [hit.id for hit in by_text.hits]

    # --- revisions and deletes --------------------------------------------------------------------------------------

    async def test_only_a_newer_revision_replaces(self, search: SearchIndex) -> None:
        await search.put("notes", [doc("a", "second", 2, kind="new", people=["x", "y"])])
        for revision in (1, 2):
            await search.put("notes", [doc("a", "first", revision, kind="old")])
            assert ["a"] == await self.found(search, "second", equal("kind", "new"), equal("people", "y"))
            assert [] == await self.found(search, "first")
        await search.put("notes", [doc("a", "third", 3, kind="newer", people=["z", "y"])])
        assert ["a"] == await self.found(search, "third", equal("kind", "newer"), equal("people", "z"))
        assert [] == await self.found(search, "second")
        assert [] == await self.found(search, "", equal("people", "x"))
        await search.put("notes", [doc("a", "third", 4, kind="newest")])
        assert ["a"] == await self.found(search, "third", equal("kind", "newest"))
        assert [] == await self.found(search, "", equal("people", "y"))
        assert [("a", 4)] == await search.ids("notes", "", 10)

    async def test_of_one_id_put_twice_at_once_the_newest_stays(self, search: SearchIndex) -> None:
        await search.put("notes", [doc("a", "one", 1), doc("a", "three", 3), doc("a", "two", 2), doc("a", "again", 3)])
        assert ["a"] == await self.found(search, "three")
        assert [] == await self.found(search, "one")
        assert [("a", 3)] == await search.ids("notes", "", 10)

    async def test_many_changes_of_many_documents_are_all_found(self, search: SearchIndex) -> None:
        await search.put("notes", [doc(f"{number:03d}", f"before w{number}", 1) for number in range(150)])
        await search.put("notes", [doc(f"{number:03d}", f"after w{number}", 2, kind="x") for number in range(0, 200, 2)])
        assert 75 == len(await self.found(search, "before"))
        assert 100 == len(await self.found(search, "after", equal("kind", "x")))
        await search.delete("notes", [f"{number:03d}" for number in range(0, 200, 4)])
        assert 50 == len(await self.found(search, "after"))
        assert ["001"] == await self.found(search, "w1")
        assert [] == await self.found(search, "w4")

    async def test_deleted_documents_are_gone_and_may_come_back(self, search: SearchIndex) -> None:
        await search.put("notes", [doc("a", "word", 5, people=["x", "y"]), doc("b", "word", 5)])
        await search.delete("notes", ["a", "missing", "a"])
        await search.delete("notes", [])
        assert ["b"] == await self.found(search, "word")
        assert [] == await self.found(search, "", equal("people", "x"))
        assert [("b", 5)] == await search.ids("notes", "", 10)
        await search.put("notes", [doc("a", "word again", 1)])
        assert ["a"] == await self.found(search, "again")

    async def test_ids_come_in_order_with_their_revisions(self, search: SearchIndex) -> None:
        ids = [f"{number:03d}" for number in range(20)] + ["A", "a", "é"]
        await search.put("notes", [doc(id, "word", number) for number, id in enumerate(ids)])
        seen: list[tuple[str, int]] = []
        while page := await search.ids("notes", seen[-1][0] if seen else "", 6):
            seen += page
        assert [(id, ids.index(id)) for id in sorted(ids)] == seen

    # --- hostile input ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("typed", HOSTILE, ids=lambda typed: ascii(typed)[:20])
    async def test_no_input_breaks_a_search(self, search: SearchIndex, typed: str) -> None:
        await search.put("notes", [doc("itself", typed), doc("other", "nothing of this kind")])
        await search.search("notes", SearchQuery(typed, facets=("kind",)))
        await search.search("notes", SearchQuery(typed, newest_first="stamp"))
        assert ("itself" in await self.found(search, quoted(typed))) or not tokens(typed)
        if not [term for term in parse(typed) if term.without]:
            assert "itself" in await self.found(search, typed)
        assert ["other"] == await self.found(search, "nothing")

    async def test_naughty_strings_find_themselves(self, search: SearchIndex, shared_data: Path) -> None:
        file = shared_data / "hostile" / "naughty-strings.jsonl"
        if not file.exists():
            pytest.skip("no naughty strings in the shared data")
        texts = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").split("\n") if line]
        await search.put("notes", [doc(f"{number}", text, people=["x", "y"]) for number, text in enumerate(texts)])
        for number, text in enumerate(texts):
            page = await search.search("notes", SearchQuery(quoted(text), limit=1_000))
            assert str(number) in [hit.id for hit in page.hits]
            page = await search.search("notes", SearchQuery(text, limit=1_000))
            if not [term for term in parse(text) if term.without]:
                assert str(number) in [hit.id for hit in page.hits]

    async def test_naughty_filter_values_are_values(self, search: SearchIndex) -> None:
        values = ["x", "", " ", "%", "_", "'", '"', "NULL", "0", "x' OR '1'='1", "é", "e\u0301", "\u202e", "😀", "[1]", "{}"]
        await search.put("notes", [doc(f"{number}", "word", kind=value, people=[value, "all"]) for number, value in enumerate(values)])
        for number, value in enumerate(values):
            assert [str(number)] == await self.found(search, "word", equal("kind", value))
            assert [str(number)] == await self.found(search, "", equal("people", value))

    async def test_errors_do_not_tell_what_was_typed_or_stored(self, search: SearchIndex) -> None:
        errors: list[PalaverError] = []
        for attempt in (
            search.put("notes", [doc("canary", "canary", kind=17)]),
            search.put("notes", [doc("canary\0", "canary")]),
            search.search("notes", SearchQuery("canary", (equal("stamp", "canary"),))),
            search.search("owned", SearchQuery("canary", (equal("tenant", "canary"),))),
        ):
            with pytest.raises(PalaverError) as caught:
                await attempt
            errors.append(caught.value)
        assert not [error for error in errors if "canary" in f"{error} {error.context}"]

    # --- versions ---------------------------------------------------------------------------------------------------

    async def test_a_new_declaration_is_filled_beside_the_old_one(self, search: SearchIndex) -> None:
        await search.activate("notes")
        await search.put("notes", [doc("a", "old text", kind="x"), doc("b", "gone")])
        changed = SearchSpec("notes", ("body",), {"kind": "text"})
        assert ["notes", "owned"] == sorted(await search.apply([changed, OWNED]))
        assert ["a"] == await self.found(search, "old")
        assert [] == await search.ids("notes", "", 10)
        with pytest.raises(Validation):
            await search.put("notes", [doc("c", "fits the old one only", stamp=1)])
        await search.put("notes", [SearchDoc("c", 1, {"body": "meanwhile"}, {"kind": "y"})])
        await search.delete("notes", ["b"])
        assert ["a", "c"] == await self.found(search)
        assert ["notes", "owned"] == sorted(await search.apply([changed, OWNED]))
        await search.put("notes", [SearchDoc("a", 1, {"body": "filled"}, {"kind": "x"})])
        assert [("a", 1), ("c", 1)] == await search.ids("notes", "", 10)
        assert ["a"] == await self.found(search, "old")
        await search.activate("notes")
        await search.activate("notes")
        assert ["a", "c"] == await self.found(search)
        assert ["a"] == await self.found(search, "filled")
        assert [] == await self.found(search, "old")
        assert ["owned"] == await search.apply([changed, OWNED])
        assert ["a", "c"] == await self.found(search)

    async def test_a_declaration_that_comes_back_is_the_old_one_and_one_that_goes_is_unknown(self, search: SearchIndex) -> None:
        await search.activate("notes")
        await search.put("notes", [doc("a", "text")])
        changed = SearchSpec("notes", ("body",), {})
        assert ["notes"] == await search.apply([changed])
        await search.put("notes", [SearchDoc("b", 1, {"body": "both"}, {})])
        assert [] == await search.apply([NOTES])
        assert ["a", "b"] == await self.found(search)
        assert ["notes"] == await search.apply([changed])
        assert [] == await search.ids("notes", "", 10)
        assert [] == await search.apply([])
        for attempt in (search.search("notes", SearchQuery()), search.put("notes", [doc("a")]), search.ids("notes", "", 1)):
            with pytest.raises(NotProvisioned):
                await attempt
        assert ["notes"] == await search.apply([NOTES])
        assert [] == await self.found(search)

    async def test_an_unknown_index_is_not_provisioned(self, search: SearchIndex) -> None:
        for attempt in (
            search.put("missing", []),
            search.delete("missing", []),
            search.search("missing", SearchQuery()),
            search.ids("missing", "", 1),
            search.visible("missing"),
            search.activate("missing"),
        ):
            with pytest.raises(NotProvisioned):
                await attempt

    @pytest.mark.parametrize(
        "wrong",
        [
            SearchSpec("", ("a",), {}),
            SearchSpec('x"; --', ("a",), {}),
            SearchSpec("x", (), {"a": "text"}),
            SearchSpec("x", ("a",), {"a": "text"}),
            SearchSpec("x", ("a", "a"), {}),
            SearchSpec("x", ("a",), {}, required=("b",)),
        ],
    )
    async def test_a_declaration_that_cannot_be_built_is_refused(self, search: SearchIndex, wrong: SearchSpec) -> None:
        with pytest.raises(ConfigError):
            await search.apply([wrong])

    async def test_a_closed_index_refuses_everything(self, search: SearchIndex) -> None:
        await search.aclose()
        await search.aclose()
        for attempt in (
            search.put("notes", []),
            search.delete("notes", []),
            search.search("notes", SearchQuery()),
            search.ids("notes", "", 1),
            search.visible("notes"),
            search.apply([]),
            search.activate("notes"),
        ):
            with pytest.raises(ConfigError):
                await attempt
