"""Real servers for the tests. Each function starts its server at the first call, on a free port, and returns the same one ever after.

A server that this machine does not have skips the test that asks for it, and fails it where the environment variable CI is set.
The user's own servers take the place of ours: PALAVER_TEST_POSTGRES_URL and PALAVER_TEST_POSTGRES15_URL (the address of a superuser);
PALAVER_TEST_REDIS_URL; PALAVER_TEST_DYNAMODB_URL and PALAVER_TEST_S3_URL (http addresses) are tested
besides the emulators.
`start_…` gives a server of one's own, for tests that stop or kill it; close it afterwards.
"""

from __future__ import annotations

import os

from tests.servers import emulators, postgres, redis as redis_
from tests.servers.account import allowed, endpoint as real_endpoint
from tests.servers.emulators import Emulator, Endpoint, start_dynalite, start_ministack, start_moto
from tests.servers.postgres import Database, External, PgBouncer, Postgres
from tests.servers.presence import Absent, Once, optional, package_version
from tests.servers.process import Failed, free_port
from tests.servers.radosgw import RadosGateway
from tests.servers.redis import Cluster as RedisCluster, External as ExternalRedis, Redis

__all__ = [
    "Absent",
    "Database",
    "Emulator",
    "Endpoint",
    "ExternalRedis",
    "Failed",
    "PgBouncer",
    "Postgres",
    "Redis",
    "dynalite",
    "dynamodb_endpoints",
    "endpoint",
    "free_port",
    "guarded_ministack",
    "ministack",
    "moto",
    "pgbouncer",
    "postgres15",
    "postgres18",
    "radosgw",
    "redis",
    "redis_cluster",
    "s3_endpoints",
    "start_dynalite",
    "start_ministack",
    "start_moto",
    "start_postgres",
    "start_postgres15",
    "start_redis",
]


def start_postgres(**settings: str) -> Postgres:
    """Start a PostgreSQL 18 with pgvector that belongs to the caller, with the given settings."""
    return Postgres(postgres.bundled_binaries(), settings=settings)


def start_postgres15(**settings: str) -> Postgres:
    """Start a PostgreSQL 15 that belongs to the caller. It speaks TLS, and sorts by a language's rules where nobody says COLLATE "C"."""
    return Postgres(postgres.debian_binaries(), initdb=["--locale-provider=icu", "--icu-locale=en-US"], settings=settings)


@Once
def postgres18() -> Database:
    """PostgreSQL 18 with pgvector, shared by the test run."""
    own = os.environ.get("PALAVER_TEST_POSTGRES_URL")
    return External(own, postgres.bundled_binaries() / "psql") if own else start_postgres()


@Once
def postgres15() -> Database:
    """PostgreSQL 15 without pgvector, shared by the test run."""
    own = os.environ.get("PALAVER_TEST_POSTGRES15_URL")
    return External(own, postgres.bundled_binaries() / "psql") if own else start_postgres15()


@Once
def pgbouncer(*, pool: int = 4) -> PgBouncer:
    """A transaction pooler with so many server connections for each database and user, before the shared PostgreSQL 18."""
    postgres.pgbouncer_binary()
    return PgBouncer(postgres18(), pool=pool)


@Once
def ministack() -> Emulator:
    """An emulator of DynamoDB, its streams, S3, KMS and CloudFormation; it checks no rights."""
    return start_ministack()


@Once
def guarded_ministack() -> Emulator:
    """The same emulator, checking signatures and policies as the real service does."""
    return start_ministack({"AUTH": "true"})


@Once
def moto() -> Emulator:
    """An emulator of DynamoDB, its streams and S3."""
    return start_moto()


@Once
def dynalite() -> Emulator:
    """An emulator of DynamoDB without transactions and streams, durable."""
    return start_dynalite()


def start_redis(**settings: str) -> Redis:
    """Start a Redis that belongs to the caller; settings are those of redis.conf, with an underscore for each dash."""
    return Redis({name.replace("_", "-"): value for name, value in settings.items()})


@Once
def redis_cluster() -> RedisCluster:
    """Three nodes of a Redis Cluster, shared by the test run: keep to a prefix of your own."""
    return RedisCluster()


@Once
def redis() -> Redis | ExternalRedis:
    """Redis, shared by the test run: keep to a prefix of your own."""
    own = os.environ.get("PALAVER_TEST_REDIS_URL")
    return ExternalRedis(own) if own else start_redis()


@Once
def radosgw() -> RadosGateway:
    """Ceph's object gateway, a real S3 server; under --radosgw alone."""
    return RadosGateway()


def endpoint(name: str) -> Endpoint:
    """The endpoint of that name, its server started if need be: one of those that `dynamodb_endpoints` and `s3_endpoints` list."""
    match name:
        case "ministack" | "moto" | "dynalite":
            return {"ministack": ministack, "moto": moto, "dynalite": dynalite}[name]().endpoint
        case "radosgw":
            return radosgw().endpoint
        case "own-dynamodb" | "own-s3":
            return Endpoint(name, os.environ[OWN[name]])
        case "aws-dynamodb" | "aws-s3":
            return real_endpoint(name.removeprefix("aws-"))
    raise ValueError(f"there is no endpoint {name}")


OWN = {"own-dynamodb": "PALAVER_TEST_DYNAMODB_URL", "own-s3": "PALAVER_TEST_S3_URL"}


def dynamodb_endpoints() -> list[str]:
    """The names of the endpoints a DynamoDB suite runs on; for pytest.mark.parametrize. Nothing is started by asking."""
    return ["ministack", "moto", "dynalite", *_further("dynamodb")]


def s3_endpoints() -> list[str]:
    """The names of the endpoints an S3 suite runs on."""
    return ["ministack", "moto", *sorted(optional & {"radosgw"}), *_further("s3")]


def _further(service: str) -> list[str]:
    own = [f"own-{service}"] if os.environ.get(OWN[f"own-{service}"]) else []
    return own + ([f"aws-{service}"] if allowed() else [])


def there() -> dict[str, str]:
    """The servers this machine has and their versions; what it has not is told with its reason. Nothing is started."""
    bundled, debian = postgres.bundled_binaries, postgres.debian_binaries
    asked = {
        "postgres18": lambda: f"{postgres.version_of(bundled())}, pgvector {postgres.pgvector_version(bundled())}",
        "postgres15": lambda: postgres.version_of(debian()),
        "pgbouncer": postgres.pgbouncer_version,
        "ministack": lambda: package_version("ministack"),
        "moto": lambda: package_version("moto"),
        "dynalite": emulators.dynalite_version,
        "redis": redis_.version,
    }
    told: dict[str, str] = {}
    for name, ask in asked.items():
        try:
            told[name] = ask()
        except Absent as error:
            told[name] = f"absent ({error})"
    return told
