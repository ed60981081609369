"""The lease of a directory: a file lock, so that the kernel gives it back when its holder dies.

A holder that is stopped keeps the lock. It says that it is alive by touching the file (no durable write), and who
finds the file untouched for `LEASE_SECONDS` of its own clock takes the lease without the lock. The generation, in the
row `lease`, keeps the former holder from changing anything when it wakes up. What the row says of the lock:

| `Held`    | the holder of that generation                                                            |
|-----------|------------------------------------------------------------------------------------------|
| LOCKED    | has, or had, the lock: when that is free, so is the lease                                  |
| UNLOCKED  | took the lease from one that still had the lock: only beats say whether it lives           |
| NOBODY    | was such a one, and gave the lease back                                                    |
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Literal, Protocol

from plexus_tactus_cache.errors import StorageError
from plexus_tactus_cache.store.contract import LEASE_SECONDS
from plexus_tactus_cache.store.local import forks
from plexus_tactus_cache.store.local.directory import is_lack_of_descriptors, open_file, unusable

LEASE_NAME = "leader.lock"
May = Literal["free", "from the living"]


class Held(Enum):
    """What the row `lease` says of the lock; see above."""

    LOCKED = False
    UNLOCKED = True
    NOBODY = None


class LeaseFile:
    """The file, as one opener of the directory sees it. Any thread; a Forkable."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self.file = directory / LEASE_NAME
        self._clock = clock
        self._lock = threading.RLock()
        self._file: int | None = None
        self._locked = False
        self._generation: int | None = None  # that has the lock; None: nobody yet
        self._seen: tuple[int, int] | None = None  # generation and last touch
        self._since = 0.0  # when that was seen first

    def may_take(self, generation: int, held: Held) -> May | None:
        """Whether the lease of `generation` can be had now: its lock is free, or its holder has not moved for long.

        After "free" the lock is ours: `hold` it, or `let_go`.
        """
        with self._lock:
            if self._locked:
                return None  # this opener has it
            if held is not Held.UNLOCKED and self._try_lock(None):
                return "free"
            if held is Held.NOBODY:
                return "from the living"
            seen = generation, os.stat(self._open()).st_mtime_ns
            if seen != self._seen:
                self._seen, self._since = seen, self._clock()
            if self._clock() - self._since < LEASE_SECONDS:
                return None
            return "free" if self._try_lock(None) else "from the living"

    def hold(self, generation: int) -> None:
        """The lock that `may_take` took is that of this generation."""
        with self._lock:
            self._generation = generation

    def touch(self, generation: int) -> bool:
        """Say that the holder is alive: whether it has the lock, or could get it now."""
        now = time.time_ns()  # the file system's own clock may stand still between two beats
        with self._lock:
            os.utime(self._open(), ns=(now, now))
            return self._try_lock(generation)

    def is_held(self) -> bool:
        """Whether anybody, here or elsewhere, has the lock. Changes nothing. Raises OutOfResources."""
        try:
            file = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if is_lack_of_descriptors(error):
                raise unusable(self.file, error) from error
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def touched(self) -> float:
        """When its holder last said that it is alive, in seconds since the epoch. Changes nothing."""
        try:
            return os.stat(self.file).st_mtime
        except OSError:
            return 0.0

    def let_go(self, generation: int | None = None) -> None:
        """Give the lock back, if it is that of this generation; None: of a candidate."""
        with self._lock:
            if self._generation == generation:
                self._unlock()

    def close(self) -> None:
        """Give back whatever this opener has."""
        with self._lock:
            self._unlock()

    def _unlock(self) -> None:
        """Closing the file does."""
        file, self._file, self._locked, self._generation = self._file, None, False, None
        if file is not None:
            os.close(file)

    def _try_lock(self, generation: int | None) -> bool:
        """Whether `generation` has the lock now."""
        if not self._locked:
            try:
                fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._locked, self._generation = True, generation
        return self._generation == generation

    def _open(self) -> int:
        if self._file is None:
            self._file = open_file(self.file)
        return self._file

    # --- forks --------------------------------------------------------------------------------------------

    def is_interrupted(self) -> bool:
        return False  # nothing of it keeps a child from closing it

    def hold_still(self) -> None:
        self._lock.acquire()

    def go_on(self) -> None:
        forks.let_go(self._lock)

    def leave_to_parent(self) -> None:
        """The lease is the parent's, and ends with it: a child must not keep the file open."""
        self._unlock()
        self._lock = threading.RLock()
        self._seen = None


class LeaseRow(Protocol):
    """The row `lease`, as a lease uses it."""

    def newest_generation(self) -> int:
        """That of whoever took the lease last."""

    def note_held(self, generation: int, held: Held) -> bool:
        """Note how the lease is held; False, and nothing is noted, when that generation is not the newest."""


class LocalLease:
    """See Lease in contract.py."""

    def __init__(self, generation: int, file: LeaseFile, row: LeaseRow, held: Held) -> None:
        self.generation = generation
        self._file = file
        self._row = row
        self._held = held
        self._pid = os.getpid()

    @property
    def is_newest(self) -> bool:
        """Whether it was neither lost nor given back, nor is a parent's."""
        if self._held is Held.NOBODY or self._pid != os.getpid():
            return False
        return self._row.newest_generation() == self.generation

    def beat(self) -> bool:
        if not self.is_newest:
            return False
        if self._file.touch(self.generation) and self._held is Held.UNLOCKED:
            if not self._row.note_held(self.generation, Held.LOCKED):
                return False
            self._held = Held.LOCKED  # others need not wait for a beat any more
        return True

    def release(self) -> None:
        if self._pid != os.getpid():
            return
        held, self._held = self._held, Held.NOBODY
        if held is Held.UNLOCKED:
            try:
                self._row.note_held(self.generation, Held.NOBODY)
            except StorageError:
                pass  # it is free LEASE_SECONDS after the last beat, as if we had died
        self._file.let_go(self.generation)
