"""The emulators answer, end with the tests, and no test can reach a real account unasked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests import servers
from tests.servers import Emulator, account
from tests.servers.presence import ROOT, Once


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


@pytest.mark.parametrize("name", ["ministack", "moto", "dynalite"])
def test_an_emulator_answers_on_this_machine_alone(name: str) -> None:
    endpoint = servers.endpoint(name)
    assert endpoint.url.startswith("http://127.0.0.1:")
    assert endpoint.version
    assert status(endpoint.url) < 500


def test_an_emulator_can_be_stopped_and_started_again() -> None:
    server = servers.start_ministack()
    try:
        server.stop()
        with pytest.raises(urllib.error.URLError):
            status(server.url)
        server.start()
        assert status(server.url) < 500
    finally:
        server.close()


def test_a_server_is_started_once(ministack: Emulator) -> None:
    assert ministack is servers.ministack()


VICTIM = """
import sys
from tests import servers
server = servers.start_dynalite()
print(server.process.pid, server.process.folder, flush=True)
sys.stdin.read()
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_ends_with_the_tests_even_when_they_are_killed(dynalite: Emulator) -> None:
    with subprocess.Popen([sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as tests:
        assert tests.stdout is not None
        pid, folder = tests.stdout.readline().split()
        assert alive(int(pid))
        tests.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 15
    while (alive(int(pid)) or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [False, False] == [alive(int(pid)), Path(folder).exists()]


ABSENT = """
from tests.servers.presence import Absent, Once

@Once
def nothing():
    raise Absent("no such server")

def test_it():
    nothing()
"""


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped=1"), ("true", "failed=1")])
def test_an_absent_server_skips_a_test_and_fails_it_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_it.py").write_text(ABSENT, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tmp_path}", str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTEST_VERSION")}
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment | {"CI": ci, "PYTHONPATH": str(ROOT)}).stdout
    kind, count = outcome.split("=")
    assert f"{count} {kind}" in told
    assert "no such server" in told or not ci


def test_a_failure_to_start_is_remembered() -> None:
    tried: list[int] = []

    @Once
    def broken() -> None:
        tried.append(1)
        raise servers.Failed("did not come up")

    for _ in range(2):
        with pytest.raises(servers.Failed):
            broken()
    assert [1] == tried


def test_without_the_option_nothing_in_the_environment_names_a_real_account(request: pytest.FixtureRequest) -> None:
    left = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    assert account.NOWHERE == left.pop("AWS_ENDPOINT_URL")
    assert {"AWS_EC2_METADATA_DISABLED", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} == set(left)
    if not request.config.getoption("--aws"):
        assert not [name for name in servers.dynamodb_endpoints() + servers.s3_endpoints() if name.startswith("aws")]
        with pytest.raises(servers.Absent):
            account.endpoint("s3")


def on_the_account(url: str, key: str, secret: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the lane of the real account as somebody would, but against a server of ours."""
    named = {"REGION": "eu-central-1", "ACCESS_KEY_ID": key, "SECRET_ACCESS_KEY": secret, "ENDPOINT": url}
    environment = os.environ | {f"PALAVER_TEST_AWS_{name}": value for name, value in named.items()}
    command = [sys.executable, "-m", "pytest", "--aws", "-p", "no:cacheprovider", "tests/engines/test_s3.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120)


def test_looking_at_the_lane_asks_nobody_and_says_what_it_would_do() -> None:
    told = on_the_account("http://127.0.0.1:9", "AKIDNOBODYKNOWS", "the-secret", "--collect-only")
    assert pytest.ExitCode.OK == told.returncode, told.stdout
    assert "real account: eu-central-1 at http://127.0.0.1:9, access key AKID…NOWS" in told.stdout
    assert "costs money" in told.stdout
    assert "on the real account: " in told.stdout
    assert "aws-s3" in told.stdout
    assert "the-secret" not in told.stdout + told.stderr


def test_wrong_credentials_end_the_lane_at_once_in_a_line() -> None:
    guarded = servers.guarded_ministack().endpoint
    told = on_the_account(guarded.url, "AKIDNOBODYKNOWS", "the-secret", "-k", "aws-s3 and missing")
    assert pytest.ExitCode.USAGE_ERROR == told.returncode, told.stdout
    assert "AWS refused the credentials of PALAVER_TEST_AWS_*: " in told.stderr
    assert "the-secret" not in told.stdout + told.stderr
    nobody = on_the_account("http://127.0.0.1:9", "AKIDNOBODYKNOWS", "the-secret", "-k", "aws-s3 and missing")
    assert pytest.ExitCode.USAGE_ERROR == nobody.returncode
    assert "nobody could be asked" in nobody.stderr


def test_the_lane_runs_where_the_credentials_are_known() -> None:
    at = servers.ministack().endpoint
    told = on_the_account(at.url, at.access_key, at.secret_key, "-k", "aws-s3 and missing_object", "-q")
    assert pytest.ExitCode.OK == told.returncode, told.stdout
    assert "1 passed" in told.stdout


def test_the_option_alone_is_not_enough() -> None:
    command = [sys.executable, "-m", "pytest", "--aws", "--collect-only", "-q", "tests/servers"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PALAVER_TEST_AWS_")}
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert pytest.ExitCode.USAGE_ERROR == told.returncode
    assert "PALAVER_TEST_AWS_SECRET_ACCESS_KEY" in told.stderr
