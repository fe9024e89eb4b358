"""An application with secrets of every kind, and a search for them in every byte a stack keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from gzip import decompress
from pathlib import Path
from typing import Annotated, Any

import asyncpg
from pydantic import BaseModel, SecretStr

from palaver import Entity, F, History, Index, Json, Key, Personal, Schema, Search, Searchable, Secret, Source, Store, Subject, Unique, days
from palaver.url import parse_url
from tests import servers
from tests.engines.dynamodb import client_of

START = datetime(2026, 3, 10, 12, tzinfo=UTC)
CANARY = "Canary7f3a"


class Login(BaseModel):
    user: str
    pins: list[int] = []


class Channel(Entity, table="channels"):
    channel_id: str
    owner: Annotated[str, Subject()] = "o"
    title: Annotated[str, Searchable()] = ""
    count: int = 0
    password: Annotated[str, Secret()] = "none"
    credentials: Annotated[dict[str, Json] | None, Secret(), Personal()] = None
    token: Annotated[SecretStr | None, Secret()] = None
    login: Annotated[Login | None, Secret()] = None
    codes: Annotated[frozenset[str], Secret()] = frozenset()
    amount: Annotated[Decimal | None, Secret()] = None
    raw: Annotated[bytes | None, Secret()] = None
    key = Key("channel_id")
    by_owner = Index("owner", sort="channel_id")
    kept = History(days(30))


class Bot(Entity, table="bots"):
    """A secret beside nothing that has to be seen first: its patches are sent as they are."""

    bot_id: str
    name: str = ""
    runs: int = 0
    secret: Annotated[str | None, Secret()] = None
    other: Annotated[str | None, Secret()] = None
    key = Key("bot_id")


class Named(Entity, table="named"):
    named_id: str
    name: str
    secret: Annotated[str, Secret()]
    key = Key("named_id")
    one_name = Unique("name", when=F("name") != "")


VAULT = Schema("vault", [Channel, Bot, Named], searches=[Search("channels", Source(Channel, text=("title",), filters=("owner",)))])


def channel(**more: Any) -> Channel:
    """Return a channel each of whose secrets holds the canary."""
    held: dict[str, Any] = {
        "channel_id": "c",
        "title": "dortmund",
        "password": f"{CANARY} ü",
        "credentials": {f"{CANARY}-name": [f"{CANARY}", 1.5, None, {"deep": CANARY}]},
        "token": SecretStr(CANARY),
        "login": Login(user=CANARY, pins=[1, 2]),
        "codes": frozenset({CANARY, "b"}),
        "amount": Decimal("12345678901234567890.123"),
        "raw": CANARY.encode(),
    }
    return Channel(**{**held, **more})


async def everything(store: Store, url: str, folder: Path) -> bytes:
    """Return every byte a stack keeps, as far as it can be reached around it."""
    parts = [files(folder)]
    engine: Any = store.core.records
    for table in store.core.planner.tables:
        parts += [repr(record).encode() async for record in _scanned(engine, table)]
    parts.append(repr((await engine.changes(None, 1_000)).changes).encode())
    match parse_url(url).scheme:
        case "memory":
            parts.append(repr(vars(engine)).encode())
        case "postgresql":
            parts += [line async for line in _postgres(url)]
        case "dynamodb":
            parts += [line async for line in _dynamodb(parse_url(url).path.partition("/")[2])]
    return b"\n".join(parts)


def files(folder: Path) -> bytes:
    """Return what all files hold, unpacked where they are packed."""
    found = [(path, path.read_bytes()) for path in folder.rglob("*") if path.is_file()]
    return b"\n".join(decompress(data) if path.name.endswith(".gz") else data for path, data in found)


def shown(data: bytes, canary: str = CANARY) -> list[str]:
    """Return the forms in which a canary is there: as it is, in hexadecimal, in base64 at each of its three offsets."""
    from base64 import b64encode

    plain = canary.encode()
    forms = {"plain": plain, "hex": plain.hex().encode()}
    for offset in range(3):
        forms[f"base64 {offset}"] = b64encode(b"\0" * offset + plain)[(0, 2, 3)[offset] :].rstrip(b"=")[:-1]
    return [name for name, form in forms.items() if form in data or form.upper() in data]


async def _scanned(engine: Any, table: str) -> Any:
    after = None
    while True:
        page = await engine.scan(table, after=after, limit=500)
        for record in page.records:
            yield record
        after = page.last
        if after is None:
            return


async def _postgres(url: str) -> Any:
    parsed = parse_url(url)
    connection = await asyncpg.connect(parsed.address)
    try:
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", parsed.options["schema"])
        assert names
        for (name,) in names:
            for row in await connection.fetch(f'SELECT t::text FROM "{parsed.options["schema"]}"."{name}" t'):
                yield str(row[0]).encode()
    finally:
        await connection.close()


async def _dynamodb(prefix: str) -> Any:
    client = await client_of(servers.ministack().endpoint)
    try:
        # A page holds a hundred names, and other tests have tables too.
        listed = (await client.call("ListTables", {"ExclusiveStartTableName": prefix[:-1]}))["TableNames"]
        names = [name for name in listed if name.startswith(prefix)]
        assert names
        for name in names:
            for item in (await client.call("Scan", {"TableName": name}))["Items"]:
                yield json.dumps(item).encode()
    finally:
        await client.aclose()


def walked(value: Any) -> Iterator[Any]:
    """Yield an object and what its attributes hold, as a tracker of errors would show them."""
    yield repr(value)
    for name in getattr(value, "__dict__", {}):
        yield repr(getattr(value, name))
