"""What lets the tests reach a real account, and what keeps every other run away from one.

`pytest --aws` alone is not enough: the account is named in variables of our own, so that credentials that happen to be there stay unused.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from tests.servers.emulators import Endpoint
from tests.servers.presence import Absent

VARIABLES = ("PALAVER_TEST_AWS_REGION", "PALAVER_TEST_AWS_ACCESS_KEY_ID", "PALAVER_TEST_AWS_SECRET_ACCESS_KEY")
TOKEN = "PALAVER_TEST_AWS_SESSION_TOKEN"
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


def endpoint(service: str) -> Endpoint:
    """The real account's endpoint of a service. Raises Absent unless it was asked for with --aws."""
    if not _asked:
        raise Absent(f"a real account is used under --aws alone, with {', '.join(VARIABLES)}")
    region, key, secret = (os.environ[name] for name in VARIABLES)
    return Endpoint("aws", f"https://{service}.{region}.amazonaws.com", region, key, secret, os.environ.get(TOKEN, ""), "real")


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
