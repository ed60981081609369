"""What the tests of the rows share."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import Process, environment

from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.store.local.lock import TURNSTILE_NAME
from plexus_tactus_cache.store.local.rows import Rows

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


def opened(directory: Path, durability: str = "full") -> tuple[str, ...]:
    """The statements for a Process with its own `rows` on the directory, and `put`."""
    return (
        "import json, os, signal, time",
        "from pathlib import Path",
        "from plexus_tactus_cache.store.local.rows import Rows",
        f"rows = Rows(Path({str(directory)!r}), durability={durability!r}, lock_timeout=30)",
        "put = lambda key: rows.transaction(lambda: rows.write_row(key, b'x'))",
    )


def enter(process: Process) -> int:
    """Let the process begin a transaction that does not end: its pid."""
    pid = process.do("os.getpid()")
    inside = json.dumps({"value": "inside"})
    process.tell(
        f"rows.transaction(lambda: (rows.write_row('a', b'1'), print({inside!r}, flush=True), signal.pause()))"
    )
    assert process.answer() == "inside"
    assert isinstance(pid, int)
    return pid


def until_somebody_waits(directory: Path) -> None:
    """For the lock of another process: of that there is no event."""
    end = time.monotonic() + PATIENCE
    while not _turnstile_taken(directory):
        assert time.monotonic() < end
        time.sleep(0.005)


def _turnstile_taken(directory: Path) -> bool:
    with (directory / TURNSTILE_NAME).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


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
