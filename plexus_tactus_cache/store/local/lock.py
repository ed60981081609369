"""The writer's lock: one writer at a time, in all threads and processes, each in its turn.

SQLite's own waiting is unfair: of two processes that write flat out, one gets a tenth of the commits. And below 3.51.3
a checkpoint that meets another connection's commit can damage the database (plexus-facts.md §10). Under this lock
neither happens: it is held around every write transaction and every checkpoint.

Threads of one process stand in line. Processes take two locks of the operating system: who waits for the writer's lock
holds the turnstile, so that the one who just wrote cannot be first again. The kernel frees both when their holder dies.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import deque
from pathlib import Path

from plexus_tactus_cache.errors import CacheClosed, StoreBusy, StoreReadOnly

LOCK_NAME, TURNSTILE_NAME = "writer.lock", "writer.turnstile"
_PAUSE = 0.0005  # seconds between looks at a lock that another process holds
_SLICE = 0.05  # seconds after which a thread in line looks again, should its call have got lost in an interrupt

Ticket = threading.Event  # a thread's place in the line; set when it may be the first


class WriterLock:
    """The right to write in one directory. Not reentrant; any thread.

    Whoever wants it makes a `ticket`, and gives it back with `release` whatever came of `acquire`.
    """

    def __init__(self, directory: Path) -> None:
        self._paths = directory / LOCK_NAME, directory / TURNSTILE_NAME
        self._line: deque[Ticket] = deque()  # the first is the holder, or will be
        self._files: list[tuple[int, int]] = []  # one pair, or none
        self._closing = False

    def acquire(self, ticket: Ticket, deadline: float) -> None:
        """Wait for the lock until `deadline`, on the monotonic clock.

        Raises StoreBusy, naming who holds it; CacheClosed.
        """
        self._line.append(ticket)
        while self._line[0] is not ticket:
            self._check_open()
            left = deadline - time.monotonic()
            if left <= 0:
                raise StoreBusy(f"other threads of this process are writing in {self._paths[0].parent}")
            ticket.wait(min(left, _SLICE))
        self._check_open()
        lock, turnstile = self._open()
        self._wait_for(turnstile, deadline)
        self._wait_for(lock, deadline)
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        os.pwrite(lock, f"{os.getpid():<10}\n".encode(), 0)

    def release(self, ticket: Ticket) -> None:
        """Give it back, whether it was acquired, waited for, or neither. Twice is fine."""
        line = self._line
        if line and line[0] is ticket:  # only the first has touched the files
            for pair in self._files:
                for file in pair:
                    fcntl.flock(file, fcntl.LOCK_UN)
        try:
            line.remove(ticket)
        except ValueError:
            return  # given back before
        try:
            line[0].set()
        except IndexError:
            self._close_if_unused()

    def holder(self) -> int | None:
        """The process that holds the lock; None while none does. Reads a file, waits for nothing."""
        try:
            file = os.open(self._paths[0], os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(os.pread(file, 10, 0).strip() or b"0") or None
            return None
        finally:
            os.close(file)

    def close(self) -> None:
        """For good: who waits gets a CacheClosed, who has the lock keeps it until it is done."""
        self._closing = True
        self._close_if_unused()

    def forked(self) -> None:
        """In a child: what the parent holds, or waits for, is the parent's."""
        self._close_files()
        self._line = deque()

    def _check_open(self) -> None:
        if self._closing:
            raise CacheClosed(f"the store in {self._paths[0].parent} is closed")

    def _close_if_unused(self) -> None:
        """A thread stands in line before it asks whether this is closing, and we ask in the other order."""
        if self._closing and not self._line:
            self._close_files()

    def _close_files(self) -> None:
        while self._files:
            try:
                pair = self._files.pop()
            except IndexError:
                return  # another thread was faster
            for file in pair:
                os.close(file)

    def _open(self) -> tuple[int, int]:
        if not self._files:
            lock = _open(self._paths[0])
            try:
                self._files.append((lock, _open(self._paths[1])))
            except BaseException:
                os.close(lock)
                raise
        return self._files[0]

    def _wait_for(self, file: int, deadline: float) -> None:
        while True:
            self._check_open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StoreBusy(
                        f"process {self.holder() or '?'} has held the writer's lock of {self._paths[0].parent} for too "
                        "long: end it, or let it go on"
                    ) from None
            time.sleep(_PAUSE)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreReadOnly(f"{path} cannot be opened: {error.strerror}") from error
