"""Progress is told on stderr: late, seldom, and never when it was not asked for."""

from __future__ import annotations

import sys

import pytest

from palaver.cli.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("palaver.cli.progress.time.monotonic", lambda: now[0])
    return now


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert "" == out
    return err.splitlines()


def test_what_is_quick_shows_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("records", 10) as progress:
        for _ in range(10):
            clock[0] += 0.04
            progress.advance()

    assert [] == told(capsys)


def test_off_a_terminal_there_is_a_line_every_ten_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("records", 50) as progress:
        for _ in range(25):
            clock[0] += 1
            progress.advance()

    assert ["records: 10 of 50 (20%, 1/s, 40 s left)", "records: 20 of 50 (40%, 1/s, 30 s left)"] == told(capsys)


def test_on_a_terminal_one_line_rewrites_itself_and_goes(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("records") as progress:
        for _ in range(3):
            clock[0] += 0.4
            progress.advance(5)

    shown = capsys.readouterr().err
    assert "\rrecords: 10 (12/s)" in shown
    assert shown.endswith("\r\x1b[K")


def test_quiet_means_quiet(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("records", quiet=True) as progress:
        clock[0] += 60
        progress.advance()

    assert [] == told(capsys)
