"""Starts one server and outlives it: the server stops when the tests end, however they end.

Run as a script by `process.py`. Its standard input is a pipe that only the test process holds: "stop" stops the server, "kill" kills it,
and its end means that the tests are gone, kill -9 included; then the server's folder goes as well. Needs only the standard library.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any

PATIENCE = 10.0  # seconds from the polite signal to the other one


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if int(line.split()[1]) == pid]


def kill_tree(pid: int) -> None:
    """Kill a server and the processes it made, none of which gets to clean up; the parent first stands still, so that it makes no more."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        for child in children_of(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)


def listen(server: subprocess.Popen[bytes], folder: str, polite: int) -> None:
    order = sys.stdin.readline().strip()
    if order == "kill":
        kill_tree(server.pid)
    else:
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(polite)
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            kill_tree(server.pid)
    server.wait()
    if order == "":
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def start(command: list[str], folder: str, user: str) -> subprocess.Popen[bytes]:
    owner: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    with open(os.path.join(folder, "log"), "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True, **owner)


def main(folder: str, user: str, polite: str, *command: str) -> None:
    server = start(list(command), folder, user)
    print(server.pid, flush=True)
    listener = threading.Thread(target=listen, args=(server, folder, int(polite)))
    listener.start()
    # Taking note of the end at once keeps a server that died by itself from standing in the process table as if it lived.
    server.wait()
    listener.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
