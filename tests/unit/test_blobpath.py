"""Where a person's objects lie: under a prefix nobody else shares."""

from __future__ import annotations

from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from palaver.blobpath import ARCHIVE, NOBODY, segment, subject_prefix

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
