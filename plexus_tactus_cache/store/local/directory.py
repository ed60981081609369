"""The directory of a local store: its files, made privately and durably; its database; and a copy to look at."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import diskcache

from plexus_tactus_cache.document import checks
from plexus_tactus_cache.errors import (
    InvalidArgument,
    LocalStoreError,
    OutOfResources,
    StoreFull,
    StoreReadOnly,
    WrongType,
)
from plexus_tactus_cache.store.local.connecting import Connection, connected, uri

DATABASE: str = diskcache.core.DBNAME
LOG, INDEX, JOURNAL = f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal"  # that SQLite makes beside it
REPAIR = "`plexus-tactus-cache doctor --repair` saves what can be read"
REPAIRED = "repaired-"  # how a directory is called in which a repair makes the new database
_NEVER = 2**62  # bytes; no row is ever that large, so none becomes a file
_LONGEST_PATH = 4000  # bytes; Linux takes 4,095, and our files have names
_PAUSE = 0.005  # seconds
_ROOM = 2**16  # bytes; SQLite makes the index of its log with half of that
_FILES_OF_A_CONNECTION = 4  # the database, its log, its index, and one for a moment
_CHUNK = 2**20  # bytes
# Whoever closes a file ends all POSIX locks that its process has on it, those of SQLite's connections too: another
# process would think itself alone, and delete the log that they write (sqlite.org/howtocorrupt.html, §2.2).
_never_closed: dict[tuple[int, int], int] = {}
_reading = threading.Lock()
_SETTINGS = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "statistics": 0,
    "tag_index": 0,
    "size_limit": _NEVER,
    "disk_min_file_size": _NEVER,
    "sqlite_journal_mode": "wal",
    "sqlite_synchronous": 2,
    "sqlite_auto_vacuum": 2,  # incremental: a store grows and shrinks with what it holds, see Rows.tidy
    "sqlite_mmap_size": 0,
}
_MADE_LAST = "Settings_size_delete"  # of all that diskcache makes in a new database


def chosen(directory: Any) -> Path | None:
    """The directory that somebody named; None for none. Raises InvalidArgument (WrongType for a type)."""
    if directory is None:
        return None
    if not isinstance(directory, (str, os.PathLike)) or not isinstance(os.fspath(directory), str):
        raise WrongType("directory", f"want a path (str or os.PathLike), not {checks.kind_of(directory)}")
    plain = os.fspath(directory)
    try:
        os.fsencode(plain)  # bytes that are no text are in it as Python has them (PEP 383)
    except UnicodeEncodeError:
        raise InvalidArgument("directory", "no file could have that name: a character of it has no bytes") from None
    if not plain:
        raise InvalidArgument("directory", "it is empty")
    if len(os.fsencode(plain)) >= _LONGEST_PATH or any(len(os.fsencode(one)) > 255 for one in plain.split(os.sep)):
        raise InvalidArgument("directory", "it is too long for a path")
    if "\0" in plain:
        raise InvalidArgument("directory", "no path has a NUL character in it")
    try:
        return Path(plain).expanduser()
    except RuntimeError as error:  # `~nobody`
        raise InvalidArgument("directory", str(error)) from error


# --- files ------------------------------------------------------------------------------------------------


def make_durably(directory: Path) -> None:
    """Make a directory that a power cut does not take away again: its entry is in its parent."""
    if directory.is_dir():
        return
    if not directory.parent.exists():
        make_durably(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    keep(directory.parent)


def keep(path: Path) -> None:
    """Make durable what is in a file, or which files are in a directory."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def keep_commits(directory: Path) -> None:
    """Make durable what was committed, whatever the durability of the connections. Under the writer's lock."""
    try:
        keep(directory / LOG)  # which has no POSIX locks that closing it would end
    except FileNotFoundError:
        return  # whoever closed last has brought it into the database, and synced that
    keep(directory)


def open_file(path: Path) -> int:
    """Open a file of the store's, or make it: private, and its directory's owner's, should root make it.

    Raises StoreFull, StoreReadOnly, OutOfResources.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            pass
        file = os.open(path, flags | os.O_CREAT, 0o600)
        try:
            owner = path.parent.stat()
            if owner.st_uid != os.geteuid():
                os.fchown(file, owner.st_uid, owner.st_gid)
        except BaseException:
            os.close(file)
            raise
        return file
    except OSError as error:
        raise unusable(path, error) from error


def unwritable(directory: Path) -> str | None:
    """Why not even the owner can write there; None where nothing speaks against it. Looks only."""
    places = [place for place in (directory, directory / DATABASE) if place.exists()]
    try:
        frozen = os.statvfs(directory).f_flag & os.ST_RDONLY
        ours = directory.stat().st_uid == os.geteuid()
    except OSError as error:
        return str(unusable(directory, error))
    if frozen or (ours and not all(os.access(place, os.W_OK) for place in places)):
        return f"{directory} cannot be written; what it holds can be read"
    return None


def unusable(path: Path, error: OSError) -> LocalStoreError:
    """The error of ours for one that a file met."""
    if is_lack_of_descriptors(error):
        return out_of_descriptors(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full(path)
    if error.errno == errno.ELOOP:
        return StoreReadOnly(f"{path} is a link: put the file itself in its place")
    return StoreReadOnly(f"{path} cannot be opened or written: {error.strerror}")


def full(path: Path) -> StoreFull:
    return StoreFull(f"the disk of {path} is full: free some space; nothing acknowledged is lost")


def is_full(directory: Path) -> bool:
    """Whether the disk has no room for the smallest thing: SQLite calls it an I/O error, too, where it does not write
    pages."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _ROOM


