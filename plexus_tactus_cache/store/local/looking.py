"""Looking at a database without changing anything: no file is made or written, no lock of ours is taken.

SQLite writes beside a database in WAL mode even to read it, unless it is told not to. How it is told depends on what
is there, and is decided for each connection:

| beside the database            | it is read                                                                          |
|--------------------------------|-------------------------------------------------------------------------------------|
| no log, or an empty one        | as a file that does not change                                                      |
| a log and its index            | with both; others may write meanwhile. The index, a memory that processes share,    |
|                                | is the one file that may change: SQLite makes it anew from the log when who had it  |
|                                | has died. As read-only it would be so for the writers of this process, too          |
| a log without an index of use  | as a copy, log included, that is made for it                                        |

The first and the last know nothing of what is written meanwhile: the files tell, before and after each read.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from plexus_tactus_cache.errors import CacheCorrupted, LocalStoreError, StoreBusy, StoreReadOnly
from plexus_tactus_cache.store.local import directory as directories
from plexus_tactus_cache.store.local import marker
from plexus_tactus_cache.store.local.connecting import Connection, connected, is_busy, uri
from plexus_tactus_cache.store.local.database import Database
from plexus_tactus_cache.store.local.directory import DATABASE, INDEX, JOURNAL, LOG, REPAIR
from plexus_tactus_cache.store.local.lease import LeaseFile
from plexus_tactus_cache.store.local.lock import WriterLock
from plexus_tactus_cache.store.local.slot import Slot, disconnect
from plexus_tactus_cache.store.local.wal import read_log

Result = TypeVar("Result")
log = logging.getLogger("plexus_tactus_cache")

_PRAGMAS = ("PRAGMA mmap_size = 0", "PRAGMA cache_size = 8192")
_PATIENCE = 1.0  # seconds for a process that opens or closes the database; one that is stopped holds it for ever
_PAUSE = 0.005  # seconds

_Files = tuple[
    tuple[int, ...] | None, ...
]  # database, log and journal: inode, size and time of change; None: not there


class _View(NamedTuple):
    """How a connection sees the database."""

    files: _Files  # when it was opened
    follows: bool  # whether it sees what others write

    def is_of(self, files: _Files) -> bool:
        if not self.follows:
            return self.files == files
        before, now = self.files[0], files[0]
        return before is not None and now is not None and before[0] == now[0]


class LookingDatabase(Database):
    """A Database that only looks; see there for the arguments. `durability`: of those who wrote.

    Raises StoreReadOnly where it cannot be used; CacheCorrupted, see `_check_log`.
    """

    def __init__(self, file: Path, place: Path, *, durability: str, lock_timeout: float) -> None:
        obstacle = marker.in_the_way(place, (DATABASE, LOG, INDEX, JOURNAL))
        if obstacle is not None:
            raise StoreReadOnly(obstacle)
        _check_log(place, durability)
        super().__init__(file, place, durability="normal", lock=WriterLock(place), lock_timeout=lock_timeout)

    def _new_connection(self, slot: Slot) -> Connection:
        deadline = time.monotonic() + min(self._timeout, _PATIENCE)
        while True:
            files = self._files()
            database, log, journal = files
            try:
                if journal is not None:
                    break
                if log is None or log[1] == 0:
                    return self._seen(slot, _View(files, False), self.file, "immutable=1")
                if not self.file.with_name(INDEX).exists():
                    break
                return self._seen(slot, _View(files, True), self.file, "mode=ro")
            except sqlite3.OperationalError as error:
                if database is None or (log is None or log[1] == 0):
                    raise
                if not is_busy(error) or time.monotonic() >= deadline:
                    break
            time.sleep(_PAUSE)
        return self._copied(slot)

    def _seen(self, slot: Slot, view: _View, file: Path, options: str) -> Connection:
        slot.view = view
        return connected(
            uri(file, options), file, (*_PRAGMAS, "SELECT 1 FROM sqlite_master LIMIT 1")
        )  # that opens log and index

    def _files(self) -> _Files:
        return tuple(map(_state, (self.file, self.file.with_name(LOG), self.file.with_name(JOURNAL))))

    def _copied(self, slot: Slot) -> Connection:
        """On a copy of what is there now, of one moment, whose files are gone as soon as they are open."""
        deadline = time.monotonic() + self._timeout
        while True:
            files, made = self._files(), None
            try:
                made = directories.copy(self.file.parent)
                if files == self._files():
                    return self._seen(slot, _View(files, False), made / DATABASE, "mode=rw")
            except OSError as error:
                if directories.is_lack_of_descriptors(error) or directories.lacks_descriptors():
                    # Python's tempfile says that no directory can be used
                    raise directories.out_of_descriptors(self._place) from error
                raise StoreReadOnly(f"{self._place} cannot be copied to look at it: {error}") from error
            finally:
                if made is not None:
                    shutil.rmtree(made, ignore_errors=True)
            if time.monotonic() >= deadline:
                raise StoreBusy(f"{self._place} changes faster than it can be copied to look at it")

    def _settled(self, read: Callable[[], Result]) -> Result:
        """What `read()` returns, once it was of one state of the files."""
        begin = time.monotonic()
        deadline, patience = begin + self._timeout, begin + min(self._timeout, _PATIENCE)
        slot = self._slot()
        while True:
            self.refuse_when_closed()
            with slot.lock:
                if not self._sees_what_is_there(slot):
                    disconnect(slot)
            try:
                result = read()
            except LocalStoreError as error:
                unchanged = self._sees_what_is_there(slot)
                mendable = slot.connection is not None and isinstance(error, StoreReadOnly | StoreBusy)
                if time.monotonic() >= (patience if unchanged else deadline) or (unchanged and not mendable):
                    raise
                with slot.lock:
                    disconnect(slot)  # it was changed meanwhile; or whoever did so has died, and left a damaged index
            else:
                if self._sees_what_is_there(slot):
                    return result
                if time.monotonic() >= deadline:
                    raise StoreBusy(f"{self._place} changes faster than it can be read")
            time.sleep(_PAUSE)

    def _sees_what_is_there(self, slot: Slot) -> bool:
        return isinstance(slot.view, _View) and slot.view.is_of(self._files())

    # --- as a Database ------------------------------------------------------------------------------------

    def snapshot(self, work: Callable[[], Result]) -> Result:
        if self._in_order().owner is not None:
            return work()
        return self._settled(lambda: super(LookingDatabase, self).snapshot(work))

    def execute(self, statement: str, values: tuple[Any, ...] = (), *, write: bool = False) -> list[Any]:
        if write or self._in_order().owner is not None:
            return super().execute(statement, values, write=write)
        return self._settled(lambda: super(LookingDatabase, self).execute(statement, values))


def _check_log(place: Path, durability: str) -> None:
    """Raises CacheCorrupted when SQLite would drop transactions from the log, and whoever closes it delete it.

    Only said with `durability="normal"`, where a power cut may leave holes. Not looked for where somebody syncs: the
    log was in order when he came.
    """
    if LeaseFile(place, time.monotonic).is_held():
        return
    for _ in range(2):  # others may write meanwhile, and begin the log anew: that is not damaged when it is read again
        try:
            content = (place / LOG).read_bytes()  # which has no POSIX locks that closing it would end
        except OSError:
            return  # there is none; or opening the database says what is wrong with it
        if not read_log(content).damaged:
            return
    what = f"the log of the database in {place} is damaged, and what was written after that"
    if durability == "full":
        raise CacheCorrupted(f"{what} would be lost: {REPAIR}")
    log.error("%s is lost, as it may be after a power cut with durability=normal", what)


def _state(file: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
