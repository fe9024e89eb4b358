"""The page about the emulators says of each what it does: every question is asked again."""

from __future__ import annotations

import pytest

from tests import servers
from tests.servers.presence import ROOT
from tests.servers.probes import DYNAMODB, S3, bucket, client, table

PAGE = (ROOT / "docs" / "engines" / "emulators.md").read_text(encoding="utf-8")


def answers(heading: str) -> dict[tuple[str, str], bool]:
    """What the table below a heading says, by question and server."""
    lines = [line for line in PAGE.partition(f"\n### {heading}\n")[2].partition("\n#")[0].splitlines() if line.startswith("|")]
    names, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|---")]
    return {(row[0], name): {"yes": True, "no": False}[cell] for row in rows for name, cell in zip(names[1:], row[1:], strict=True)}


@pytest.mark.parametrize(("question", "server"), [(question, name) for question in DYNAMODB for name in ("ministack", "moto", "dynalite")])
def test_a_server_answers_as_the_page_says_of_dynamodb(question: str, server: str) -> None:
    db = client("dynamodb", servers.endpoint(server))
    assert answers("DynamoDB")[question, server] == DYNAMODB[question](db, table(db))


@pytest.mark.parametrize(("question", "server"), [(question, name) for question in S3 for name in ("ministack", "moto")])
def test_a_server_answers_as_the_page_says_of_s3(question: str, server: str) -> None:
    s3 = client("s3", servers.endpoint(server))
    assert answers("S3")[question, server] == S3[question](s3, bucket(s3))


def test_the_page_asks_nothing_else() -> None:
    assert set(DYNAMODB) == {question for question, _ in answers("DynamoDB")}
    assert set(S3) == {question for question, _ in answers("S3")}
