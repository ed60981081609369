"""What the tests of the rows share."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import environment

from plexus_tactus_cache.store.local.rows import DATABASE, Rows

MEGABYTE = 2**20
PATIENCE = 60.0  # seconds: none of our waits lasts that long, on any machine

_HEAD = "import os, sys\nfrom pathlib import Path\nfrom plexus_tactus_cache.store.local.rows import Rows\n"


class Oops(Exception):
    """Raised by a caller inside a transaction."""


def fail() -> None:
    raise Oops


def open_rows(directory: Path, durability: str = "full", lock_timeout: float = 10.0) -> Rows:
    return Rows(directory, durability=durability, lock_timeout=lock_timeout)


def put(rows: Rows, key: str, payload: bytes = b"x") -> None:
    rows.transaction(lambda: rows.write_row(key, payload))


def put_all(rows: Rows, found: dict[str, bytes]) -> None:
    """All in one transaction."""

    def work() -> None:
        for key, payload in found.items():
            rows.write_row(key, payload)

    rows.transaction(work)


def tamper(directory: Path, statement: str, *values: Any) -> int:
    """Change the database behind everybody's back: how many rows were hit."""
    connection = sqlite3.connect(directory / DATABASE)
    with connection:
        hit = connection.execute(statement, values).rowcount
    connection.close()
    return hit


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns in another thread."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(PATIENCE)
    assert found, "the thread failed"
    return found[0]


def in_process(script: str, *arguments: str) -> str:
    """The output of a script in a process of its own; it has `Rows`, `Path`, `os` and `sys`."""
    command = [sys.executable, "-c", _HEAD + script, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE, env=environment())
    return done.stdout.strip()


def fork(work: Callable[[], None]) -> Callable[[], int]:
    """Run `work` in a forked child: a function that waits for its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:  # noqa: BLE001 - the child must never return into pytest
            sys.stderr.write(f"child: {error!r}\n")
            sys.stderr.flush()
        finally:
            os._exit(status)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
