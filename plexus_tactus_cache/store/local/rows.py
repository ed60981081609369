"""Rows: an ordered map from str to bytes, fit to be the only copy of somebody's work.

It is kept in the table of a diskcache directory, without what makes that a cache: every value is bytes inside its row,
behind a checksum; every row stays until it is deleted; every error of the database comes out as one of ours.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import orjson

from plexus_tactus_cache.errors import CacheCorrupted, LocalStoreError, StoreFull, StoreReadOnly
from plexus_tactus_cache.store.local import directory as directories
from plexus_tactus_cache.store.local import forks, marker
from plexus_tactus_cache.store.local.checksums import CHECKSUM_BYTES, MODE_RAW, checksum, intact
from plexus_tactus_cache.store.local.database import Database
from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.store.local.lock import WriterLock
from plexus_tactus_cache.store.local.looking import LookingDatabase
from plexus_tactus_cache.store.local.marker import FORMATS, Marker

Result = TypeVar("Result")

STORE = "store"  # the key of the row that every store has: its id, its format and more
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
_WRITTEN_BEFORE = "SELECT key" + _RANGE + " AND store_time < ? ORDER BY key"
_COUNT = "SELECT count(*)" + _RANGE
_FIRST = _KEYS + " LIMIT 1"
_PREFIX = f"SELECT ifnull(substr(CAST(value AS BLOB), 1, {CHECKSUM_BYTES}), x'')"  # of no value, or an empty one
_CHECKSUMS = _PREFIX + _RANGE
_CHECKSUM_OF = _PREFIX + " FROM Cache WHERE key = ? AND raw = 1"
_IS_STORE = "SELECT 1 FROM Cache WHERE key = 'store' AND raw = 1"
_HAS_TABLE = "SELECT 1 FROM sqlite_master WHERE name = 'Cache'"
_INCREMENTAL = 2
_FREE_PAGES, _FREE_PART = 256, 5  # of the file, 1 MB and a fifth, that may be free
_GIVE_BACK = "PRAGMA incremental_vacuum(1)"  # page: a statement without columns is stepped once, whatever it asks for
_SLICE = 128  # pages in a transaction
_DELETE_RANGE = "DELETE" + _RANGE


class Rows:
    """The rows in one directory, for many threads and processes.

    Every method raises a LocalStoreError and nothing else of the database's. Rows are written in a transaction only.

    Args:
        lock_timeout: seconds that a write waits for others.
        read_only: change nothing, and wait for nobody: see looking.py.

    Opening raises StoreReadOnly where no store is and none may be made, CacheCorrupted where one has lost something.
    """

    def __init__(self, directory: Path, *, durability: str, lock_timeout: float, read_only: bool = False) -> None:
        self.path = directory
        self.read_only: str | None = None
        self.store_id = ""
        self.lock = WriterLock(directory)
        self._timeout, self._durability = lock_timeout, durability
        with forks.opening:  # diskcache's start-up has a connection that no fork may meet
            why = f"{directory} was opened to look at it only" if read_only else marker.take(directory)
            if why is None:
                self.database = Database(
                    directory / DATABASE, directory, lock=self.lock, durability=durability, lock_timeout=lock_timeout
                )
                why = self._open_to_write()
            if why is not None:
                self.read_only = why
                self.database = LookingDatabase(
                    directory / DATABASE, directory, durability=durability, lock_timeout=lock_timeout
                )
                self._open_with(self._check_store)

    def _open_to_write(self) -> str | None:
        """Why it can only be read, if that is so."""
        try:
            self._open_with(self._make_store)
        except StoreFull as error:  # opening writes, too
            found = marker.read(self.path)
            if not directories.has_database(self.path) or (found is not None and found.creating):
                raise
            return f"{error}; then open it again. What it holds can be read"
        return None

    def _open_with(self, find_out: Callable[[], None]) -> None:
        try:
            find_out()
        except BaseException:
            self.database.close(0)
            raise

    # --- what the directory holds ---------------------------------------------------------------------------

    def _make_store(self) -> None:
        """Know which store it is; make it, or what is still missing of it. See marker.py."""
        found = marker.read(self.path)
        if not found.creating if found is not None else (self.path / DATABASE).exists():
            self._look_first()
        if found is None or found.creating:
            self._under_lock(self._make_files)
            self.database.transaction(self._put_identity)
            self.mark()
        self._check_store()
        if not directories.is_made(self.path):
            self._under_lock(lambda: directories.make_database(self.path, self._timeout))

    def _look_first(self) -> None:
        """So that what is not ours, or has files of two stores in it, stays as it is."""
        Rows(self.path, durability=self._durability, lock_timeout=self._timeout, read_only=True).close()

    def _make_files(self) -> None:
        if marker.read(self.path) is None and not (self.path / DATABASE).exists():
            marker.write(self.path, Marker(uuid.uuid4().hex, FORMATS[-1], creating=True))
        self.path.chmod(0o700)
        if not directories.is_made(self.path):
            directories.make_database(self.path, self._timeout)

    def _put_identity(self) -> None:
        found, row = marker.read(self.path), self._store_row()
        if row is None and found is not None and found.creating:
            row = {"endpoint": None, "format": FORMATS[-1]}
        if row is not None and "store_id" not in row:
            store_id = uuid.uuid4().hex if found is None else found.store_id
            self.write_row(STORE, orjson.dumps({**row, "store_id": store_id}))

    def mark(self) -> None:
        """Let the marker say what the row `store` says: the row is durable first, or a power cut would take it away."""

        def work() -> None:
            row = self._store_row()
            if row is None:
                raise self._emptied()
            wanted = Marker(row["store_id"], row["format"])
            if marker.read(self.path) != wanted:
                directories.keep_commits(self.path)
                marker.write(self.path, wanted)

        self._under_lock(work)

    def _check_store(self) -> None:
        """Raises StoreReadOnly where no store is, CacheCorrupted where it is not the one that the marker says."""
        found = marker.read(self.path)
        if found is not None and not found.creating and not directories.has_database(self.path):
            raise marker.without_database(self.path)
        row = self._store_row() if directories.has_database(self.path) else None
        if row is None:
            if found is not None and not found.creating:
                raise self._emptied()
            what = "there is no store in" if found or not marker.holds_store(self.path) else "no store of ours is in"
            raise StoreReadOnly(
                f"{what} {self.path}: name another directory (argument directory=, or PLEXUS_CACHE_DIR)"
            )
        if row["format"] not in FORMATS:
            raise LocalStoreError(
                f"{self.path} has format {row['format']}, this version reads {FORMATS[-1]}: "
                "use the version that wrote it"
            )
        self.store_id = row.get("store_id", "")
        if found is not None and self.store_id != found.store_id:
            raise CacheCorrupted(
                f"{self.path} is store {found.store_id}, but its database ({DATABASE}) is that of store "
                f"{self.store_id or 'without an id'}: {marker.WAY_OUT}"
            )

    def _store_row(self) -> dict[str, Any] | None:
        if not self.database.execute(_HAS_TABLE):
            return None
        found = self.database.execute(_READ, (STORE,))
        row: dict[str, Any] | None = orjson.loads(self._checked(STORE, *found[0])) if found else None
        return row

    def _found_nothing(self) -> None:
        """To be asked whenever a row is not there: raises CacheCorrupted when that is because none is."""
        if not self.database.execute(_IS_STORE):
            raise self._emptied()

    def _emptied(self) -> CacheCorrupted:
        if self.database.execute(_HAS_TABLE) and self.database.execute(_FIRST, _range("doc/")):
            what = f"the row that says which store it is: {directories.REPAIR}"
        else:
            what = f"what it held, another program has emptied it: {marker.WAY_OUT}"
        return CacheCorrupted(f"the database in {self.path} has lost {what}")

    def _under_lock(self, work: Callable[[], None]) -> None:
        """Do what is no transaction of ours as the only writer."""
        try:
            self.database.alone(work)
        except sqlite3.Error as error:
            raise self.database.translated(error) from error
        except OSError as error:
            raise directories.unusable(self.path, error) from error

    # --- the opener -----------------------------------------------------------------------------------------

    def release_thread(self) -> None:
        """Close this thread's connection; it is opened again when it is needed."""
        self.database.release_thread()

    def refuse_when_closed(self) -> None:
        """Raises CacheClosed after `close`."""
        self.database.refuse_when_closed()

    def close(self, timeout: float = 5.0) -> None:
        """Close every thread's connection, waiting that many seconds for those in use."""
        self.database.close(timeout)

    # --- transactions -------------------------------------------------------------------------------------

    def transaction(self, work: Callable[[], Result]) -> Result:
        """What `work()` returns, once what it wrote is durable; see Transactions in contract.py."""
        if self.read_only:
            raise StoreReadOnly(self.read_only)
        return self.database.transaction(work)

    def snapshot(self, work: Callable[[], Result]) -> Result:
        """What `work()` returns; its reads see one state of the rows and block nobody."""
        return self.database.snapshot(work)

    def tidy(self, seconds: float) -> bool:
        """Give the disk back what deletions freed, for so long: whether there is more to give back.

        A slice in each transaction, so that writers wait no longer than for each other; and not while somebody has the
        lock, who may be stopped.
        """
        deadline = time.monotonic() + seconds
        while not self.read_only and self._is_loose():
            if time.monotonic() >= deadline or self.lock.holder() is not None:
                return True
            self.transaction(self._give_back)
        return False

    def _give_back(self) -> None:
        for _ in range(_SLICE):
            self.database.execute(_GIVE_BACK, write=True)

    def _is_loose(self) -> bool:
        """Whether so much of the file is free that it is worth moving the rest."""
        ((free,),), ((pages,),) = (self.database.execute(f"PRAGMA {of}") for of in ("freelist_count", "page_count"))
        return bool(free > _FREE_PAGES and free * _FREE_PART > pages and self._can_shrink())

    @property
    def used(self) -> int:
        """Bytes of the file that are in use."""
        free, pages, size = (
            self.database.execute(f"PRAGMA {of}")[0][0] for of in ("freelist_count", "page_count", "page_size")
        )
        return int((pages - free) * size)

    def _can_shrink(self) -> bool:
        """Not a database from before 0.1: SQLite settles that when it makes one."""
        return bool(self.database.execute("PRAGMA auto_vacuum") == [(_INCREMENTAL,)])

    # --- rows ---------------------------------------------------------------------------------------------

    def read_row(self, key: str) -> bytes | None:
        """The bytes under `key`, or None. Raises CacheCorrupted when they are not those that were written."""
        found = self.database.execute(_READ, (key,))
        if not found:
            self._found_nothing()
            return None
        return self._checked(key, *found[0])

    def write_row(self, key: str, payload: bytes) -> int:
        """Put `payload` under `key`: its checksum."""
        if type(key) is not str or type(payload) is not bytes:
            raise TypeError(f"a row is bytes under a str, not {type(payload).__name__} under {type(key).__name__}")
        now, summed = time.time(), checksum(key, payload)
        self._write(_UPSERT, (key, now, now, summed.to_bytes(CHECKSUM_BYTES, "big") + payload))
        return summed

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
        found = self._range(_SCAN, prefix, start, end)
        cut, raw, crc32 = len(prefix), MODE_RAW, zlib.crc32
        rows: list[tuple[str, bytes]] = []
        total = 0
        for key, mode, filename, value in found:  # `_checked`, spelled out: a long log is ten thousand rows
            if mode == raw and filename is None and type(value) is bytes:
                payload = value[CHECKSUM_BYTES:]
                summed = crc32(payload, crc32(key.encode()))
                if value[:CHECKSUM_BYTES] == summed.to_bytes(CHECKSUM_BYTES, "big"):
                    rows.append((key[cut:], payload))
                    total += summed
                    continue
            self._checked(key, mode, filename, value)  # raises
        return rows, total

    def written_before(self, moment: float, prefix: str) -> list[str]:
        """The keys after `prefix` whose rows were last written before that moment, in order."""
        found = self.database.execute(_WRITTEN_BEFORE, (*_range(prefix), moment))
        return [key[len(prefix) :] for (key,) in found]

    def checksums(self, prefix: str, start: str = "") -> list[int]:
        """The checksums that the rows of `scan` have, right or wrong."""
        found = self.database.execute(_CHECKSUMS, _range(prefix, start))
        return [int.from_bytes(summed, "big") for (summed,) in found]

    def checksum_of(self, key: str) -> int | None:
        """The checksum that a row has, right or wrong; None where there is no row."""
        found = self.database.execute(_CHECKSUM_OF, (key,))
        return int.from_bytes(found[0][0], "big") if found else None

    def keys(self, prefix: str, start: str = "", end: str | None = None, *, limit: int = -1) -> list[str]:
        """The rests of the keys that `scan` returns, without a look at the rows; the first `limit` of them."""
        found = self.database.execute(_KEYS + " LIMIT ?", (*_range(prefix, start, end), limit))
        if not found:
            self._found_nothing()
        cut = len(prefix)
        return [key[cut:] for (key,) in found]

    def count(self, prefix: str) -> int:
        """How many rows `scan` returns."""
        found: int = self.database.execute(_COUNT, _range(prefix))[0][0]
        return found

    def first(self, prefix: str) -> str | None:
        """The rest of the first key that starts with `prefix`; None when there is none."""
        found = self._range(_FIRST, prefix)
        return found[0][0][len(prefix) :] if found else None

    def _range(self, statement: str, prefix: str, start: str = "", end: str | None = None) -> list[Any]:
        found = self.database.execute(statement, _range(prefix, start, end))
        if not found:
            self._found_nothing()
        return found

    def _checked(self, key: str, mode: int, filename: str | None, value: Any) -> bytes:
        payload = intact(key, mode, filename, value)
        if payload is None:
            others = "" if key == STORE else "other procedures are not affected; "
            raise CacheCorrupted(
                f"row {unquote(key)!r} in {self.path} does not match its checksum; {others}{directories.REPAIR}"
            )
        return payload


def _range(prefix: str, start: str = "", end: str | None = None) -> tuple[str, str]:
    return prefix + start, _after(prefix) if end is None else prefix + end


def _after(prefix: str) -> str:
    """The first key that does not start with `prefix` any more."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
