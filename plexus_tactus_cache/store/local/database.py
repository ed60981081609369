"""The database: a connection for each thread, and transactions that have an owner.

A transaction is one call, `transaction(work)`, in one frame: whatever is raised inside it, by a signal handler between
any two instructions too, passes through its `finally`. Whether a thread is inside one is known by that frame, never by
asking the connection: a call that is over owns nothing; what it left open is undone.
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from plexus_tactus_cache.errors import CacheClosed, CacheCorrupted, LocalStoreError, StoreBusy, StoreReadOnly
from plexus_tactus_cache.store.local import directory as directories
from plexus_tactus_cache.store.local import forks
from plexus_tactus_cache.store.local.connecting import Connection, connected, is_busy, refuse_left, uri
from plexus_tactus_cache.store.local.directory import REPAIR
from plexus_tactus_cache.store.local.lock import Ticket, WriterLock
from plexus_tactus_cache.store.local.slot import Slot, disconnect, is_running

Result = TypeVar("Result")
log = logging.getLogger("plexus_tactus_cache")

_SYNCHRONOUS = {"full": 2, "normal": 1}
LOG_PAGES = 1000  # of SQLite's write-ahead log, above which it is brought into the database
_PAGE = 4096 + 24  # bytes
_DAMAGE = ("malformed", "not a database", "unsupported file format")  # what SQLite calls it
_PAUSE = 0.005  # seconds between tries while a program that is not ours holds the database
_numbers = itertools.count(1)


class Database:
    """One SQLite database in WAL mode, for any number of threads and processes.

    Args:
        place: what errors call it.
        lock: held around every write and every close.
        lock_timeout: seconds that a write waits for others.

    Every method raises a LocalStoreError and nothing else of the database's.
    """

    def __init__(self, file: Path, place: Path, *, durability: str, lock: WriterLock, lock_timeout: float) -> None:
        self.file = file.absolute()
        self._place = place
        self._lock = lock
        self._timeout = lock_timeout
        full = int(durability == "full")
        self._pragmas = (
            f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}",
            f"PRAGMA fullfsync = {full}",  # on macOS nothing else survives a power cut
            f"PRAGMA checkpoint_fullfsync = {full}",
            # What brings the log into the database is a commit, so it happens under the writer's lock.
            f"PRAGMA wal_autocheckpoint = {LOG_PAGES}",
            f"PRAGMA journal_size_limit = {LOG_PAGES * _PAGE}",
            "PRAGMA mmap_size = 0",  # a mapped file that shrinks or fails kills the process
            "PRAGMA cache_size = 8192",
        )
        self._closed = False
        self._identity: tuple[int, int] | None = None  # of the file that the connections are on
        self._local = threading.local()
        self._slots: weakref.WeakSet[Slot] = weakref.WeakSet()  # those of threads that have not ended
        self._slots_lock = threading.RLock()
        self._held: list[Slot] = []  # while the process forks
        self._holds = False
        forks.register(self)

    # --- connections --------------------------------------------------------------------------------------

    def _slot(self) -> Slot:
        """This thread's."""
        slot: Slot | None = getattr(self._local, "slot", None)
        if slot is None:
            slot = Slot()
            with self._slots_lock:
                self._slots.add(slot)
            self._local.slot = slot
        return slot

    def connection(self) -> Connection:
        """This thread's connection; to be used under its slot's lock."""
        slot = self._slot()
        return slot.connection or self._connect(slot)

    def _connect(self, slot: Slot) -> Connection:
        """Raises CacheClosed after `close`."""
        self.refuse_when_closed()
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                slot.connection = self._new_connection(slot)
                slot.number = next(_numbers)
                return slot.connection
            except sqlite3.Error as error:
                # Another process that opens, closes or recovers holds the whole database for a moment.
                if not is_busy(error) or time.monotonic() >= deadline:
                    raise self.translated(error) from error
            time.sleep(_PAUSE)

    def _new_connection(self, slot: Slot) -> Connection:
        """One for that slot. Raises sqlite3.Error, LocalStoreError."""
        self._check_file()
        return connected(uri(self.file, "mode=rw"), self.file, self._pragmas)  # it never makes a new, empty one

    def _check_file(self) -> None:
        """Raises CacheCorrupted when the file was taken away, or replaced: what is written to it would be lost."""
        try:
            found = os.stat(self.file)
        except FileNotFoundError as error:
            raise CacheCorrupted(f"{self.file} is gone; {self._place} had a store in it") from error
        except OSError as error:
            raise directories.unusable(self.file, error) from error
        identity = found.st_dev, found.st_ino
        if self._identity is None:
            self._identity = identity
        if self._identity != identity:
            raise CacheCorrupted(f"{self.file} was replaced while it was in use: open the store again")

    def refuse_when_closed(self) -> None:
        """Raises CacheClosed after `close`; LocalStoreError in a child that was forked in the middle of a use."""
        if self._closed:
            raise CacheClosed(f"the store in {self._place} is closed")
        refuse_left(self.file)

    def release_thread(self) -> None:
        """Close this thread's connection; it is opened again when it is needed."""
        slot = self._slot()
        with slot.lock:
            disconnect(slot)

    def close(self, timeout: float) -> None:
        """Close every thread's connection; one that a thread is using after `timeout` seconds is left to that thread.

        Not under the writer's lock, which a stopped process may hold: the last close of all checkpoints, and SQLite
        does that only when no other connection exists that could commit.
        """
        self._closed = True
        self._lock.close()
        deadline = time.monotonic() + timeout
        with self._slots_lock:
            slots = list(self._slots)
        for slot in slots:
            if slot.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                try:
                    disconnect(slot)
                finally:
                    slot.lock.release()

    # --- forks --------------------------------------------------------------------------------------------

    def is_interrupted(self) -> bool:
        """Whether this thread is in the middle of a use of it, or waits for its turn to."""
        slot = self._in_order()
        if slot.owner is not None or slot.ticket is not None:
            return True
        # What a Condition asks, too; typeshed does not know it.
        return any(one.lock._is_owned() for one in list(self._slots))  # type: ignore[attr-defined]

    def hold_still(self) -> None:
        """Wait until no thread is inside SQLite, keep it so, and close every connection.

        A thread that waits for the writer's lock is not inside.
        """
        self._holds = True
        self._slots_lock.acquire()
        for slot in list(self._slots):
            slot.lock.acquire()
            self._held.append(slot)
            disconnect(slot)

    def go_on(self) -> None:
        """Also after a `hold_still` that an interrupt ended, which Python reports and forks all the same."""
        while self._held:
            self._held.pop().lock.release()
        if self._holds:
            self._holds = False
            forks.let_go(self._slots_lock)

    def leave_to_parent(self) -> None:
        mine = self._slot()
        mine.connection = mine.owner = mine.ticket = None
        mine.lock = threading.RLock()
        self._slots, self._slots_lock = weakref.WeakSet((mine,)), threading.RLock()
        self._held, self._holds = [], False
        self._lock.forked()

    # --- transactions -------------------------------------------------------------------------------------

    @property
    def writing(self) -> bool:
        """Whether this thread is inside a transaction."""
        slot = self._in_order()
        return slot.owner is not None and slot.writing

    def _in_order(self) -> Slot:
        """This thread's slot; what an interrupt has left open in it, and nobody owns, is undone."""
        slot = self._slot()
        if slot.owner is not None and not is_running(slot.owner):
            self._end(slot)
            log.error("what an interrupt left open on %s was undone", self._place)
        return slot

    def transaction(self, work: Callable[[], Result]) -> Result:
        """What `work()` returns, once what it wrote is durable. One inside another is part of it."""
        slot = self._in_order()
        if slot.owner is not None:
            if not slot.writing:
                raise RuntimeError("a transaction cannot begin inside a snapshot")
            return work()
        ticket = Ticket()
        try:
            try:
                slot.owner, slot.writing, slot.ticket = sys._getframe(), True, ticket
                deadline = time.monotonic() + self._timeout
                self.refuse_when_closed()
                self._lock.acquire(ticket, deadline)
                with slot.lock:
                    connection = slot.connection or self._connect(slot)
                    self._check_file()
                    self._begin(connection, deadline, "BEGIN IMMEDIATE")
                    result = work()
                    if slot.connection is not connection:
                        raise LocalStoreError("the process forked inside a transaction: it is the parent's")
                    self._commit(slot)
            finally:
                self._end(slot)
        except BaseException:
            self._end(slot)  # again, should a second interrupt have ended the first
            raise
        return result

    def alone(self, work: Callable[[], None]) -> None:
        """Do what is no transaction as the only writer; not inside one. Raises what `work` does, too."""
        slot = self._in_order()
        ticket = Ticket()
        try:
            slot.ticket = ticket
            self.refuse_when_closed()
            self._lock.acquire(ticket, time.monotonic() + self._timeout)
            work()
        finally:
            self._end(slot)

    def snapshot(self, work: Callable[[], Result]) -> Result:
        """What `work()` returns; its reads see one state of the store and block nobody."""
        slot = self._in_order()
        if slot.owner is not None:
            return work()
        try:
            try:
                slot.owner, slot.writing = sys._getframe(), False
                with slot.lock:
                    self._begin(slot.connection or self._connect(slot))
                    return work()
            finally:
                self._end(slot)
        except BaseException:
            self._end(slot)
            raise

    def _begin(self, connection: Connection, deadline: float = 0.0, statement: str = "BEGIN") -> None:
        while True:
            try:
                connection.execute(statement)
                return
            except sqlite3.Error as error:
                if not is_busy(error) or time.monotonic() >= deadline:
                    raise self.translated(error) from error
            time.sleep(_PAUSE)  # some program that is not ours: it knows nothing of our lock

    def _commit(self, slot: Slot) -> None:
        """One that raised has not happened, or the error says that nobody knows."""
        try:
            self.execute("COMMIT")
        except LocalStoreError as error:
            if "disk I/O error" in str(error.__cause__) and slot.connection is not None:
                self._take_back(slot, slot.connection)
            raise

    def _take_back(self, slot: Slot, connection: Connection) -> None:
        """After a commit whose sync failed: all of it may be in the log, and whoever recovers that would find it.

        One that changes nothing is put over its beginning; without a sync, which would fail as well.
        """
        try:
            if connection.in_transaction:
                connection.rows("ROLLBACK")
            connection.rows("PRAGMA synchronous = OFF")
            ((number,),) = connection.rows("PRAGMA user_version")
            connection.rows("BEGIN IMMEDIATE")
            connection.rows(f"PRAGMA user_version = {number}")
            connection.rows("COMMIT")
        except sqlite3.Error as error:
            raise LocalStoreError(
                f"the disk of {self._place} failed ({error}) while a write was made durable: whether it is stored is "
                "not known before the store is opened again; what was acknowledged is safe"
            ) from error
        finally:
            disconnect(slot)  # the next one syncs again

    def _end(self, slot: Slot) -> None:
        """Undo what is open, and let others write. To be called as often as one likes."""
        with slot.lock:
            connection = slot.connection
            if connection is not None and connection.in_transaction:
                try:
                    connection.execute("ROLLBACK")
                except sqlite3.Error:
                    slot.connection = None  # whatever it is in, it ends with the connection
                    connection.close()
        if slot.ticket is not None:
            self._lock.release(slot.ticket)
            slot.ticket = None
        slot.owner = None

    def execute(self, statement: str, values: tuple[Any, ...] = (), *, write: bool = False) -> list[Any]:
        """All rows of one statement: the one place where the database's errors become ours.

        Raises RuntimeError for one that writes, outside of a transaction.
        """
        slot = self._in_order()
        if write and (slot.owner is None or not slot.writing):
            refuse_left(self.file)  # then it was inside of one, which is the parent's
            raise RuntimeError("a row is written outside of a transaction")
        try:
            with slot.lock:
                connection = slot.connection or self._connect(slot)
                if slot.owner is not None and not connection.in_transaction:
                    # SQLite itself undoes one when the disk is full. Whatever followed would be on its own.
                    raise LocalStoreError(f"an error has undone the transaction on {self._place}")
                return connection.rows(statement, values)
        except sqlite3.Error as error:
            raise self.translated(error) from error

    def commits_of_others(self) -> tuple[int, int]:
        """Something else each time that others may have committed since; a new connection of ours cannot know."""
        version: int = self.execute("PRAGMA data_version")[0][0]
        return self._slot().number, version

    def translated(self, error: sqlite3.Error) -> LocalStoreError:
        """The error of ours that an error of SQLite's is."""
        text = str(error)
        if "full" in text or ("disk I/O error" in text and directories.is_full(self._place)):
            return directories.full(self._place)
        if "unable to open" in text and directories.lacks_descriptors():
            return directories.out_of_descriptors(self._place)
        if "readonly" in text or "unable to open" in text:
            return StoreReadOnly(f"{self._place} cannot be written: {text}")
        if is_busy(error):
            holder = self._lock.holder()
            who = "another program" if holder in (None, os.getpid()) else f"process {holder}"
            return StoreBusy(f"{who} holds the database in {self._place}: {text}; end it, or let it go on")
        if isinstance(error, sqlite3.DatabaseError) and any(what in text for what in _DAMAGE):
            return CacheCorrupted(f"the database in {self._place} is damaged ({text}): {REPAIR}")
        if "disk I/O error" in text:
            text += "; see the system's log, and whether a file may grow (ulimit -f). What was acknowledged is safe"
        return LocalStoreError(f"the local store in {self._place} failed: {text}")
