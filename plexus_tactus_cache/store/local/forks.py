"""Forks: no connection is open, and no thread is inside SQLite, while the process forks; connecting.py says why.

Except where a signal handler forks that interrupts a use of the store: that cannot be finished first, so nobody waits
for anything of it, and the child cannot use that store.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import Protocol

from plexus_tactus_cache.store.local import connecting


class Forkable(Protocol):
    """What has to be still while the process forks."""

    file: Path

    def is_interrupted(self) -> bool:
        """Whether this thread, which forks in a signal handler then, is in the middle of a use of it."""

    def hold_still(self) -> None:
        """In the thread that forks, before: wait until no other thread is in the middle of anything, keep it so."""

    def go_on(self) -> None:
        """After `hold_still`, in the parent."""

    def leave_to_parent(self) -> None:
        """In the child."""


def let_go(lock: threading.RLock) -> None:
    """Release a lock that `hold_still` took, if it came that far: one that this thread does not have stays as it is."""
    try:
        lock.release()
    except RuntimeError:
        pass  # an interrupt came first


opening = threading.RLock()  # held while a store opens: what a library's start-up does must not be torn by a fork
_known: weakref.WeakSet[Forkable] = weakref.WeakSet()
_held: list[Forkable] = []


def register(found: Forkable) -> None:
    """From now on `found` is still during forks; until it is collected."""
    with opening:
        _known.add(found)


def is_interrupted(file: Path | None = None) -> bool:
    """Whether this thread is in the middle of a use of that file, whoever of this process opened it; None: of any."""
    return any(one.is_interrupted() for one in list(_known) if file in (None, one.file))


def _before() -> None:
    opening.acquire(blocking=not is_interrupted())  # who opens may wait for what this thread has
    known = list(_known)
    torn = {one.file for one in known if one.is_interrupted()}  # before any is held, which looks the same
    for one in known:  # an interrupt ends this, and Python forks all the same: `go_on` finds out what is held
        if one.file not in torn:
            _held.append(one)
            one.hold_still()


def _after_in_parent() -> None:
    for one in _held:
        one.go_on()
    _held.clear()
    let_go(opening)


def _after_in_child() -> None:
    global opening
    connecting.forked()
    for one in list(_known):
        one.leave_to_parent()
    _held.clear()
    opening = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
