"""Rows: diskcache made fit to be the only copy of somebody's work.

diskcache is a cache: it evicts, pickles, keeps large values in files that are never fsynced, and by default the
last commits can vanish at a power cut (plexus-facts.md §10). `Rows` keeps its directory, its SQLite database,
its transactions and its connection per thread, and takes all of that away: every value is bytes inside its row,
behind a checksum; every row stays until it is deleted; every error of the database comes out as one of ours.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diskcache

from plexus_tactus_cache.errors import CacheCorrupted, LocalStoreError, StoreBusy, StoreFull, StoreReadOnly

DATABASE = diskcache.core.DBNAME
_NEVER = 2**62  # bytes; no row is ever that large, so none becomes a file
_SYNCHRONOUS = {"full": 2, "normal": 1}
_PRAGMAS = (
    f"PRAGMA cache_size = {diskcache.DEFAULT_SETTINGS['sqlite_cache_size']}",
    f"PRAGMA mmap_size = {diskcache.DEFAULT_SETTINGS['sqlite_mmap_size']}",
)
_CHECKSUM_BYTES = 4
_UPSERT = (
    "INSERT INTO Cache (key, raw, store_time, access_time, size, mode, filename, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (key, raw) DO UPDATE SET store_time = excluded.store_time, value = excluded.value,"
    " mode = excluded.mode, filename = excluded.filename"
)


class _Slot:
    """One thread's place for a connection, and the lock under which it is used: see `_close_before_fork`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.connection: sqlite3.Connection | None = None


class _BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no type hints
    """Stores str keys and bytes values in the row, and refuses everything that would be unpickled."""

    def put(self, key: Any) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"row keys are str, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: bool) -> str:
        if not raw or type(key) is not str:
            raise CacheCorrupted(
                "the database holds a row with a pickled key; it is not read, as it was not written here"
            )
        return key

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[int, int, None, sqlite3.Binary]:
        if type(value) is not bytes:
            raise TypeError(f"row values are bytes, not {type(value).__name__}")
        return 0, diskcache.core.MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:
        if mode != diskcache.core.MODE_RAW or filename is not None or not isinstance(value, bytes):
            raise CacheCorrupted("the database holds a row that was not written here; it is not read")
        return value


