#!/usr/bin/env bash
# The servers that come neither from PyPI nor with the system: dynalite from npm, PgBouncer, PostgreSQL and Redis from the system's packages.
# Each may fail by itself; the tests that need it then say what is missing.
set -uo pipefail
cd "$(dirname "$0")/../.."

if command -v npm >/dev/null; then
    mkdir -p .venv/node
    cp requirements/node/package.json requirements/node/package-lock.json .venv/node/
    npm ci --prefix .venv/node --ignore-scripts --no-audit --no-fund --loglevel=error || echo 'absent: dynalite (npm ci failed)' >&2
else
    echo 'absent: dynalite (needs node and npm)' >&2
fi

# RUNLEVEL=1 keeps the packages from starting services of their own.
package() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends -qq "$1" >/dev/null 2>&1 ||
            { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends -qq "$1" >/dev/null; }; } ||
            echo "absent: $1 (apt-get install failed)" >&2
    else
        echo "absent: $1 (install it with the system's packages)" >&2
    fi
}
command -v pgbouncer >/dev/null || test -x /usr/sbin/pgbouncer || package pgbouncer
test -x /usr/lib/postgresql/15/bin/postgres || package postgresql-15
command -v redis-server >/dev/null || package redis-server
exit 0
