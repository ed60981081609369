"""What each thread has of a database: its connection, and the transaction that it is in."""

from __future__ import annotations

import threading
from types import FrameType

from plexus_tactus_cache.store.local.connecting import Connection
from plexus_tactus_cache.store.local.lock import Ticket


class Slot:
    """One thread's connection, and the lock under which it is used; a fork takes all of them."""

    connection: Connection | None = None
    number = 0  # of the connection, among all that there were
    view: object = None  # of the connection: see looking.py
    owner: FrameType | None = None  # of the transaction or snapshot that the thread is in
    writing = False  # which of both
    ticket: Ticket | None = None  # of the transaction, or of `alone`

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __del__(self) -> None:
        """A thread that ends takes its connection along.

        By itself it would stay open, where no close and no fork finds it, until the collector comes: it refers to
        itself, by its cache of statements.
        """
        disconnect(self)


def disconnect(slot: Slot) -> None:
    """Close the connection of a slot, whose lock the caller has."""
    connection, slot.connection = slot.connection, None
    if connection is not None:
        connection.close()


def is_running(frame: FrameType) -> bool:
    """Whether the call that `frame` is of is still going on; one that is over is let go of."""
    try:
        frame.clear()
    except RuntimeError:  # "cannot clear an executing frame"
        return True
    return False
