"""The tables of one search index in SQLite, and the statements over them. Pure: builds SQL, runs none.

`search.<name>@<version>` holds one row a document: id, revision, filter values, and its tokens; `…:text` is the FTS5 index over
those tokens; `…:many` the values of filters that have several. The tokens are kept because FTS5 can only forget a text
it is shown again, and forgetting is a promise: a contentless index keeps the words of deleted documents until it merges.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias

from palaver.ports import SearchDoc, SearchQuery, SearchSpec
from palaver.search.rules import MAX_FACET_VALUES, Asked, Stored, Wanted, filters_of, key_of, version_of
from palaver.search.text import Term, tokens

Statement: TypeAlias = "tuple[str, tuple[Stored, ...]]"

REGISTRY = '"search.indexes"'
_COLUMN = {"text": "TEXT", "int": "INTEGER", "bool": "INTEGER", "float": "REAL"}


class Row(NamedTuple):
    """A document made ready: everything that takes time is done before the writer is asked.

    `words` are the tokens of each text field, and last the keys of its required filters.
    """

    id: str
    revision: int
    values: tuple[Stored | None, ...]
    words: tuple[str, ...]
    many: tuple[tuple[int, Stored], ...]

    @property
    def size(self) -> int:
        return 4 * sum(map(len, self.words))


class Layout:
    def __init__(self, spec: SearchSpec) -> None:
        self.spec = spec
        self.version = version_of(spec)
        name = f"search.{spec.name}@{self.version}"
        self.docs, self.text, self.many = f'"{name}"', f'"{name}:text"', f'"{name}:many"'
        self.blocks = f'"{name}:text_data"'
        self.columns = {field: f"f{number}" for number, field in enumerate(spec.filters)}
        self.numbers = {field: number for number, field in enumerate(spec.filters)}
        self.texts = [f"t{number}" for number in range(len(spec.text))]
        self.words = [*self.texts, "keys"]
        self._weights = ", ".join([*("1.0" for _ in self.texts), "0.0"])

    @cached_property
    def ddl(self) -> list[str]:
        required = [self.columns[field] for field in self.spec.required]
        filters = "".join(f", {self.columns[field]} {_COLUMN[kind]}" for field, kind in self.spec.filters.items())
        words = "".join(f", {column} TEXT NOT NULL" for column in self.words)
        own = [self.columns[field] for field, kind in self.spec.filters.items() if field not in self.spec.required and kind != "bool"]
        indexed = [[*required, column] for column in own] or ([required] if required else [])
        plain = self.docs.strip('"')
        return [
            f"CREATE TABLE {self.docs} (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL{filters}{words})",
            f"CREATE TABLE {self.many} (field INTEGER NOT NULL, value NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (field, value, n)) "
            "WITHOUT ROWID",
            f'CREATE INDEX "{plain}:many n" ON {self.many} (n, field, value)',
            *(f'CREATE INDEX "{plain} {" ".join(columns)}" ON {self.docs} ({", ".join(columns)})' for columns in indexed),
            # The tokens are separated by spaces and hold no ASCII but letters and digits: `ascii` takes them as they are, where
            # `unicode61` would cut them again, at the vowel signs of Hindi, and differently with each version.
            f"CREATE VIRTUAL TABLE {self.text} USING fts5({', '.join(self.words)}, content={self.docs}, content_rowid=n, tokenize=ascii)",
            *(f"INSERT INTO {self.text} ({self.text}, rank) VALUES ('{option}', {value})" for option, value in _OPTIONS),
        ]

    def row(self, doc: SearchDoc) -> Row:
        values = filters_of(self.spec, doc)
        texts = [" ".join(tokens(doc.text.get(field, ""))) for field in self.spec.text]
        keys = " ".join(key_of(field, value) for field in self.spec.required for value in values.get(field, ()))
        return Row(
            doc.id,
            doc.revision,
            tuple(found[0] if len(found := values.get(field, ())) == 1 else None for field in self.spec.filters),
            (*texts, keys),
            tuple((self.numbers[field], value) for field, found in values.items() if len(found) > 1 for value in found),
        )

    @cached_property
    def insert_doc(self) -> str:
        columns = ["revision", *self.columns.values(), *self.words, "n", "id"]
        return f"INSERT INTO {self.docs} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"

    @cached_property
    def update_doc(self) -> str:
        columns = ["revision", *self.columns.values(), *self.words]
        return f"UPDATE {self.docs} SET {', '.join(f'{column} = ?' for column in columns)} WHERE n = ?"

    @cached_property
    def select_docs(self) -> str:
        """Find documents by a JSON array of ids."""
        return f"SELECT id, n, revision, {', '.join(self.words)} FROM {self.docs} WHERE id IN (SELECT value FROM json_each(?))"

    @cached_property
    def insert_text(self) -> str:
        columns = ["rowid", *self.words]
        return f"INSERT INTO {self.text} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"

    # --- searching --------------------------------------------------------------------------------------------------

    def few(self, question: Asked) -> Statement:
        """Ask whether the documents that pass the required filters are less than an eighth of all."""
        where, binds = self._filtered([one for one in question.filters if one.field in self.spec.required], (), driven=True)
        eighth = f"(SELECT coalesce(max(n), 0) / 8 FROM {self.docs})"
        return f"SELECT count(*) < {eighth} FROM (SELECT 1 FROM {self.docs} AS d WHERE {where} LIMIT {eighth})", binds

    def hits(self, question: Asked, query: SearchQuery, many: Collection[str], *, by_key: bool) -> Statement:
        source, where, binds = self._source(question, many, by_key=by_key)
        score = f"-bm25({self.text}, {self._weights})" if question.terms else "0.0"
        order = f"d.{self.columns[query.newest_first]} DESC" if query.newest_first else "score DESC"
        sql = f"SELECT d.id, {score} AS score FROM {source} WHERE {where} ORDER BY {order}, d.id LIMIT ? OFFSET ?"
        return sql, (*binds, query.limit, query.offset)

    def total(self, question: Asked, many: Collection[str], *, by_key: bool) -> Statement:
        source, where, binds = self._source(question, many, by_key=by_key)
        return f"SELECT count(*) FROM {source} WHERE {where}", binds

    def facets(self, field: str, question: Asked, many: Collection[str], *, by_key: bool) -> list[Statement]:
        """Return what counts the documents by value: one statement for those with one value, one for those with several."""
        source, where, binds = self._source(question, many, by_key=by_key)
        column = f"d.{self.columns[field]}"
        order = f"ORDER BY 2 DESC, 1 LIMIT {MAX_FACET_VALUES}"
        one = f"SELECT {column}, count(*) FROM {source} WHERE {where} AND {column} IS NOT NULL GROUP BY 1 {order}"
        several = (
            f"SELECT m.value, count(*) FROM {source} JOIN {self.many} AS m ON m.n = d.n AND m.field = {self.numbers[field]} "
            f"WHERE {where} GROUP BY 1 {order}"
        )
        return [(one, binds), (several, binds)] if field in many else [(one, binds)]

    def _source(self, question: Asked, many: Collection[str], *, by_key: bool) -> tuple[str, str, tuple[Stored, ...]]:
        """Return FROM, WHERE and what is bound. Where words are asked for, they lead, and rows are looked up by them."""
        where, binds = self._filtered(question.filters, many, driven=not question.terms)
        if question.terms:
            keys = [one for one in question.filters if one.field in self.spec.required and one.op in ("==", "in")] if by_key else []
            match = " AND ".join([*map(_key_match, keys), self._words(question.terms, "AND")])
            if question.without:
                match += f" NOT {self._words(question.without, 'OR')}"
            return (
                f"{self.text} CROSS JOIN {self.docs} AS d ON d.n = {self.text}.rowid",
                f"{self.text} MATCH ? AND {where}",
                (match, *binds),
            )
        if question.without:
            where = f"d.n NOT IN (SELECT rowid FROM {self.text} WHERE {self.text} MATCH ?) AND {where}"
            binds = (self._words(question.without, "OR"), *binds)
        return f"{self.docs} AS d", where, binds

    def _filtered(self, filters: Sequence[Wanted], many: Collection[str], *, driven: bool) -> tuple[str, tuple[Stored, ...]]:
        """Return the condition of filters. `driven`: they lead, so that fields of several values are looked up by value."""
        parts, binds = ["1"], list[Stored]()
        for one in filters:
            column = f"d.{self.columns[one.field]}"
            compare = _compare(one)
            parts.append(f"{column} {compare}")
            binds += one.values
            if one.field in many:
                several = f"FROM {self.many} AS m WHERE m.field = {self.numbers[one.field]} AND m.value {compare}"
                if driven:
                    alone = f"SELECT n FROM {self.docs} AS d WHERE {column} {compare}"
                    parts[-1] = f"d.n IN ({alone} UNION ALL SELECT m.n {several})"
                else:
                    parts[-1] = f"({column} {compare} OR EXISTS (SELECT 1 {several} AND m.n = d.n))"
                binds += one.values
        return " AND ".join(parts), tuple(binds)

    def _words(self, terms: Sequence[Term], operator: str) -> str:
        return f"{{{' '.join(self.texts)}}} : ({f' {operator} '.join(map(_quoted, terms))})"


# Every word to forget rewrites the page it is on, so that small pages are twice as fast, and searching them no slower (seen).
# Merging is done in small steps between writes (`sqlite.py`), not inside of them, where it would hold up the writer.
_OPTIONS = (("secure-delete", 1), ("pgsz", 1_000), ("automerge", 0), ("crisismerge", 64))


def _key_match(one: Wanted) -> str:
    found = " OR ".join(f'"{key_of(one.field, value)}"' for value in one.values)
    # An empty "in" matches nothing; its condition on the rows says so, and FTS5 has no word for it.
    return f"keys : ({found})" if found else 'keys : "nothing"'


def _quoted(term: Term) -> str:
    words = " ".join(term.tokens).replace('"', " ")
    return f'"{words}" *' if term.prefix else f'"{words}"'


def _compare(one: Wanted) -> str:
    return f"IN ({', '.join('?' * len(one.values))})" if one.op == "in" else f"{'=' if one.op == '==' else one.op} ?"
