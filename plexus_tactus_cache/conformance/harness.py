"""What a check is made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Factory = Callable[[Path], AbstractContextManager[Any]]
"""Opens the backend on a directory: a context manager that gives a StorageBackend and closes it."""

Open = Callable[[], AbstractContextManager[Any]]


class NotConforming(Exception):
    """The backend does not do what the check asks for; the message says what it does instead."""


@dataclass(frozen=True)
class Check:
    """One thing that a backend has to do."""

    group: str
    name: str
    body: Callable[[Open], None]

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"

    def run(self, factory: Factory, directory: Path) -> None:
        """Raises NotConforming, or whatever the backend raises. `directory` has to be empty."""
        self.body(lambda: factory(directory))


def expect(found: Any, wanted: Any, what: str) -> None:
    """Raises NotConforming unless both are the same, in value and type, at every level."""
    if not same(found, wanted):
        raise NotConforming(f"{what}: found {_short(found)}, want {_short(wanted)}")


def same(one: Any, other: Any) -> bool:
    """Whether two values equal each other and so do their types; a dict or list may be a subclass."""
    if isinstance(other, dict):
        return (
            isinstance(one, dict)
            and len(one) == len(other)
            and all(any(same(key, found) and same(one[found], other[key]) for found in one) for key in other)
        )
    if isinstance(other, list):
        return isinstance(one, list) and len(one) == len(other) and all(map(same, one, other))
    if type(one) is not type(other):
        return False
    if isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(other, float):
        return repr(one) == repr(other)  # NaN is NaN, and -0.0 is not 0.0
    return bool(one == other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
