"""The marker: a file that says that a directory is a store, and which. What a directory is, is known by it:

| in the directory                                     | is                                                          |
|------------------------------------------------------|-------------------------------------------------------------|
| nothing, or lock files of ours                       | free: a store may be made                                   |
| a marker that says "creating"                        | a store whose making was cut short: who opens it goes on    |
| a marker, and a database whose `store` row has its id | a store                                                     |
| no marker, and a database that has a `store` row     | a store from before there were markers: it gets one         |
| anything else                                        | an error: damage where there is a marker, else not ours     |

A marker is replaced as a whole, and durable before what it speaks of begins: `creating` before the database.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import orjson

from plexus_tactus_cache.errors import CacheCorrupted, LocalStoreError, StoreReadOnly
from plexus_tactus_cache.store.local import directory as directories
from plexus_tactus_cache.store.local.directory import DATABASE, INDEX, JOURNAL, LOG, REPAIRED
from plexus_tactus_cache.store.local.lease import LEASE_NAME
from plexus_tactus_cache.store.local.lock import LOCK_NAME, TURNSTILE_NAME

MARKER = "plexus-tactus-cache.json"
FORMATS = (1, 2, 3)  # those that are read; the last is written
WAY_OUT = "put it back from a backup, or, to begin an empty store, move the directory aside or name another"

_NEW = f"{MARKER}.new"
_LOCKS = {LOCK_NAME, TURNSTILE_NAME, LEASE_NAME}
_LOCK, _LOCK_BYTES = re.compile(rb"[0-9 \n]{0,11}"), 11
_OURS = {MARKER, _NEW, DATABASE, LOG, INDEX, JOURNAL} | _LOCKS
_NOTHING = _LOCKS | {_NEW, "lost+found"}  # what may be where no store is: the last is in the root of a file system


class Marker(NamedTuple):
    """What the file says."""

    store_id: str
    format: int
    creating: bool = False


def read(directory: Path) -> Marker | None:
    """The marker; None where there is none. Raises CacheCorrupted when it makes no sense, StoreReadOnly."""
    try:
        content = (directory / MARKER).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise directories.unusable(directory / MARKER, error) from error
    try:
        found = orjson.loads(content)
        return Marker(str(found["store_id"]), int(found["format"]), bool(found.get("creating")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CacheCorrupted(
            f"{directory / MARKER} is damaged: delete that file, and it is made again from the database"
        ) from error


def write(directory: Path, marker: Marker) -> None:
    """Put it in place, durably. To be called under the writer's lock. Raises StoreFull, StoreReadOnly."""
    content = {"format": marker.format, "store_id": marker.store_id}
    if marker.creating:
        content["creating"] = True
    new = directory / _NEW
    file = directories.open_file(new)
    try:
        os.ftruncate(file, 0)
        os.write(file, orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))
        os.fsync(file)
        os.replace(new, directory / MARKER)
        directories.keep(directory)
    except OSError as error:
        raise directories.unusable(directory / MARKER, error) from error
    finally:
        os.close(file)


def holds_store(directory: Path) -> bool:
    """Whether a store is, or should be, in the directory. Looks, and changes nothing."""
    return (directory / MARKER).is_file() or (directory / DATABASE).is_file()


def without_database(directory: Path) -> CacheCorrupted:
    """What is to be said where a marker is, and no database."""
    if any(directory.glob(f"{REPAIRED}*")):
        return CacheCorrupted(
            f"{directory} is a store whose repair was cut short: `plexus-tactus-cache doctor --repair` finishes it"
        )
    return CacheCorrupted(f"{directory} is a store, but its database ({DATABASE}) is gone or empty: {WAY_OUT}")


def in_the_way(directory: Path, names: Collection[str] | None = None) -> str | None:
    """What cannot be used because a directory is where the store has a file of such a name; None where none is."""
    for name in sorted(_OURS if names is None else names):
        if (directory / name).is_dir():
            return f"{directory / name} is a directory, and the store has a file of that name: move it away"
    return None


