"""Where a person's objects lie: under a prefix nobody else shares."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote

from hypothesis import given, strategies as st
from pydantic import BaseModel, Field

from palaver import Blob, Entity, Key
from palaver.blobpath import ARCHIVE, NOBODY, segment, subject_prefix
from palaver.blobs.paths import MAX_PATH, path_of
from palaver.codec import EntityCodec

NAMES = st.one_of(st.sampled_from(["-", "archive", ".", "..", "a/b", "%", "-/-", "archive/2026"]), st.text(min_size=1, max_size=8))


@given(NAMES, NAMES, NAMES, NAMES)
def test_two_persons_share_no_prefix(tenant: str, subject: str, other_tenant: str, other: str) -> None:
    mine, theirs = subject_prefix(tenant, subject), subject_prefix(other_tenant, other)
    assert ((tenant, subject) == (other_tenant, other)) == (mine == theirs)
    assert mine == theirs or not mine.startswith(theirs)


@given(NAMES, NAMES)
def test_no_person_has_the_prefix_of_nobody_or_of_the_archive(tenant: str, subject: str) -> None:
    assert subject_prefix(None, None) == f"{NOBODY}/{NOBODY}/"
    for prefix in (subject_prefix(tenant, subject), subject_prefix(None, subject)):
        assert not prefix.startswith((f"{NOBODY}/{NOBODY}/", f"{ARCHIVE}/"))


@given(NAMES)
def test_a_segment_reads_back(name: str) -> None:
    assert name in ("%", unquote(segment(name))) or name == unquote(segment(name))


class Description(BaseModel):
    name: str = ""


class Filed(Entity, table="filed"):
    id: str
    about: Description = Description()
    labels: dict[str, str] = Field(default_factory=dict)
    file: Annotated[bytes | None, Blob("{id}/{about.name}/{labels[kind]}", inline=1)] = None
    key = Key("id")


def test_a_text_inside_a_nested_value_is_one_segment_too() -> None:
    filed = Filed(id="../..", about=Description(name="../../other/x"), labels={"kind": "."}, file=b"several bytes")
    ((key, _),) = EntityCodec(Filed.declared()).encode(filed, 1, None).uploads

    assert ["-", "-", segment("../.."), segment("../../other/x"), segment(".")] == key.split("/")[:-1]


def test_long_names_are_cut_and_still_share_no_segment() -> None:
    names = ["名" * 2_000, "名" * 1_999, "a" * 2_048, "a" * 2_047, segment("a" * 2_048)]
    cut = [segment(name) for name in names]
    assert len(names) == len(set(cut))
    assert all(len(found) <= 120 for found in cut)


def test_the_longest_names_leave_room_for_a_path() -> None:
    prefix = subject_prefix("名" * 600, "名" * 600) + f"bucket-of-responses/2026/01/01/{segment('名' * 600)}/{'1' * 20}/{'c' * 36}.json/"
    assert len(path_of(prefix + "0" * 64)) <= MAX_PATH