class Rows(diskcache.Cache):  # type: ignore[misc]  # diskcache has no type hints
    """A durable, ordered map from str to bytes in one directory, for many threads and processes.

    Every method raises a LocalStoreError and nothing else of the database's. A write outside `transaction` is
    a transaction of its own.
    """

    def __init__(self, directory: Path, *, durability: str, lock_timeout: float) -> None:
        self._pragma = f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}"
        self._lock_timeout = lock_timeout
        self.read_only: str | None = None
        self.path = directory
        self._remove_copy: weakref.finalize[..., Rows] | None = None
        self.forked()
        with _lock:
            _all_rows.add(self)
        if not _writable(directory):
            self._open_copy(f"{self.path} cannot be written; what it holds can be read")
            return
        try:
            self._open(directory)
        except StoreFull as error:  # opening writes, too
            if not (directory / DATABASE).is_file():
                raise
            self.close()
            self._open_copy(f"{error}; then open it again. What it holds can be read")

    def _open_copy(self, why: str) -> None:
        self.read_only = why
        copy = _copy(self.path)
        self._remove_copy = weakref.finalize(self, shutil.rmtree, copy, ignore_errors=True)
        self._open(copy)

    def _open(self, directory: Path) -> None:
        try:
            super().__init__(
                str(directory),
                timeout=self._lock_timeout,
                disk=_BytesDisk,
                eviction_policy="none",
                cull_limit=0,
                statistics=0,
                tag_index=0,
                size_limit=_NEVER,
                disk_min_file_size=_NEVER,
                sqlite_journal_mode="wal",
                sqlite_synchronous=_SYNCHRONOUS["full"],
                sqlite_auto_vacuum=0,
            )
        except sqlite3.Error as error:
            raise self._translate(error) from error
        except OSError as error:
            raise StoreReadOnly(f"{self.path} cannot be used: {error.strerror}") from error
        for file in directory.glob(f"{DATABASE}*"):
            file.chmod(0o600)

    def close(self) -> None:
        """Close this thread's connection; it is opened again when it is needed."""
        slot = self._slot()
        with slot.lock:
            if slot.connection is not None:
                slot.connection.close()
                slot.connection = None

    def discard(self) -> None:
        """Close every thread's connection; a copy of a read-only store goes too."""
        self._hold_still()
        self._go_on()
        if self._remove_copy is not None:
            self._remove_copy()

    # --- connections --------------------------------------------------------------------------------------

    def _slot(self) -> _Slot:
        """This thread's."""
        slot: _Slot | None = getattr(self._local, "slot", None)
        if slot is None:
            slot = self._local.slot = _Slot()
            with self._slots_lock:
                self._slots.add(slot)  # weakly: a thread that ends takes its connection along
        return slot

    @property
    def _con(self) -> sqlite3.Connection:
        """This thread's connection; diskcache uses it too.

        Its durability is ours, whatever another opener put into the settings table.
        """
        slot = self._slot()
        if slot.connection is None:
            try:
                connection = sqlite3.connect(
                    Path(self.directory, DATABASE),
                    timeout=self.timeout,
                    isolation_level=None,
                    check_same_thread=False,  # `_hold_still` closes it from the thread that forks
                )
                for pragma in (self._pragma, *_PRAGMAS):
                    connection.execute(pragma)
            except sqlite3.Error as error:
                raise self._translate(error) from error
            slot.connection = connection
        return slot.connection

    def forked(self) -> None:
        """Start with no connection at all, as a child process must."""
        self._local = threading.local()
        self._slots: weakref.WeakSet[_Slot] = weakref.WeakSet()
        self._slots_lock = threading.Lock()

    def _hold_still(self) -> None:
        """Wait until no thread uses the store, keep it so, and close every connection."""
        self._slots_lock.acquire()
        for slot in list(self._slots):
            slot.lock.acquire()
            if slot.connection is not None and not slot.connection.in_transaction:  # only the forking thread's can be
                slot.connection.close()
                slot.connection = None

    def _go_on(self) -> None:
        """After `_hold_still`, in the parent."""
        for slot in list(self._slots):
            slot.lock.release()
        self._slots_lock.release()

    def _leave_to_parent(self) -> None:
        """After `_hold_still`, in the child."""
        _inherited.extend(slot.connection for slot in self._slots if slot.connection is not None)
        self.forked()
        if self._remove_copy is not None:
            self._remove_copy.detach()

    def _translate(self, error: sqlite3.Error) -> LocalStoreError:
        text = str(error)
        if "full" in text:
            return StoreFull(f"the disk of {self.path} is full: free some space; nothing acknowledged is lost")
        if "readonly" in text or "unable to open" in text:
            return StoreReadOnly(f"{self.path} cannot be written: {text}")
        if "locked" in text or "busy" in text:
            return StoreBusy(f"another process holds the write lock of {self.path}: {text}")
        if isinstance(error, sqlite3.DatabaseError) and ("malformed" in text or "not a database" in text):
            return CacheCorrupted(f"the database in {self.path} is damaged ({text}): move the directory aside")
        return LocalStoreError(f"the local store in {self.path} failed: {text}")

    # --- transactions -------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable when it returns; one writer at a time in all processes. One inside another is part
        of it.

        Not diskcache's `transact`: that drops the reason when it cannot begin, and after a full disk it leaves a
        connection on which nothing works any more.
        """
        if self.read_only:
            raise StoreReadOnly(self.read_only)
        with self._slot().lock:
            connection = self._con
            if connection.in_transaction:
                yield
                return
            self._execute("BEGIN IMMEDIATE")
            try:
                yield
                self._execute("COMMIT")
            finally:
                if connection.in_transaction:  # after a full disk SQLite may have rolled back by itself
                    connection.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside see one state of the store and block nobody."""
        with self._slot().lock:
            connection = self._con
            if connection.in_transaction:  # a transaction is a snapshot already
                yield
                return
            self._execute("BEGIN")
            try:
                yield
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    # --- rows ---------------------------------------------------------------------------------------------

    def read_row(self, key: str) -> bytes | None:
        """The bytes under `key`, or None. Raises CacheCorrupted when they are not those that were written."""
        found = self._execute("SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (key,))
        return self._checked(key, *found[0]) if found else None

    def write_row(self, key: str, payload: bytes) -> None:
        """Put `payload` under `key`.

        As diskcache's `set`, in one statement instead of two: a saved checkpoint is two rows, and its cost is ours.
        """
        now = time.time()
        self._execute(
            _UPSERT, (*self._disk.put(key), now, now, *self._disk.store(_checksum(key, payload) + payload, False))
        )

    def delete_row(self, key: str) -> None:
        """Forget `key`; unknown keys are fine."""
        self._execute("DELETE FROM Cache WHERE key = ? AND raw = 1", (key,))

    def scan(self, prefix: str, start: str = "") -> list[tuple[str, bytes]]:
        """All rows whose key starts with `prefix` and is not below `prefix + start`: (rest of key, bytes), by key.

        Costs what it returns: the key index is walked from the first to the last of them.
        """
        found = self._execute(
            "SELECT key, mode, filename, value FROM Cache WHERE raw = 1 AND key >= ? AND key < ? ORDER BY key",
            (prefix + start, _after(prefix)),
        )
        cut, raw, crc32 = len(prefix), diskcache.core.MODE_RAW, zlib.crc32
        rows: list[tuple[str, bytes]] = []
        for key, mode, filename, value in found:  # `_checked`, spelled out: a long log is ten thousand rows
            if mode == raw and filename is None and type(value) is bytes:
                payload = value[_CHECKSUM_BYTES:]
                if value[:_CHECKSUM_BYTES] == crc32(payload, crc32(key.encode())).to_bytes(_CHECKSUM_BYTES, "big"):
                    rows.append((key[cut:], payload))
                    continue
            self._checked(key, mode, filename, value)  # raises
        return rows

    def first(self, prefix: str) -> str | None:
        """The rest of the first key that starts with `prefix`; None when there is none."""
        statement = "SELECT key FROM Cache WHERE raw = 1 AND key >= ? AND key < ? ORDER BY key LIMIT 1"
        found = self._execute(statement, (prefix, _after(prefix)))
        return found[0][0][len(prefix) :] if found else None

    def delete_rows(self, keys: Iterable[str]) -> None:
        """Forget all of `keys`."""
        for key in keys:
            self.delete_row(key)

    def delete_range(self, prefix: str, start: str = "") -> None:
        """Forget what `scan` with the same arguments returns."""
        self._execute("DELETE FROM Cache WHERE raw = 1 AND key >= ? AND key < ?", (prefix + start, _after(prefix)))

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of one statement: the one place where the database's errors become ours."""
        try:
            with self._slot().lock:
                return self._con.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def _checked(self, key: str, mode: int, filename: str | None, value: Any) -> bytes:
        if mode == diskcache.core.MODE_RAW and filename is None and isinstance(value, bytes):
            payload: bytes = value[_CHECKSUM_BYTES:]
            if value[:_CHECKSUM_BYTES] == _checksum(key, payload):
                return payload
        raise CacheCorrupted(
            f"row {key!r} in {self.path} does not match its checksum; other procedures are not affected"
        )


def _checksum(key: str, payload: bytes) -> bytes:
    """Over key and payload, so that a row that ended up under another key is noticed too."""
    return zlib.crc32(payload, zlib.crc32(key.encode())).to_bytes(_CHECKSUM_BYTES, "big")


def _after(prefix: str) -> str:
    """The first key that does not start with `prefix` any more."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _make_durably(directory: Path) -> None:
    """Make a directory that a power cut does not take away again: its entry is in its parent."""
    if directory.is_dir():
        return
    if not directory.parent.exists():
        _make_durably(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    parent = os.open(directory.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _writable(directory: Path) -> bool:
    """Make the directory private and ready to be written; False where it holds a store that can only be read.

    Raises StoreReadOnly when it can be neither.
    """
    try:
        _make_durably(directory)
        directory.chmod(0o700)
        with tempfile.TemporaryFile(dir=directory):  # asks the file system: root passes every other check
            pass
        database = directory / DATABASE
        if database.exists():
            with database.open("r+b"):
                pass
    except FileExistsError as error:
        raise StoreReadOnly(f"{directory} is not a directory") from error
    except OSError as error:
        if not (directory / DATABASE).is_file():
            raise StoreReadOnly(f"{directory} cannot be created or written: {error.strerror}") from error
        return False
    return True


def _copy(directory: Path) -> Path:
    """A copy of a store that cannot be written: SQLite has to write beside a database even to read it."""
    copy = Path(tempfile.mkdtemp(prefix="plexus-tactus-cache-"))
    for file in directory.glob(f"{DATABASE}*"):
        if not file.name.endswith("-shm"):  # rebuilt from the log
            shutil.copyfile(file, copy / file.name)
    return copy


# --- forks ------------------------------------------------------------------------------------------------
#
# SQLite keeps its locks in a table of the process. A child inherits the table and not the locks, so a connection
# that is open in any thread while the process forks makes the child write without locks: the parent may then delete
# the log that the child's writes are in (sqlite.org/howtocorrupt.html, §2.6). So there is none while it forks.

_all_rows: weakref.WeakSet[Rows] = weakref.WeakSet()
_held: list[Rows] = []
_lock = threading.Lock()
_inherited: list[object] = []  # of a fork inside a transaction: neither used nor, by the collector, closed


def _close_before_fork() -> None:
    _lock.acquire()
    _held.extend(_all_rows)
    for rows in _held:
        rows._hold_still()


def _after_fork_in_parent() -> None:
    for rows in _held:
        rows._go_on()
    _held.clear()
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    for rows in _all_rows:
        rows._leave_to_parent()
    _held.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_close_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
