"""Connections to SQLite, as all of the local store has them, and what a fork does to those that are open.

SQLite keeps the locks of its connections in a table of the process. A child inherits the table and not the locks, so
one that was forked while a connection was open would write to that file without locks, whatever connection it uses;
and what it undoes or closes of what it inherited, it undoes in the memory that all processes on the file share
(sqlite.org/howtocorrupt.html, §2.6). Forks therefore wait until all are closed; see forks.py. A child of one that could
not wait leaves those that were open as they are, and never opens their files again.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sqlite3
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from plexus_tactus_cache.errors import LocalStoreError

_Identity = tuple[int, int]  # of a file: device and inode
_forks = 0  # that lie between the first process and this one
_known: dict[int, weakref.ref[Connection]] = {}  # not a WeakSet: Python swallows an interrupt in its callbacks
_numbers = itertools.count()
_left: set[_Identity] = set()  # files that a parent had open
_execute, _close = sqlite3.Connection.execute, sqlite3.Connection.close


class Connection(sqlite3.Connection):
    """A connection that is of use in the process that opened it; in a child it is neither used nor, ever, closed."""

    _made = 0

    def __init__(self, address: str, file: Path, **options: Any) -> None:
        self._made = _forks
        self.file = _identity(file)
        for number in [number for number, known in list(_known.items()) if known() is None]:
            _known.pop(number, None)
        _known[next(_numbers)] = weakref.ref(self)  # before it is open: a fork has to find it
        refuse_left(file)
        super().__init__(address, **options)

    def rows(self, statement: str, values: Any = ()) -> list[Any]:
        """All rows of one statement. Raises sqlite3.Error, LocalStoreError.

        Between the look at the count and the call into SQLite no signal handler runs that could fork.
        """
        if self._made != _forks:
            raise _of_a_parent()
        found = _execute(self, statement, values).fetchall()
        if self._made != _forks:
            raise _of_a_parent()
        return found

    def execute(self, statement: str, values: Any = (), /) -> sqlite3.Cursor:
        if self._made != _forks:
            raise _of_a_parent()
        return _execute(self, statement, values)

    def close(self) -> None:
        if self._made == _forks:
            _close(self)

    def __del__(self) -> None:
        if self._made != _forks:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))  # it outlives the process: collecting it closes it

    @property
    def is_open(self) -> bool:
        try:
            return self.total_changes >= 0
        except sqlite3.ProgrammingError:
            return False


def connected(address: str, file: Path, pragmas: Iterable[str] = ()) -> Connection:
    """A connection on which these have been executed. Raises sqlite3.Error, LocalStoreError."""
    connection = Connection(
        address,
        file,
        uri=True,
        timeout=0,  # we wait ourselves: SQLite's waiting cannot be interrupted
        isolation_level=None,
        check_same_thread=False,  # a fork closes it from the thread that forks
    )
    try:
        for pragma in pragmas:
            connection.execute(pragma)
    except BaseException:  # an interrupt too: its traceback must not keep open what no fork would find
        connection.close()
        raise
    return connection


def uri(file: Path, options: str) -> str:
    """How SQLite is asked to open a file with options."""
    return f"{file.absolute().as_uri()}?{options}"


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else is in the way, for the moment."""
    return any(text in str(error) for text in ("locked", "busy", "locking protocol"))


# --- forks ------------------------------------------------------------------------------------------------


def forked() -> None:
    """In a child, first of all: what is open is the parent's."""
    global _forks
    for known in list(_known.values()):
        connection = known()
        if connection is not None and connection.file is not None and connection.is_open:
            _left.add(connection.file)
    _forks += 1


def refuse_left(file: Path) -> None:
    """Raises LocalStoreError for a file that this process can never open."""
    if _left and _identity(file) in _left:
        raise _of_a_parent(file)


def _of_a_parent(file: Path | None = None) -> LocalStoreError:
    return LocalStoreError(
        f"this process was forked in the middle of a use of {'the store' if file is None else file.parent}, and cannot "
        "use it (its parent can): do not fork in a signal handler that may interrupt one, or start a new program"
    )


def _identity(file: Path) -> _Identity | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino
