"""The directory of a local store: made, found writable or not, and copied where it can only be read."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import diskcache

from plexus_tactus_cache.errors import StoreReadOnly

DATABASE: str = diskcache.core.DBNAME
_NEVER = 2**62  # bytes; no row is ever that large, so none becomes a file
_PAUSE = 0.005  # seconds
# Whoever closes a file ends all POSIX locks that its process has on it, those of SQLite's connections too: another
# process would think itself alone, and delete the log that they write (sqlite.org/howtocorrupt.html, §2.2).
_never_closed: list[BinaryIO] = []
_SETTINGS = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "statistics": 0,
    "tag_index": 0,
    "size_limit": _NEVER,
    "disk_min_file_size": _NEVER,
    "sqlite_journal_mode": "wal",
    "sqlite_synchronous": 2,
    "sqlite_auto_vacuum": 0,
    "sqlite_mmap_size": 0,
}
_MADE_LAST = "Settings_size_delete"  # of all that diskcache makes in a new database


def holds_store(directory: Path) -> bool:
    """Whether there is a store in the directory. Looks, and changes nothing."""
    return (directory / DATABASE).is_file()


def make_durably(directory: Path) -> None:
    """Make a directory that a power cut does not take away again: its entry is in its parent."""
    if directory.is_dir():
        return
    if not directory.parent.exists():
        make_durably(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    parent = os.open(directory.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def prepare(directory: Path) -> bool:
    """Make the directory private and ready to be written; False where it holds a store that can only be read.

    Raises StoreReadOnly when it can be neither.
    """
    try:
        make_durably(directory)
        directory.chmod(0o700)
        with tempfile.TemporaryFile(dir=directory):  # asks the file system: root passes every other check
            pass
        database = directory / DATABASE
        if database.exists() and not os.access(database, os.R_OK | os.W_OK):  # not by opening it: see `_never_closed`
            return False
    except FileExistsError as error:
        raise StoreReadOnly(f"{directory} is not a directory") from error
    except OSError as error:
        if not holds_store(directory):
            raise StoreReadOnly(f"{directory} cannot be created or written: {error.strerror}") from error
        return False
    return True


def is_made(directory: Path) -> bool:
    """Whether `make_database` has nothing to do. Looks, and writes no row."""
    if not holds_store(directory):
        return False
    try:
        with closing(sqlite3.connect(directory / DATABASE, timeout=0)) as connection:
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_MADE_LAST,)).fetchone()
            found = dict(connection.execute("SELECT key, value FROM Settings"))
    except sqlite3.Error:
        return False
    return mode == "wal" and made is not None and _SETTINGS.items() <= found.items()


def make_database(directory: Path, timeout: float) -> None:
    """Make the database of a diskcache directory, or take away what another opener of it may have set.

    diskcache is a cache: it evicts, and keeps large values in files that are never fsynced (plexus-facts.md §10).
    These settings, which are kept in the database, are without all of that. To be called under the writer's lock: it
    writes, and waits a minute for others, whatever `timeout` is. Raises sqlite3.Error, LocalStoreError.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            diskcache.Cache(str(directory), timeout=timeout, **_SETTINGS).close()
            break
        except diskcache.Timeout:
            if time.monotonic() >= deadline:
                raise
        except OSError as error:
            raise StoreReadOnly(f"{directory} cannot be used: {error.strerror}") from error
        time.sleep(_PAUSE)
    for file in directory.glob(f"{DATABASE}*"):
        file.chmod(0o600)


def copy(directory: Path) -> Path:
    """A copy of a store that cannot be written: SQLite has to write beside a database even to read it."""
    made = Path(tempfile.mkdtemp(prefix="plexus-tactus-cache-"))
    for file in directory.glob(f"{DATABASE}*"):
        if not file.name.endswith("-shm"):  # rebuilt from the log
            source = file.open("rb")
            _never_closed.append(source)
            with (made / file.name).open("wb") as target:
                shutil.copyfileobj(source, target)
    return made
