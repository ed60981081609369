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

from plexus_tactus_cache.errors import CacheClosed, LocalStoreError, StoreBusy
from plexus_tactus_cache.store.local.directory import open_file, unusable

LOCK_NAME, TURNSTILE_NAME = "writer.lock", "writer.turnstile"
_NOBODY = b" " * 10
_PAUSE = 0.0005  # seconds between looks at a lock that another process holds
_SLICE = 0.05  # seconds after which a thread in line looks again, should its call have got lost in an interrupt


class _Files:
    """Lock and turnstile, open. Closed when nobody refers to them: never under the feet of who waits or writes."""

    def __init__(self, lock: Path, turnstile: Path) -> None:
        self.lock = self.turnstile = -1
        self.waiting = False  # whether the turnstile may be locked
        self.named: list[int] = []  # those that may say who we are
        self.lock = open_file(lock)
        self.turnstile = open_file(turnstile)

    def let_go(self) -> None:
        if self.lock < 0:
            return  # closed: a fork left them to the parent
        if self.waiting:
            self.pass_turnstile()
        self._unlock(self.lock)

    def name(self, file: int) -> None:
        """Say in it who has locked it."""
        self.named.append(file)
        os.pwrite(file, f"{os.getpid():<10}\n".encode(), 0)

    def _unlock(self, file: int) -> None:
        """The next one takes it a moment before it can say who it is: nobody is named for it by then."""
        try:
            if file in self.named:
                os.pwrite(file, _NOBODY, 0)
                self.named.remove(file)
            fcntl.flock(file, fcntl.LOCK_UN)
        except (OSError, ValueError):
            if self.lock >= 0:
                raise
            # In a child, that was forked meanwhile: they are the parent's.

    def pass_turnstile(self) -> None:
        """Who comes next may wait for the lock."""
        self._unlock(self.turnstile)
        self.waiting = False

    def close(self) -> None:
        files, self.lock, self.turnstile = (self.lock, self.turnstile), -1, -1
        for file in files:
            if file >= 0:
                os.close(file)

    __del__ = close


class Ticket:
    """A thread's place in the line.

    Not a threading.Event: that is Python, which an interrupt can leave locked for whoever calls it.
    """

    def __init__(self) -> None:
        self._called = threading.Lock()
        self._called.acquire()
        self.files: _Files | None = None  # of who is the first

    def wait(self, seconds: float) -> None:
        """Until `call`, or for so long."""
        self._called.acquire(timeout=seconds)

    def call(self) -> None:
        """Say that it may be the first now."""
        try:
            self._called.release()
        except RuntimeError:
            pass  # called before


class WriterLock:
    """The right to write in one directory. Not reentrant; any thread.

    Whoever wants it makes a `ticket`, and gives it back with `release` whatever came of `acquire`.
    """

    def __init__(self, directory: Path) -> None:
        self._paths = directory / LOCK_NAME, directory / TURNSTILE_NAME
        self._line: deque[Ticket] = deque()  # the first is the holder, or will be
        self._files: _Files | None = None
        self._closing = False

    def acquire(self, ticket: Ticket, deadline: float) -> None:
        """Wait for the lock until `deadline`, on the monotonic clock.

        Raises StoreBusy, naming who holds it; CacheClosed; LocalStoreError in a child that was forked meanwhile.
        """
        line = self._line
        line.append(ticket)
        while line[0] is not ticket:
            self._check_open(line)
            left = deadline - time.monotonic()
            if left <= 0:
                raise StoreBusy(f"other threads of this process are writing in {self._paths[0].parent}")
            ticket.wait(min(left, _SLICE))
        ticket.files = files = self._open()
        files.waiting = True
        try:
            for file in (files.turnstile, files.lock):
                self._wait_for(file, deadline, line)
                files.name(file)
            files.pass_turnstile()
        except (OSError, ValueError) as error:  # ValueError: in a child, where the files are closed
            self._check_open(line)
            if isinstance(error, ValueError):
                raise
            raise unusable(self._paths[0], error) from error

    def release(self, ticket: Ticket) -> None:
        """Give it back, whether it was acquired, waited for, or neither. Twice is fine."""
        line = self._line
        if ticket.files is not None:
            ticket.files.let_go()
            ticket.files = None
        try:
            line.remove(ticket)
        except ValueError:
            return  # given back before
        try:
            line[0].call()
        except IndexError:
            pass  # nobody waits

    def holder(self) -> int | None:
        """The process that holds the lock; None while none does, or none is known. Reads a file, waits for nothing.
        Raises LocalStoreError."""
        return self._holder_of(self._paths[0])

    def _holder_of(self, path: Path) -> int | None:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unusable(path, error) from error
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = int(os.pread(file, 10, 0).strip() or b"0")
                return pid if pid and _lives(pid) else None  # who died with it is not who has it now
            return None
        finally:
            os.close(file)

    def close(self) -> None:
        """For good: who waits gets a CacheClosed, who has the lock keeps it until it is done."""
        self._closing = True
        self._files = None

    def _check_open(self, line: deque[Ticket]) -> None:
        if self._closing:
            raise CacheClosed(f"the store in {self._paths[0].parent} is closed")
        if line is not self._line:
            raise LocalStoreError(
                f"this process was forked while its parent waited to write in {self._paths[0].parent}"
            )

    def forked(self) -> None:
        """In a child: what the parent holds, or waits for, is the parent's."""
        for files in (self._files, *(ticket.files for ticket in self._line)):
            if files is not None:
                files.close()  # without letting go: the parent has locked the same open file
        self._files = None
        self._line = deque()

    def _open(self) -> _Files:
        files = self._files
        if files is None:
            files = self._files = _Files(*self._paths)
        return files

    def _wait_for(self, file: int, deadline: float, line: deque[Ticket]) -> None:
        while True:
            self._check_open(line)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    # one that was stopped while it waited for the lock holds the turnstile only
                    holder = self.holder() or self._holder_of(self._paths[1])
                    raise StoreBusy(
                        f"process {holder or '?'} has held the writer's lock of {self._paths[0].parent} for too "
                        "long: end it, or let it go on"
                    ) from None
            time.sleep(_PAUSE)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # of another user
    return True
