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
_CHECKSUM_BYTES = 4
_UPSERT = (
    "INSERT INTO Cache (key, raw, store_time, access_time, size, mode, filename, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (key, raw) DO UPDATE SET store_time = excluded.store_time, value = excluded.value,"
    " mode = excluded.mode, filename = excluded.filename"
)

# After a fork, connections of the parent must neither be used nor closed in the child (sqlite.org/howtocorrupt,
# §2.6); holding a reference keeps the garbage collector from closing them.
_inherited: list[object] = []


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
        self._pid = os.getpid()
        self._local = threading.local()  # diskcache's, holding this thread's connection
        self._pragma = f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}"
        self.read_only: str | None = None
        self.path = directory
        if not _writable(directory):
            self.read_only = f"{self.path} cannot be written; what it holds can be read"
            self._copy = _copy(directory)  # removed with this object
            directory = Path(self._copy.name)
        try:
            super().__init__(
                str(directory),
                timeout=lock_timeout,
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

    def discard(self) -> None:
        """Close this thread's connection, for good; a copy of a read-only store goes too."""
        self.close()
        if self.read_only:
            self._copy.cleanup()

    # --- connections --------------------------------------------------------------------------------------

    @property
    def _con(self) -> sqlite3.Connection:
        """This thread's connection. Its durability is ours, whatever another opener put into the settings table."""
        if self._pid != os.getpid():
            self.forked()
        known = getattr(self._local, "con", None)
        connection: sqlite3.Connection = super()._con
        if connection is not known:
            connection.execute(self._pragma)
        return connection

    def forked(self) -> None:
        """In a child process: leave the parent's connections alone and start with none."""
        _inherited.append(self._local)
        _inherited.append(getattr(self._local, "con", None))
        self._local = threading.local()
        self._txn_id = None
        self._pid = os.getpid()

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


def _copy(directory: Path) -> tempfile.TemporaryDirectory[str]:
    """A copy of a store that cannot be written: SQLite has to write beside a database even to read it."""
    copy = tempfile.TemporaryDirectory(prefix="plexus-tactus-cache-")
    for file in directory.glob(f"{DATABASE}*"):
        if not file.name.endswith("-shm"):  # rebuilt from the log
            shutil.copyfile(file, Path(copy.name, file.name))
    return copy
