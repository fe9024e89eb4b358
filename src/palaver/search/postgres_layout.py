"""The table of one search index in PostgreSQL, and the statements over it. Pure: builds SQL, runs none.

One row a document. `lexemes` (a tsvector without positions, under GIN) holds each token once, and a key for each value of the
text and bool filters, so that words and filters meet in one look-up. `body` holds the tokens as they follow each other, each
between two spaces: phrases are looked for in it and occurrences counted, because a tsvector forgets positions beyond 16,383
and more than 256 of a word. A document whose distinct tokens are more than a tsvector takes is `long`: it is read instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

from palaver.ports import SearchDoc, SearchQuery, SearchSpec
from palaver.search.rules import MAX_FACET_VALUES, Asked, Stored, Wanted, filters_of, key_of
from palaver.search.text import Term, tokens

_COLUMN = {"text": 'text COLLATE "C"', "int": "bigint", "bool": "bigint", "float": "double precision"}
_ARRAY = {"text": 'text[] COLLATE "C"', "int": "bigint[]", "bool": "bigint[]", "float": "double precision[]"}
_TYPE = {"text": "text", "int": "bigint", "bool": "bigint", "float": "double precision"}

# A tsvector takes 1,048,575 bytes of lexemes.
_MAX_LEXEMES = 1_000_000

# Documents are ordered by the beginning of their ids, which a B-tree can hold, and told apart by a hash of the whole.
_HEAD = 600

# A word that is in more documents than this is not rare; counting further takes longer than the search.
_MAX_COUNTED = 1_000
_K1, _B = 1.2, 0.75


class Binds(list[Any]):
    """The values of a statement; calling it with another one returns the placeholder, with its type."""

    def __call__(self, value: object, kind: str) -> str:
        self.append(value)
        return f"${len(self)}::{kind}"


class Statement(NamedTuple):
    text: str
    values: Sequence[Any]


class Registry:
    """The two tables of a database schema that say which indexes there are, and in which versions."""

    def __init__(self, schema: str) -> None:
        self.schema = '"' + schema.replace('"', '""') + '"'
        self.indexes = f'{self.schema}."search.indexes"'
        self.versions = f'{self.schema}."search.versions"'
        self.ddl = [
            f'CREATE TABLE IF NOT EXISTS {self.indexes} (name text COLLATE "C" PRIMARY KEY, active bigint, filling bigint)',
            f"CREATE TABLE IF NOT EXISTS {self.versions} (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, spec text NOT NULL, "
            "version text NOT NULL, docs bigint NOT NULL DEFAULT 0, tokens bigint NOT NULL DEFAULT 0)",
        ]


class Layout:
    """An index version; its number is never used again, so that what is known of it stays true."""

    def __init__(self, registry: Registry, number: int, spec: SearchSpec, version: str) -> None:
        self.number = number
        self.spec = spec
        self.version = version
        self.plain = f"search.{number}.{spec.name[:30]}"
        self.docs = f'{registry.schema}."{self.plain}"'
        self.versions = registry.versions
        self.columns = {field: f"f{number}" for number, field in enumerate(spec.filters)}
        self.several = {field: f"m{number}" for number, field in enumerate(spec.filters)}

    @cached_property
    def ddl(self) -> list[str]:
        kinds = self.spec.filters
        filters = "".join(f", {self.columns[field]} {_COLUMN[kind]}, {self.several[field]} {_ARRAY[kind]}" for field, kind in kinds.items())
        numbers = [self.columns[field] for field, kind in kinds.items() if kind in ("int", "float")]
        return [
            f'CREATE TABLE {self.docs} (id text COLLATE "C" NOT NULL, tail text COLLATE "C" NOT NULL, revision bigint NOT NULL, '
            f"size bigint NOT NULL, long boolean NOT NULL, several boolean NOT NULL{filters}, "
            f'lexemes tsvector NOT NULL, body text COLLATE "C" NOT NULL)',
            f'CREATE UNIQUE INDEX "{self.plain} id" ON {self.docs} ({_head("id")}, tail)',
            f'CREATE INDEX "{self.plain} lexemes" ON {self.docs} USING gin (lexemes) WITH ({_GIN})',
            f'CREATE INDEX "{self.plain} long" ON {self.docs} (long) WHERE long',
            f'CREATE INDEX "{self.plain} several" ON {self.docs} (several) WHERE several',
            *(f'CREATE INDEX "{self.plain} {column}" ON {self.docs} ({column})' for column in numbers),
        ]

    # --- writing ----------------------------------------------------------------------------------------------------

    def row(self, doc: SearchDoc) -> dict[str, Any]:
        """Return a document made ready, as a member of what `put` takes as JSON."""
        values = filters_of(self.spec, doc)
        fields = [tokens(doc.text.get(field, "")) for field in self.spec.text]
        words = dict.fromkeys(token for found in fields for token in found)
        keys = [_key(field, value) for field, found in values.items() if self._has_keys(field) for value in found]
        long = len(words) > _MAX_LEXEMES // 256 and sum(len(word.encode()) for word in words) > _MAX_LEXEMES
        row = {
            "id": doc.id,
            "tail": tail(doc.id),
            "revision": doc.revision,
            "size": sum(map(len, fields)),
            "long": long,
            "several": any(len(found) > 1 for found in values.values()),
            "lexemes": " ".join(f"'{lexeme}'" for lexeme in (keys if long else [*keys, *words])),
            "body": "\n".join("".join(f" {token} " for token in found) for found in fields),
        }
        for field, found in values.items():
            row |= {self.columns[field]: found[0]} if len(found) == 1 else {self.several[field]: found} if found else {}
        return row

    @cached_property
    def put(self) -> str:
        """Store documents, given as a JSON array of rows, each id once; the number of this version is kept up to date."""
        kinds = {"id": "text", "tail": "text", "revision": "bigint", "size": "bigint", "long": "boolean", "several": "boolean"}
        for field, kind in self.spec.filters.items():
            kinds |= {self.columns[field]: _TYPE[kind], self.several[field]: f"{_TYPE[kind]}[]"}
        kinds |= {"lexemes": "text", "body": "text"}
        taken = ", ".join("lexemes::tsvector" if name == "lexemes" else name for name in kinds)
        changed = ", ".join(f"{name} = excluded.{name}" for name in kinds if name not in ("id", "tail"))
        return (
            f"WITH new AS (SELECT * FROM json_to_recordset($1::text::json) AS r({', '.join(f'{n} {k}' for n, k in kinds.items())})), "
            f"old AS MATERIALIZED (SELECT d.id, d.size FROM {self.docs} AS d "
            f"JOIN new ON {_head('d.id')} = {_head('new.id')} AND d.tail = new.tail), "
            f"done AS (INSERT INTO {self.docs} AS d ({', '.join(kinds)}) SELECT {taken} FROM new "
            f"ON CONFLICT ({_head('id')}, tail) DO UPDATE SET {changed} WHERE d.revision < excluded.revision RETURNING d.id, d.size) "
            f"UPDATE {self.versions} AS v SET docs = v.docs + c.docs, tokens = v.tokens + c.tokens FROM (SELECT count(*) - count(old.id) "
            "AS docs, coalesce(sum(done.size), 0) - coalesce(sum(old.size), 0) AS tokens FROM done LEFT JOIN old USING (id)) AS c "
            f"WHERE v.number = {self.number} AND (c.docs, c.tokens) <> (0, 0)"
        )

    @cached_property
    def delete(self) -> str:
        """Remove documents, given as an array of ids and one of their tails."""
        return (
            f"WITH gone AS (DELETE FROM {self.docs} AS d USING unnest($1::text[], $2::text[]) AS g(id, tail) "
            f"WHERE {_head('d.id')} = {_head('g.id')} AND d.tail = g.tail RETURNING d.size) "
            f"UPDATE {self.versions} AS v SET docs = v.docs - c.docs, tokens = v.tokens - c.tokens "
            "FROM (SELECT count(*) AS docs, coalesce(sum(size), 0) AS tokens FROM gone) AS c "
            f"WHERE v.number = {self.number} AND c.docs > 0"
        )

    @cached_property
    def ids(self) -> str:
        return (
            f"SELECT id, revision FROM {self.docs} WHERE {_head('id')} >= {_head('$1::text')} AND id > $1::text "
            f"ORDER BY {_head('id')}, id LIMIT $2::bigint"
        )

    # --- searching --------------------------------------------------------------------------------------------------

    def search(self, question: Asked, query: SearchQuery) -> Statement:
        """Ask for the total, the hits and the facets at once, so that they are of one instant: three columns of JSON."""
        binds = Binds()
        counts = [_occurrences(binds, term) for term in question.terms]
        wanted = {query.newest_first, *query.facets} - {None}
        columns = [name for field in self.columns if field in wanted for name in (self.columns[field], self.several[field])]
        columns += [f"{count} AS c{number}" for number, count in enumerate(counts)]
        taken = "".join(f", {column}" for column in columns)
        found = f"SELECT d.id, d.size::float8 AS size{taken} FROM {self.docs} AS d WHERE {self._where(binds, question)}"
        ctes = [f"found AS MATERIALIZED ({found})"]
        if question.terms:
            ctes += [
                f"stats AS MATERIALIZED (SELECT docs::float8 AS docs, greatest(tokens::float8 / greatest(docs, 1), 1e-6) AS average "
                f"FROM {self.versions} WHERE number = {self.number})",
                f"counts AS MATERIALIZED (SELECT {', '.join(self._counts(binds, question))})",
                f"weights AS MATERIALIZED (SELECT {', '.join(map(_weight, range(len(question.terms))))} FROM stats, counts)",
            ]
        parts = ["(SELECT count(*) FROM found)", self._hits(binds, question, query)]
        parts += [self._facet(field) for field in query.facets]
        return Statement(f"WITH {', '.join(ctes)} SELECT {', '.join(parts)}", binds)

    def _hits(self, binds: Binds, question: Asked, query: SearchQuery) -> str:
        length = f"{_K1 * (1 - _B)}::float8 + {_K1 * _B}::float8 * f.size / average"
        parts = [f"w{number} * f.c{number} * {_K1 + 1}::float8 / (f.c{number} + {length})" for number in range(len(question.terms))]
        score = " + ".join(parts) or "0.0::float8"
        source = "found AS f CROSS JOIN weights CROSS JOIN stats" if parts else "found AS f"
        by = f"f.{self.columns[query.newest_first]}" if query.newest_first else ""
        order, again = (f"{by} DESC NULLS LAST", "h.by DESC NULLS LAST") if by else ("score DESC", "h.score DESC")
        page = (
            f"SELECT f.id, {score} AS score, {by or 'NULL'} AS by FROM {source} ORDER BY {order}, f.id "
            f"LIMIT {binds(query.limit, 'bigint')} OFFSET {binds(query.offset, 'bigint')}"
        )
        return f"(SELECT json_agg(json_build_array(h.id, h.score) ORDER BY {again}, h.id)::text FROM ({page}) AS h)"

    def _facet(self, field: str) -> str:
        values = f"unnest(coalesce(f.{self.several[field]}, ARRAY[f.{self.columns[field]}])) AS u(value)"
        counted = (
            f"SELECT u.value, count(*) AS times FROM found AS f, {values} WHERE u.value IS NOT NULL "
            f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MAX_FACET_VALUES}"
        )
        return f"(SELECT json_agg(json_build_array(c.value, c.times))::text FROM ({counted}) AS c)"

    def _counts(self, binds: Binds, question: Asked) -> Iterable[str]:
        """Return how many documents have each term: the fewer, the more it counts. Those of the tenant, where there is one."""
        filters = [one for one in question.filters if one.field in self.spec.required]
        alone = len(question.terms) == 1 and not question.without and len(filters) == len(question.filters)
        for number, term in enumerate(question.terms):
            having = "FROM found"
            if not alone:
                where = self._where(binds, Asked((term,), (), tuple(filters)))
                having = f"FROM (SELECT 1 FROM {self.docs} AS d WHERE {where} LIMIT {_MAX_COUNTED}) AS t"
            yield f"(SELECT count(*) {having}) AS n{number}"

    def _where(self, binds: Binds, question: Asked) -> str:
        parts = []
        keys = [_any_key(one) for one in question.filters if self._has_keys(one.field) and one.op in ("==", "in") and one.values]
        words = list(dict.fromkeys(_lexemes(question.terms)))
        if keys or words:
            parts.append(f"d.lexemes @@ {binds(' & '.join([*keys, *words]), 'text')}::tsquery")
        if words:
            read = " AND ".join(f"strpos(d.body, {binds(_typed(term), 'text')}) > 0" for term in question.terms)
            among = f" AND d.lexemes @@ {binds(' & '.join(keys), 'text')}::tsquery" if keys else ""
            parts[0] = f"({parts[0]} OR (d.long{among} AND {read}))"
        parts += [f"strpos(d.body, {binds(_typed(term), 'text')}) > 0" for term in question.terms if len(term.tokens) > 1]
        parts += [f"strpos(d.body, {binds(_typed(term), 'text')}) = 0" for term in question.without]
        parts += [self._passes(binds, one) for one in question.filters]
        return " AND ".join(parts) or "true"

    def _passes(self, binds: Binds, one: Wanted) -> str:
        """Return the condition of a filter on the columns. `several` leads those with more values, since it has an index."""
        kind = _TYPE[self.spec.filters[one.field]]
        column, several = f"d.{self.columns[one.field]}", f"d.{self.several[one.field]}"
        if one.op in ("==", "in"):
            values = binds(list(one.values), f"{kind}[]")
            return f"({column} = ANY ({values}) OR (d.several AND {several} && {values}))"
        value = binds(one.values[0], kind)
        among = f"SELECT FROM unnest({several}) AS u(value) WHERE u.value {one.op} {value}"
        return f"({column} {one.op} {value} OR (d.several AND EXISTS ({among})))"

    def _has_keys(self, field: str) -> bool:
        return self.spec.filters[field] in ("text", "bool") or field in self.spec.required


def _weight(number: int) -> str:
    return f"greatest(ln(greatest(docs - n{number} + 0.5, 1e-9) / (n{number} + 0.5)), 1e-6) AS w{number}"


# New words wait in a list that every search reads: half a megabyte costs a search 0.4 ms, no list twice the time of a put (seen).
_GIN = "fastupdate = on, gin_pending_list_limit = 512"


def tail(id: str) -> str:
    """Return what tells ids with the same beginning apart."""
    return "" if len(id) <= _HEAD else blake2b(id.encode(), digest_size=16).hexdigest()


def _head(id: str) -> str:
    return f"left({id}, {_HEAD})"


def _key(field: str, value: Stored) -> str:
    # No token begins like this: it is made of letters, digits, marks and symbols that are pictures.
    return f"={key_of(field, value)}"


def _any_key(one: Wanted) -> str:
    return f"({' | '.join(repr(_key(one.field, value)) for value in one.values)})"


def _lexemes(terms: Iterable[Term]) -> Iterable[str]:
    for term in terms:
        *whole, last = term.tokens
        yield from (f"'{token}'" for token in whole)
        yield f"'{last}':*" if term.prefix else f"'{last}'"


def _typed(term: Term) -> str:
    """Return the term as it stands in `body`."""
    found = "".join(f" {token} " for token in term.tokens)
    return found[:-1] if term.prefix else found


def _occurrences(binds: Binds, term: Term) -> str:
    """Return how often the term is in `body`; one that overlaps itself ("so so" in "so so so") counts once where it does."""
    typed = _typed(term)
    return f"(octet_length(d.body) - octet_length(replace(d.body, {binds(typed, 'text')}, ''))) / {len(typed.encode())}"
