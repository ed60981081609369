"""Rows: an ordered map from str to bytes, fit to be the only copy of somebody's work.

It is kept in the table of a diskcache directory, without what makes that a cache: every value is bytes inside its row,
behind a checksum; every row stays until it is deleted; every error of the database comes out as one of ours.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
import weakref
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from plexus_tactus_cache.errors import CacheCorrupted, StoreFull, StoreReadOnly
from plexus_tactus_cache.store.local import directory as directories
from plexus_tactus_cache.store.local import forks
from plexus_tactus_cache.store.local.database import Database
from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.store.local.lock import Ticket, WriterLock

Result = TypeVar("Result")

MODE_RAW = 1  # how diskcache marks a value that is in its row, as it is
_CHECKSUM_BYTES = 4
_UPSERT = (
    "INSERT INTO Cache (key, raw, store_time, access_time, size, mode, filename, value)"
    " VALUES (?, 1, ?, ?, 0, 1, NULL, ?)"
    " ON CONFLICT (key, raw) DO UPDATE SET store_time = excluded.store_time, value = excluded.value,"
    " mode = excluded.mode, filename = excluded.filename"
)
_RANGE = " FROM Cache WHERE raw = 1 AND key >= ? AND key < ?"
# As a blob, a damaged value that has become a text, and is none, gets as far as its checksum.
_READ = "SELECT mode, filename, CAST(value AS BLOB) FROM Cache WHERE key = ? AND raw = 1"
_SCAN = "SELECT key, mode, filename, CAST(value AS BLOB)" + _RANGE + " ORDER BY key"
_KEYS = "SELECT key" + _RANGE + " ORDER BY key"
_COUNT = "SELECT count(*)" + _RANGE
_FIRST = _KEYS + " LIMIT 1"
_PREFIX = f"SELECT substr(CAST(value AS BLOB), 1, {_CHECKSUM_BYTES})"
_CHECKSUMS = _PREFIX + _RANGE
_CHECKSUM_OF = _PREFIX + " FROM Cache WHERE key = ? AND raw = 1"
_DELETE_RANGE = "DELETE" + _RANGE


class Rows:
    """The rows in one directory, for many threads and processes.

    Every method raises a LocalStoreError and nothing else of the database's. Rows are written in a transaction only.

    Args:
        lock_timeout: seconds that a write waits for others.
    """

    def __init__(self, directory: Path, *, durability: str, lock_timeout: float) -> None:
        self.path = directory
        self.read_only: str | None = None
        self._remove_copy: weakref.finalize[..., Rows] | None = None
        self.lock = WriterLock(directory)
        self._options: dict[str, Any] = {"durability": durability, "lock_timeout": lock_timeout}
        with forks.opening:  # diskcache's start-up has a connection that no fork may meet
            if not directories.prepare(directory):
                self._open_copy(f"{directory} cannot be written; what it holds can be read")
                return
            try:
                self._open(directory)
            except StoreFull as error:  # opening writes, too
                if not directories.holds_store(directory):
                    raise
                self._open_copy(f"{error}; then open it again. What it holds can be read")

    def _open_copy(self, why: str) -> None:
        self.read_only = why
        copy = directories.copy(self.path)
        self._remove_copy = weakref.finalize(self, shutil.rmtree, copy, ignore_errors=True)
        self.lock = WriterLock(copy)
        self._open(copy)
        forks.register(self)

    def _open(self, directory: Path) -> None:
        self.database = Database(directory / DATABASE, self.path, lock=self.lock, **self._options)
        if not directories.is_made(directory):
            self._make(directory, self._options["lock_timeout"])
        self.read_row("")  # whatever is wrong with the database is known now

    def _make(self, directory: Path, timeout: float) -> None:
        ticket = Ticket()
        try:
            self.lock.acquire(ticket, time.monotonic() + timeout)
            directories.make_database(directory, timeout)
        except sqlite3.Error as error:
            raise self.database.translated(error) from error
        finally:
            self.lock.release(ticket)

    def release_thread(self) -> None:
        """Close this thread's connection; it is opened again when it is needed."""
        self.database.release_thread()

    def close(self, timeout: float = 5.0) -> None:
        """Close every thread's connection, waiting that many seconds for those in use; a copy goes too."""
        self.database.close(timeout)
        if self._remove_copy is not None:
            self._remove_copy()

    # as a Forkable: the copy is the parent's to remove

    def hold_still(self) -> None:
        """Nothing of its own is in the middle of anything."""

    def go_on(self) -> None:
        """Nothing was held."""

    def leave_to_parent(self) -> None:
        if self._remove_copy is not None:
            self._remove_copy.detach()

    # --- transactions -------------------------------------------------------------------------------------

    def transaction(self, work: Callable[[], Result]) -> Result:
        """What `work()` returns, once what it wrote is durable; see Transactions in contract.py."""
        if self.read_only:
            raise StoreReadOnly(self.read_only)
        return self.database.transaction(work)

    def snapshot(self, work: Callable[[], Result]) -> Result:
        """What `work()` returns; its reads see one state of the rows and block nobody."""
        return self.database.snapshot(work)

    # --- rows ---------------------------------------------------------------------------------------------

    def read_row(self, key: str) -> bytes | None:
        """The bytes under `key`, or None. Raises CacheCorrupted when they are not those that were written."""
        found = self.database.execute(_READ, (key,))
        return self._checked(key, *found[0]) if found else None

    def write_row(self, key: str, payload: bytes) -> int:
        """Put `payload` under `key`: its checksum."""
        if type(key) is not str or type(payload) is not bytes:
            raise TypeError(f"a row is bytes under a str, not {type(payload).__name__} under {type(key).__name__}")
        now, checksum = time.time(), _checksum(key, payload)
        self._write(_UPSERT, (key, now, now, checksum.to_bytes(_CHECKSUM_BYTES, "big") + payload))
        return checksum

    def delete_row(self, key: str) -> None:
        """Forget `key`; unknown keys are fine."""
        self._write("DELETE FROM Cache WHERE key = ? AND raw = 1", (key,))

    def delete_rows(self, keys: Iterable[str]) -> None:
        """Forget all of `keys`."""
        for key in keys:
            self.delete_row(key)

    def delete_range(self, prefix: str, start: str = "") -> None:
        """Forget what `scan` with the same arguments returns."""
        self._write(_DELETE_RANGE, _range(prefix, start))

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        self.database.execute(statement, values, write=True)

    def scan(self, prefix: str, start: str = "", end: str | None = None) -> list[tuple[str, bytes]]:
        """All rows whose key starts with `prefix`, from `prefix + start` to below `prefix + end`, by key.

        Each as (rest of key, bytes). Costs what it returns: the key index is walked from the first to the last of them.
        """
        return self.scan_summed(prefix, start, end)[0]

    def scan_summed(self, prefix: str, start: str = "", end: str | None = None) -> tuple[list[tuple[str, bytes]], int]:
        """As `scan`, and the sum of their checksums."""
        found = self.database.execute(_SCAN, _range(prefix, start, end))
        cut, raw, crc32 = len(prefix), MODE_RAW, zlib.crc32
        rows: list[tuple[str, bytes]] = []
        total = 0
        for key, mode, filename, value in found:  # `_checked`, spelled out: a long log is ten thousand rows
            if mode == raw and filename is None and type(value) is bytes:
                payload = value[_CHECKSUM_BYTES:]
                checksum = crc32(payload, crc32(key.encode()))
                if value[:_CHECKSUM_BYTES] == checksum.to_bytes(_CHECKSUM_BYTES, "big"):
                    rows.append((key[cut:], payload))
                    total += checksum
                    continue
            self._checked(key, mode, filename, value)  # raises
        return rows, total

    def checksums(self, prefix: str, start: str = "") -> list[int]:
        """The checksums that the rows of `scan` have, right or wrong."""
        found = self.database.execute(_CHECKSUMS, _range(prefix, start))
        return [int.from_bytes(checksum, "big") for (checksum,) in found]

    def checksum_of(self, key: str) -> int | None:
        """The checksum that a row has, right or wrong; None where there is no row."""
        found = self.database.execute(_CHECKSUM_OF, (key,))
        return int.from_bytes(found[0][0], "big") if found else None

    def keys(self, prefix: str, start: str = "", end: str | None = None, *, limit: int = -1) -> list[str]:
        """The rests of the keys that `scan` returns, without a look at the rows; the first `limit` of them."""
        found = self.database.execute(_KEYS + " LIMIT ?", (*_range(prefix, start, end), limit))
        cut = len(prefix)
        return [key[cut:] for (key,) in found]

    def count(self, prefix: str) -> int:
        """How many rows `scan` returns."""
        found: int = self.database.execute(_COUNT, _range(prefix))[0][0]
        return found

    def first(self, prefix: str) -> str | None:
        """The rest of the first key that starts with `prefix`; None when there is none."""
        found = self.database.execute(_FIRST, _range(prefix))
        return found[0][0][len(prefix) :] if found else None

    def _checked(self, key: str, mode: int, filename: str | None, value: Any) -> bytes:
        if mode == MODE_RAW and filename is None and isinstance(value, bytes):
            payload: bytes = value[_CHECKSUM_BYTES:]
            if value[:_CHECKSUM_BYTES] == _checksum(key, payload).to_bytes(_CHECKSUM_BYTES, "big"):
                return payload
        raise CacheCorrupted(
            f"row {unquote(key)!r} in {self.path} does not match its checksum; other procedures are not affected"
        )


def _checksum(key: str, payload: bytes) -> int:
    """Over key and payload, so that a row that ended up under another key is noticed too."""
    return zlib.crc32(payload, zlib.crc32(key.encode()))


def _range(prefix: str, start: str = "", end: str | None = None) -> tuple[str, str]:
    return prefix + start, _after(prefix) if end is None else prefix + end


def _after(prefix: str) -> str:
    """The first key that does not start with `prefix` any more."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
