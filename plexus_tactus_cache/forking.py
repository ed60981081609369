"""Forks of a process that has caches open: they stand still meanwhile, and a child has them anew."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forking(Protocol):
    """What an open cache does when its process forks."""

    def hold_still(self) -> None:
        """Wait until no live object is between two states, and keep it so."""

    def go_on(self) -> None:
        """The process goes on, as the parent."""

    def begin_anew(self) -> None:
        """In the child: what must not be shared with the parent is opened anew."""


_open: weakref.WeakSet[Forking] = weakref.WeakSet()
_held: list[Forking] = []


def register(one: Forking) -> None:
    """Until `forget`, or until it is collected."""
    _open.add(one)


def forget(one: Forking) -> None:
    """It is closed."""
    _open.discard(one)


def _before() -> None:
    _held.extend(_open)
    for one in _held:
        one.hold_still()


def _in_parent() -> None:
    for one in _held:
        one.go_on()
    _held.clear()


def _in_child() -> None:
    _held.clear()
    for one in list(_open):
        one.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
