"""What lets the tests reach a real account, and what keeps every other run away from one.

`pytest --aws` alone is not enough: the account is named in variables of our own, so that credentials that happen to be there stay unused.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from tests.servers.emulators import Endpoint
from tests.servers.presence import Absent
from tests.servers.process import Failed

VARIABLES = ("PALAVER_TEST_AWS_REGION", "PALAVER_TEST_AWS_ACCESS_KEY_ID", "PALAVER_TEST_AWS_SECRET_ACCESS_KEY")
TOKEN = "PALAVER_TEST_AWS_SESSION_TOKEN"
ELSEWHERE = "PALAVER_TEST_AWS_ENDPOINT"
"""Another server in AWS's place: to try this way itself without an account."""
NOWHERE = "http://127.0.0.1:9"  # nothing listens on the discard port
_asked = False


def ask() -> None:
    """Allow the real account, for this run; raises Absent unless the environment names it in full."""
    global _asked
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise Absent(f"--aws needs {', '.join(missing)}")
    _asked = True


def allowed() -> bool:
    return _asked


def told() -> str:
    """Say what a run with --aws uses and does there, for its header."""
    at = os.environ.get(ELSEWHERE) or "amazonaws.com"
    key = os.environ[VARIABLES[1]]
    return (
        f"real account: {os.environ[VARIABLES[0]]} at {at}, access key {key[:4]}…{key[-4:]}; the tests whose names say aws- make tables and"
        " buckets of their own there and delete them, which costs money"
    )


def check() -> str:
    """Ask whose the credentials are, which is free, and return the account; raises Failed where they are refused or nobody answers."""
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
    from botocore.session import Session  # type: ignore[import-untyped]

    at = endpoint("sts")
    asking = Session().create_client(
        "sts",
        region_name=at.region,
        endpoint_url=at.url,
        aws_access_key_id=at.access_key,
        aws_secret_access_key=at.secret_key,
        aws_session_token=at.session_token or None,
        config=Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2}),
    )
    try:
        return str(asking.get_caller_identity()["Account"])
    except ClientError as error:
        raise Failed(f"AWS refused the credentials of PALAVER_TEST_AWS_*: {error.response['Error']['Code']}") from None
    except BotoCoreError as error:
        raise Failed(f"nobody could be asked about the credentials of PALAVER_TEST_AWS_*: {type(error).__name__} at {at.url}") from None


def endpoint(service: str) -> Endpoint:
    """The real account's endpoint of a service. Raises Absent unless it was asked for with --aws."""
    if not _asked:
        raise Absent(f"a real account is used under --aws alone, with {', '.join(VARIABLES)}")
    region, key, secret = (os.environ[name] for name in VARIABLES)
    url = os.environ.get(ELSEWHERE) or f"https://{service}.{region}.amazonaws.com"
    return Endpoint("aws", url, region, key, secret, os.environ.get(TOKEN, ""), "real")


def close_the_way(environment: MutableMapping[str, str]) -> None:
    """Take from an environment what a client would find a real account by; what is left leads nowhere."""
    for name in [name for name in environment if name.startswith("AWS_")]:
        del environment[name]
    environment.update(
        AWS_ENDPOINT_URL=NOWHERE,
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    )
