"""A design for PostgreSQL and Redis as it was written down, and what in it cannot work or will hurt.

The text is the design's own: `CREATE TABLE` statements and queries, commands on keys, lines of a configuration. Nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from palaver.design import Attribute, DesignIndex, DesignTable
from palaver.lint import Diagnostic

_TABLE = re.compile(r"CREATE TABLE (\w+) \((.*?)\n\);", re.DOTALL)
_COLUMN = re.compile(r"(\w+) (UUID|VARCHAR\(\d+\)|TEXT|JSONB|BOOLEAN|INTEGER|TIMESTAMP WITH TIME ZONE)(.*)")
_INDEX = re.compile(r"INDEX (\w+) \((.*)\)")
_UNIQUE = re.compile(r"UNIQUE \((.*)\)")
_TYPES: Mapping[str, Literal["String", "Number", "Boolean", "Map"]] = {"JSONB": "Map", "BOOLEAN": "Boolean", "INTEGER": "Number"}
_ROLES = ("tool", "developer")

_FINDINGS: Mapping[str, tuple[Literal["error", "warning"], str, str]] = {
    "index_in_table": ("error", "PostgreSQL has no INDEX inside CREATE TABLE: the table is not made.", "Use CREATE INDEX, or declare it."),
    "index_twice": ("warning", "A UNIQUE over these columns is this index; every write pays for both.", "Leave the index out."),
    "one_channel_a_person": (
        "error",
        "The row of a person has one channel, so the same person on another channel is another person.",
        "Keep identities in a table of their own, unique by channel, that names the person.",
    ),
    "column_repeated": (
        "error",
        "The parent says it as well, and nothing keeps the two from disagreeing.",
        "Refer to the parent by it, or leave it out.",
    ),
    "state_without_unique": (
        "error",
        "Two requests at once make two rows with this state.",
        "Declare it unique for its owner while it is so.",
    ),
    "clock_orders": (
        "error",
        "The clock of a transaction gives its rows one instant, and a random id does not say which came first.",
        "Order by an id that grows with time.",
    ),
    "updated_at_stays": ("error", "A default is applied once: the column never moves again.", "Set it with each change."),
    "roles_missing": ("error", "Messages of tools and developers are refused.", "Let the roles a model has be roles here."),
    "one_tenant": ("error", "Unique for everybody: a second tenant cannot have one.", "Put the tenant into the key."),
    "column_unknown": ("error", "The view has no column of this name, so the query fails.", "Ask for relname and indexrelname."),
    "name_cast": ("error", "A name cast to regclass fails for quoted names and other schemas.", "Read pg_class by oid."),
    "expiry_apart": (
        "error",
        "Whoever dies between this command and EXPIRE leaves a key that never goes.",
        "Write the value with its expiry in one step.",
    ),
    "identity_as_key": (
        "error",
        "Who knows a user's name knows the key: it is no session.",
        "Give out a random token, and store its hash.",
    ),
    "copy_without_version": (
        "error",
        "It is a copy of a record, and nothing says when that changed: an old value comes back.",
        "Keep the revision with the value and drop it when the record changes.",
    ),
    "window_at_the_edge": (
        "error",
        "A window that begins anew allows twice the limit around its edge, and a retried INCR counts twice.",
        "Slide the window, and name the request.",
    ),
    "address_trusted": ("warning", "The address is what a header says.", "Count trusted hops from the connection backwards."),
    "members_expire_together": (
        "error",
        "The expiry is the set's: members never leave one by one, and while somebody comes nobody goes.",
        "Score members by when they were seen.",
    ),
    "newest_first": ("error", "LPUSH puts the newest first: read in order the prompt is backwards.", "Order entries by their ids."),
    "partial_list": (
        "error",
        "After the expiry a push makes a list of one, which looks whole; a retried push doubles it.",
        "Push only to what is there, and rebuild it from the records.",
    ),
    "flag_evictable": ("error", "An evicted flag reads as off, a security flag too.", "Keep flags in records, with safe defaults."),
    "grows_forever": ("error", "An entry for each user, and nothing ends it.", "Compute the variant from a hash of the user."),
    "comment_in_value": ("error", "A comment after a value is part of it: the server does not start.", "Comments have lines of their own."),
    "evicts_everything": (
        "error",
        "Limits, sessions and flags are evicted together with what can be read again.",
        "Use a volatile- policy, and give everything an expiry.",
    ),
    "not_durable": ("warning", "Up to a second of writes is lost with the server.", "Hold nothing there that cannot be made again."),
}


@dataclass
class _Said:
    """A table as read, with what the plain design model has no place for."""

    table: DesignTable
    uniques: list[tuple[str, ...]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def tables(text: str) -> list[DesignTable]:
    """Return the tables that `CREATE TABLE` statements describe, with columns as attributes."""
    return [said.table for said in _read(text)]


def diagnose_sql(text: str) -> list[Diagnostic]:
    """Return what is wrong with tables and queries, in the order of the text."""
    return _told([*_of_tables(_read(text)), *_of_queries(text)])


def diagnose_keys(text: str) -> list[Diagnostic]:
    """Return what is wrong with a layout of Redis keys, written as commands; once for each family of keys."""
    return _told(dict.fromkeys(_of_keys(text)))


def diagnose_settings(text: str) -> list[Diagnostic]:
    """Return what is wrong with a Redis configuration."""
    return _told(_of_settings(text))


def _told(found: object) -> list[Diagnostic]:
    pairs: list[tuple[str, str]] = list(found)  # type: ignore[call-overload]
    return [Diagnostic(code, _FINDINGS[code][0], where, *_FINDINGS[code][1:]) for code, where in pairs]


# --- tables -----------------------------------------------------------------------------------------------------------


def _read(text: str) -> list[_Said]:
    return [_table(name, body) for name, body in _TABLE.findall(text)]


def _table(name: str, body: str) -> _Said:
    lines = [line.strip().rstrip(",") for line in body.splitlines() if line.strip()]
    attributes: dict[str, Attribute] = {}
    indexes: list[DesignIndex] = []
    uniques: list[tuple[str, ...]] = []
    for line in lines:
        if index := _INDEX.fullmatch(line):
            first, *rest = _columns(index[2])
            indexes.append(DesignIndex(name=index[1], partition=first, range=rest[0] if rest else None))
        elif unique := _UNIQUE.fullmatch(line):
            uniques.append(_columns(unique[1]))
        elif column := _COLUMN.fullmatch(line):
            instant = column[2].startswith("TIMESTAMP")
            kind = _TYPES.get(column[2], "String")
            attributes[column[1]] = Attribute(type=kind, holds="instant" if instant else None)
            if " UNIQUE" in column[3]:
                uniques.append((column[1],))
    parent = next((found[1] for line in lines if (found := re.search(r"REFERENCES (\w+)\(", line))), None)
    return _Said(DesignTable(name=name, partition="id", parent=parent, attributes=attributes, indexes=indexes), uniques, lines)


def _columns(text: str) -> tuple[str, ...]:
    return tuple(part.split()[0] for part in text.split(","))


def _of_tables(found: Sequence[_Said]) -> Iterator[tuple[str, str]]:
    by_name = {said.table.name: said.table for said in found}
    for said in found:
        table = said.table
        parts = {index.name: tuple(part for part in (index.partition, index.range) if part) for index in table.indexes}
        for index in table.indexes:
            yield "index_in_table", f"{table.name}.{index.name}"
            if parts[index.name] in said.uniques:
                yield "index_twice", f"{table.name}.{index.name}"
        for unique in said.uniques:
            if any(name.endswith("_user_id") for name in unique):
                yield "one_channel_a_person", table.name
            elif len(unique) == 1 and not any("tenant" in name for name in table.attributes):
                yield "one_tenant", f"{table.name}.{unique[0]}"
        yield from _of_columns(said, by_name.get(table.parent or ""))


def _of_columns(said: _Said, parent: DesignTable | None) -> Iterator[tuple[str, str]]:
    table = said.table
    for name, attribute in table.attributes.items():
        where = f"{table.name}.{name}"
        if parent is not None and name in parent.attributes and name.endswith("_type"):
            yield "column_repeated", where
        if attribute.type == "Boolean" and name.startswith("is_"):
            yield "state_without_unique", where
        if name == "updated_at":
            yield "updated_at_stays", where
        if parent is not None and any(index.range == name and attribute.holds == "instant" for index in table.indexes):
            yield "clock_orders", where
        listed = next((line for line in said.lines if line.startswith(f"{name} ") and "CHECK" in line), "")
        if name == "role" and listed and not all(f"'{role}'" in listed for role in _ROLES):
            yield "roles_missing", where


def _of_queries(text: str) -> Iterator[tuple[str, str]]:
    for query in re.findall(r"SELECT\b.*?;", text, re.DOTALL):
        if "pg_stat_user_indexes" in query and re.search(r"\btablename\b", query):
            yield "column_unknown", "pg_stat_user_indexes"
        if "::regclass" in query:
            yield "name_cast", "information_schema.tables"


# --- keys -------------------------------------------------------------------------------------------------------------


def _of_keys(text: str) -> Iterator[tuple[str, str]]:
    commands = [line.split("#")[0].split() for line in text.splitlines() if line.split("#")[0].strip()]
    expiring = {words[1] for words in commands if words[0] == "EXPIRE"}
    for name, key, *rest in commands:
        if name not in ("HSET", "INCR", "SADD", "LPUSH"):
            continue
        family = ":".join(key.split(":")[:2] if key.startswith("rate:") else key.split(":")[:1])
        if key in expiring:
            yield "expiry_apart", family
        yield from ((code, family) for code in _of_command(name, key, rest, key in expiring))


def _of_command(name: str, key: str, rest: Sequence[str], expires: bool) -> Iterator[str]:
    match name:
        case "HSET" if key.startswith("session:"):
            yield "identity_as_key"
            if rest[0] in ("conversation_id", "model"):
                yield "copy_without_version"
        case "HSET" if key.startswith("features:"):
            yield "flag_evictable"
        case "HSET" if not expires:
            yield "grows_forever"
        case "INCR":
            yield "window_at_the_edge"
            if key.startswith("rate:ip:"):
                yield "address_trusted"
        case "SADD" if expires:
            yield "members_expire_together"
        case "LPUSH":
            yield "newest_first"
            if expires:
                yield "partial_list"


def _of_settings(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if "#" in line:
            yield "comment_in_value", " ".join(words[: words.index("#")])
        if words[0] == "maxmemory-policy" and words[1].startswith("allkeys"):
            yield "evicts_everything", words[0]
        if words[:2] == ["appendfsync", "everysec"]:
            yield "not_durable", words[0]
