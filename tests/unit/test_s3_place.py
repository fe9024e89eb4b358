"""How a bucket's URL is read, and what is refused before anything is asked."""

from __future__ import annotations

import pytest

from palaver.connections.s3_place import Place, place
from palaver.errors import ConfigError

HERE = {"AWS_REGION": "eu-west-1"}


@pytest.mark.parametrize(
    ("url", "environ", "origin", "virtual"),
    [
        ("s3://bucket", HERE, "https://bucket.s3.eu-west-1.amazonaws.com", True),
        ("s3://bucket?region=us-east-2", HERE, "https://bucket.s3.us-east-2.amazonaws.com", True),
        ("s3://my.bucket", HERE, "https://s3.eu-west-1.amazonaws.com", False),
        ("s3://bucket?region=cn-north-1", {}, "https://bucket.s3.cn-north-1.amazonaws.com.cn", True),
        ("s3://bucket?endpoint=http://127.0.0.1:9000", HERE, "http://127.0.0.1:9000", False),
        ("s3://bucket?endpoint=https://minio.example:443/", HERE, "https://minio.example", False),
        ("s3://bucket?endpoint=http://[::1]:9000", HERE, "http://[::1]:9000", False),
        ("s3://bucket", {"AWS_DEFAULT_REGION": "x-1", "AWS_ENDPOINT_URL": "http://one:1"}, "http://one:1", False),
        ("s3://bucket", HERE | {"AWS_ENDPOINT_URL": "http://one:1", "AWS_ENDPOINT_URL_S3": "http://two:2"}, "http://two:2", False),
        (
            "s3://bucket",
            HERE | {"AWS_ENDPOINT_URL": "http://one:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "https://bucket.s3.eu-west-1.amazonaws.com",
            True,
        ),
        ("s3://bucket?endpoint=http://given:3", HERE | {"AWS_ENDPOINT_URL_S3": "http://two:2"}, "http://given:3", False),
    ],
)
def test_requests_go_where_the_url_or_the_environment_says(url: str, environ: dict[str, str], origin: str, virtual: bool) -> None:
    found = place(url, environ)
    assert (origin, virtual) == (found.origin, found.virtual_host)


def test_everything_a_url_can_say() -> None:
    told = "region=eu-west-3&sse=kms&kms_key=alias/mine&storage_class=STANDARD_IA&versions=purge&timeout=2.5&endpoint=http://h:1"
    expected = Place("bucket", "a/b", "eu-west-3", "http://h:1", False, "aws:kms", "alias/mine", "STANDARD_IA", "purge", 2.5)
    assert expected == place(f"s3://bucket/a/b/?{told}", {})


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("", "/bucket/a%3Db/c%21"), ("p/q", "/bucket/p/q/a%3Db/c%21")],
)
def test_a_request_s_path_is_encoded_once(prefix: str, expected: str) -> None:
    assert expected == place(f"s3://bucket/{prefix}?endpoint=http://h:1", HERE).key_path("a=b/c!")


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://ab",
        "s3://Bucket",
        "s3://bu_cket",
        "s3://bu..cket",
        "s3://-bucket",
        "s3://key:hunter2secret@bucket",
        "s3://bucket/a//b",
        "s3://bucket/../x",
        "s3://bucket/a b",
        "s3://bucket/ü",
        "s3://bucket?regoin=x",
        "s3://bucket?region=EU",
        "s3://bucket?region=a/b",
        "s3://bucket?sse=aes",
        "s3://bucket?kms_key=x",
        "s3://bucket?sse=s3&kms_key=x",
        "s3://bucket?sse=kms&kms_key=a%0Ab",
        "s3://bucket?storage_class=DEEP_ARCHIVE",
        "s3://bucket?storage_class=",
        "s3://bucket?versions=some",
        "s3://bucket?timeout=0",
        "s3://bucket?timeout=nan",
        "s3://bucket?timeout=soon",
        "s3://bucket?endpoint=ftp://h",
        "s3://bucket?endpoint=h:1",
        "s3://bucket?endpoint=http://h:port",
        "s3://bucket?endpoint=http://hunter2secret@h",
        "s3://bucket?endpoint=http://h/path",
    ],
)
def test_what_cannot_be_meant_is_refused_and_never_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        place(url, HERE)
    assert "hunter2secret" not in f"{caught.value}{caught.value.context}"


def test_without_a_region_nothing_is_guessed() -> None:
    with pytest.raises(ConfigError, match="region"):
        place("s3://bucket", {})


def test_a_misspelt_option_is_told_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="storage_class"):
        place("s3://bucket?storageclass=STANDARD", HERE)