def take(directory: Path) -> str | None:
    """Find out whether the directory may be written, and make it where it is not there.

    None when it may; why not, when it holds a store that can only be read. Raises StoreReadOnly, or StoreFull, for a
    directory that is no place for a store; that is left as it is.
    """
    if directory.is_symlink():
        raise StoreReadOnly(f"{directory} is a link: name the directory itself, {directory.resolve()}")
    if os.path.expandvars(directory) != str(directory):
        raise StoreReadOnly(f"{directory} is another directory to diskcache, which expands variables: name another")
    try:
        directories.make_durably(directory)
        owner = directory.stat()
        names = _names(directory, owner.st_uid)
    except FileExistsError as error:
        raise StoreReadOnly(f"{directory} is not a directory") from error
    except OSError as error:
        raise _unmade(directory, error) from error
    is_store = not names.isdisjoint((MARKER, DATABASE))
    if is_store and (obstacle := in_the_way(directory, _OURS - {LEASE_NAME})) is not None:
        raise StoreReadOnly(obstacle)
    _refuse_strangers(directory, owner, names, is_store)
    try:
        with tempfile.TemporaryFile(dir=directory):  # asks the file system: root passes every other check
            pass
    except OSError as error:
        if not is_store or directories.is_lack_of_descriptors(error):  # that passes, and says nothing of the store
            raise _unmade(directory, error) from error
        return f"{directory} cannot be written ({error.strerror}); what it holds can be read"
    database = directory / DATABASE
    if database.exists() and not os.access(database, os.R_OK | os.W_OK):  # not by opening it: see `_never_closed`
        return f"{database} cannot be written; what it holds can be read"
    return None


def _names(directory: Path, owner: int) -> set[str]:
    """Of all that is in it.

    Raises StoreReadOnly for one of ours that is a link: what is behind it is not ours; and for one of another user,
    who could write there what he likes.
    """
    names = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            names.add(entry.name)
            if entry.name in _OURS and entry.is_symlink():
                raise StoreReadOnly(f"{entry.path} is a link: put the file itself in its place")
            if entry.name in (MARKER, DATABASE) and (user := entry.stat().st_uid) != owner:
                raise StoreReadOnly(
                    f"{entry.path} belongs to {_name_of(user)}, and its directory to {_name_of(owner)}: "
                    "give both to one of them"
                )
    return names


def _unmade(directory: Path, error: OSError) -> LocalStoreError:
    found = directories.unusable(directory, error)
    if type(found) is StoreReadOnly:
        return StoreReadOnly(f"{directory} cannot be created or written: {error.strerror}")
    return found


def _refuse_strangers(directory: Path, owner: os.stat_result, names: set[str], is_store: bool) -> None:
    elsewhere = "name another directory, a new one below it for example (argument directory=, or PLEXUS_CACHE_DIR)"
    if owner.st_uid != os.geteuid() and not (is_store and os.geteuid() == 0):
        whose = f"{directory} belongs to {_name_of(owner.st_uid)}"
        if is_store:
            raise StoreReadOnly(f"{whose}: only that user may write there; `plexus-tactus-cache status` may look")
        raise StoreReadOnly(f"{whose}, so no store is made there: {elsewhere}")
    foreign = {name for name in names if name not in _NOTHING or not _may_be_ours(directory / name)}
    if not is_store and foreign:
        raise StoreReadOnly(f"{directory} is not empty, and not ours (it holds {min(foreign)!r}): {elsewhere}")
    if not is_store and owner.st_mode & stat.S_ISVTX:
        raise StoreReadOnly(f"{directory} is for everybody's files: {elsewhere}")


def _may_be_ours(path: Path) -> bool:
    """Whether a file may have been left by us where no store is: a lock has at most the number of a process in it."""
    if path.name not in _LOCKS:
        return True
    try:
        with path.open("rb") as file:
            return _LOCK.fullmatch(file.read(_LOCK_BYTES + 1)) is not None
    except IsADirectoryError:
        return False


def _name_of(user: int) -> str:
    try:
        return f"user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"user {user}"
