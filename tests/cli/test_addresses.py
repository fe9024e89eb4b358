"""URLs are shown without their passwords, and counted from the folder of the file they are written in."""

from __future__ import annotations

from pathlib import Path

import pytest

from palaver.cli.addresses import from_folder, masked
from palaver.url import parse_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("bot.db", "bot.db"),
        ("/data/me@home/bot.db", "/data/me@home/bot.db"),
        ("sqlite:///bot.db?sync=normal", "sqlite:///bot.db?sync=normal"),
        ("sqlite:///data/me@home/bot.db", "sqlite:///data/me@home/bot.db"),
        ("memory:", "memory:"),
        ("postgresql://bot@host:5432/chat?pool=3", "postgresql://bot@host:5432/chat?pool=3"),
        ("postgresql://[::1]:5432/chat", "postgresql://[::1]:5432/chat"),
        ("postgresql://bot:hidden@host:5432/chat?pool=3", "postgresql://bot:***@host:5432/chat?pool=3"),
        ("postgresql://bot:hid@den@host/chat", "postgresql://bot:***@host/chat"),
        ("postgresql://bot:hid/den@host/chat", "postgresql://***"),
        ("postgresql://bot:1/hidden@host/chat", "postgresql://***"),
        ("postgresql://bot:hid?den@host/chat", "postgresql://***"),
        ("postgresql://bot:hid#den@host/chat", "postgresql://***"),
        ("postgresql://[bot:hidden@host/chat", "***"),
        ("postgresql://one:5432,two:5432/chat", "postgresql://one:5432,two:5432/chat"),
        ("postgresql://bot:12,34:hid/den@host:5432/chat", "postgresql://***"),
        ("sqlite:///a.db?cache=redis+cluster://one:7000,two:7001", "sqlite:///a.db?cache=redis+cluster://one:7000,two:7001"),
        ("sqlite:///a.db?cache=redis%2Bcluster://:hidden@one", "sqlite:///a.db?cache=redis+cluster://:***@one"),
        (
            "sqlite:///a.db?cache=redis+sentinel://:hidden@one:26379,two/main",
            "sqlite:///a.db?cache=redis+sentinel://:***@one:26379,two/main",
        ),
        ("postgresql:bot:hidden@host/chat", "postgresql:***@host/chat"),
        ("bot:hidden@host/chat", "bot:***@host/chat"),
        ("memory:?cache=redis%3A%2F%2F%3Ahidden%40host%3A6379%2F0", "memory:?cache=redis://:***@host:6379/0"),
        ("dynamodb://eu/p?search=postgresql://b:hidden@h/s&pool=2", "dynamodb://eu/p?search=postgresql://b:***@h/s&pool=2"),
        ("dynamodb://eu/p?blobs=s3://b/p%3Fsecret_key=hidden", "dynamodb://eu/p?blobs=s3://b/p%3Fsecret_key%3D***"),
        ("postgresql://h/d?password=hidden&sslkey=client.key", "postgresql://h/d?password=***&sslkey=client.key"),
    ],
)
def test_a_password_is_masked_wherever_it_stands(url: str, shown: str) -> None:
    assert shown == masked(url)


@pytest.mark.parametrize(
    ("url", "path", "options"),
    [
        ("bot.db", "/here/bot.db", {}),
        ("/var/bot.db", "/var/bot.db", {}),
        ("sqlite:///bot%20x.db?sync=normal", "/here/bot x.db", {"sync": "normal"}),
        ("sqlite:////var/bot.db", "/var/bot.db", {}),
        ("sqlite:///b.db?blobs=file:objects", "/here/b.db", {"blobs": "file:/here/objects"}),
        ("sqlite:///b.db?blobs=file:///objects", "/here/b.db", {"blobs": "file:///objects"}),
        ("sqlite:///b.db?blobs=s3://b/p", "/here/b.db", {"blobs": "s3://b/p"}),
        ("dynamodb://eu/p-?search=sqlite:///s.db", "eu/p-", {"search": "sqlite:////here/s.db"}),
        ("memory:", "", {}),
    ],
)
def test_relative_paths_begin_in_the_folder_of_the_file(url: str, path: str, options: dict[str, str]) -> None:
    found = parse_url(from_folder(url, Path("/here")))

    assert (path, options) == (found.path, found.options)


def test_certificates_and_passwords_survive() -> None:
    found = parse_url(from_folder("postgresql://u:p%40ss@h/db?sslmode=verify-full&sslrootcert=ca.pem", Path("/here")))

    assert "postgresql://u:p%40ss@h/db?sslmode=verify-full&sslrootcert=%2Fhere%2Fca.pem" == found.address
