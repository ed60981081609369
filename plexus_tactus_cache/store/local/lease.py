"""The lease of a directory: a file lock, so that the kernel gives it back when its holder dies.

A holder that is stopped keeps the lock. It says that it is alive by touching the file (no durable write), and who
finds the file untouched for `LEASE_SECONDS` of its own clock takes the lease without the lock. The generation, in the
row `lease`, keeps the former holder from changing anything when it wakes up.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from plexus_tactus_cache.errors import StoreReadOnly
from plexus_tactus_cache.store.contract import LEASE_SECONDS

LEASE_NAME = "leader.lock"
May = Literal["free", "from the living"]


class LeaseFile:
    """The file, as one opener of the directory sees it. Any thread; a Forkable."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._path = directory / LEASE_NAME
        self._clock = clock
        self._lock = threading.Lock()
        self._file: int | None = None
        self._locked = False
        self._seen: tuple[int, int] | None = None  # generation and last touch
        self._since = 0.0  # when that was seen first

    def may_take(self, generation: int, *, from_the_living: bool) -> May | None:
        """Whether the lease of `generation` can be had now: its lock is free, or its holder has not moved for long.

        `from_the_living`: whether that holder has it without the lock.
        """
        with self._lock:
            if self._locked:
                return None  # this opener has it
            if self._try_lock() and not from_the_living:
                return "free"
            seen = generation, os.stat(self._open()).st_mtime_ns
            if seen != self._seen:
                self._seen, self._since = seen, self._clock()
            quiet = self._clock() - self._since >= LEASE_SECONDS
            if from_the_living and self._locked and not quiet:
                self._unlock()
            if not quiet:
                return None
            return "free" if self._locked else "from the living"

    def touch(self) -> bool:
        """Say that the holder is alive: whether it has the lock, or could get it now."""
        with self._lock:
            os.utime(self._open())
            return self._locked or self._try_lock()

    def is_held(self) -> bool:
        """Whether anybody, here or elsewhere, has the lock. Changes nothing."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def let_go(self) -> None:
        """Give the lock back; closing the file does."""
        with self._lock:
            self._unlock()

    def _unlock(self) -> None:
        file, self._file, self._locked = self._file, None, False
        if file is not None:
            os.close(file)

    def _try_lock(self) -> bool:
        if not self._locked:
            try:
                fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._locked = True
        return True

    def _open(self) -> int:
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise StoreReadOnly(f"{self._path} cannot be opened: {error.strerror}; nothing is synced") from error
        return self._file

    # --- forks --------------------------------------------------------------------------------------------

    def hold_still(self) -> None:
        self._lock.acquire()

    def go_on(self) -> None:
        self._lock.release()

    def leave_to_parent(self) -> None:
        """The lease is the parent's, and ends with it: a child must not keep the file open."""
        self._unlock()
        self._lock = threading.Lock()
        self._seen = None


class LocalLease:
    """See Lease in contract.py."""

    def __init__(self, file: LeaseFile, generation: int, settled: Callable[[int], bool], *, has_file: bool) -> None:
        self.generation = generation
        self._file = file
        self._settled = settled
        self._has_file = has_file
        self._pid = os.getpid()

    def beat(self) -> bool:
        if self._pid != os.getpid():
            return False
        if self._file.touch() and not self._has_file:
            self._has_file = self._settled(self.generation)
            return self._has_file
        return True

    def release(self) -> None:
        if self._pid == os.getpid():
            self._file.let_go()
