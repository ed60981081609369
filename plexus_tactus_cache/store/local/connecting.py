"""Connections to SQLite, as all of the local store has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path


def uri(file: Path, options: str) -> str:
    """How SQLite is asked to open a file with options."""
    return f"{file.absolute().as_uri()}?{options}"


def connected(uri: str, pragmas: Iterable[str]) -> sqlite3.Connection:
    """A connection on which these have been executed. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        uri,
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


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else is in the way, for the moment."""
    return "locked" in str(error) or "busy" in str(error)