def is_lack_of_descriptors(error: OSError) -> bool:
    """Whether the process, or the machine, has too many open files."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def out_of_descriptors(path: Path) -> OutOfResources:
    return OutOfResources(
        f"{path} cannot be opened, this process (or the machine) has too many open files: close some, or allow more "
        "(ulimit -n); then all goes on"
    )


def lacks_descriptors() -> bool:
    """Whether no connection to SQLite could be opened now, which itself does not say why it fails."""
    opened: list[int] = []
    try:
        while len(opened) < _FILES_OF_A_CONNECTION:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return is_lack_of_descriptors(error)
    finally:
        for file in opened:
            os.close(file)
    return False


def size(directory: Path) -> int:
    """Bytes that the database and what SQLite keeps beside it take."""
    total = 0
    for name in (DATABASE, LOG, JOURNAL):
        try:
            total += (directory / name).stat().st_size
        except OSError:
            pass  # most of the time there is no more than the first
    return total


# --- the database -----------------------------------------------------------------------------------------


def has_database(directory: Path) -> bool:
    """Whether there is one; an empty file is none."""
    try:
        return (directory / DATABASE).stat().st_size > 0
    except OSError:
        return False


def is_made(directory: Path) -> bool:
    """Whether `make_database` has nothing to do. Looks, and writes no row."""
    if not has_database(directory):
        return False
    try:
        with closing(_connect(directory)) as connection:
            return _has_tables(connection) and _is_set(connection)
    except sqlite3.Error:
        return False


def make_database(directory: Path, timeout: float) -> None:
    """Make the database of a diskcache directory, or take away what another opener of it may have set.

    diskcache is a cache: it evicts, and keeps large values in files that are never fsynced (plexus-facts.md §10).
    These settings, which are kept in the database, are without all of that. To be called under the writer's lock:
    waits for programs that know nothing of it, for `timeout` seconds. Raises sqlite3.Error, LocalStoreError.
    """
    deadline = time.monotonic() + timeout
    if not (directory / DATABASE).exists():
        os.close(open_file(directory / DATABASE))  # SQLite would make it for everybody to read
    while True:
        try:
            with closing(_connect(directory)) as connection:
                connection.execute("BEGIN IMMEDIATE")  # diskcache would wait for others, a minute for each statement
                if _has_tables(connection):
                    for setting in _SETTINGS.items():
                        connection.execute("INSERT OR REPLACE INTO Settings VALUES (?, ?)", setting)
                    connection.execute("COMMIT")
                    connection.execute("PRAGMA journal_mode = wal")
                    return
                connection.execute("ROLLBACK")
            _make_tables(directory)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
        except OSError as error:
            raise unusable(directory, error) from error
        time.sleep(_PAUSE)


class _Maker(diskcache.Cache):  # type: ignore[misc]  # diskcache has no type hints
    """diskcache on a connection of ours, which a fork finds."""

    @property
    def _con(self) -> Connection:
        if not hasattr(self._local, "con"):
            self._local.con = _connect(Path(self._directory))
        found: Connection = self._local.con
        return found


def _make_tables(directory: Path) -> None:
    """By diskcache; what it has opened by the time that it fails is closed at once, not whenever it is collected."""
    made = _Maker.__new__(_Maker)
    try:
        diskcache.Cache.__init__(made, str(directory), **_SETTINGS)
    finally:
        if hasattr(made, "_local"):
            made.close()


def _connect(directory: Path) -> Connection:
    return connected(uri(directory / DATABASE, "mode=rw"), directory / DATABASE)


def _has_tables(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_MADE_LAST,)).fetchone()
    return found is not None


def _is_set(connection: sqlite3.Connection) -> bool:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    found = dict(connection.execute("SELECT key, value FROM Settings"))
    return bool(mode == "wal" and _SETTINGS.items() <= found.items())


# --- a copy -----------------------------------------------------------------------------------------------


def copy(directory: Path) -> Path:
    """A copy of the database of a store, log included, in a directory of its own. Raises OSError."""
    made = Path(tempfile.mkdtemp(prefix="plexus-tactus-cache-"))
    try:
        for name in (DATABASE, LOG, JOURNAL):  # not the index: it is rebuilt from the log
            try:
                _copy(directory / name, made / name)
            except FileNotFoundError:
                pass
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return made


def _copy(source: Path, target: Path) -> None:
    found = source.stat()
    with _reading, target.open("wb") as written:
        file = _never_closed.get((found.st_dev, found.st_ino))
        if file is None:
            file = _never_closed[found.st_dev, found.st_ino] = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        offset = 0
        while chunk := os.pread(file, _CHUNK, offset):
            written.write(chunk)
            offset += len(chunk)
