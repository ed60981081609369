"""The stores that the suite of the contract runs on: a new one is one more class, and one more entry in STORES."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from plexus_tactus_cache.store.contract import Store
from plexus_tactus_cache.store.local import LocalStore
from plexus_tactus_cache.store.local.directory import DATABASE


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class StoreHarness(Protocol):
    """One store of a kind, and what a test does to it that a caller cannot."""

    clock: Clock  # that leases go by, in this process

    def open(self, **options: Any) -> Store:
        """The store; a second call is a second opener of the same one. `options`: `lock_timeout`, `read_only`."""

    def opening(self) -> str:
        """The statement that opens it, as `store`, in another process."""

    def damage(self, procedure_id: str) -> None:
        """Break all that is kept of one document, its place in the outbox too, behind everybody's back."""

    def misplace(self, procedure_id: str) -> None:
        """Take away by what its place in the outbox is found when it is due, but not the place; or skip the test."""

    def failing(self, store: Store) -> AbstractContextManager[None]:
        """Inside, a write of a megabyte by this thread is an error of the store's."""

    def close(self) -> None:
        """Close whatever was opened."""


class LocalHarness:
    """A local store in a directory."""

    def __init__(self, directory: Path, kind: Callable[..., LocalStore] = LocalStore) -> None:
        self.clock = Clock()
        self._directory = directory
        self._kind = kind
        self._opened: list[LocalStore] = []

    def open(self, **options: Any) -> Store:
        store = self._kind(self._directory, clock=self.clock, **{"lock_timeout": 60.0, **options})
        self._opened.append(store)
        return store

    def opening(self) -> str:
        return (
            "from pathlib import Path; from plexus_tactus_cache.store.local import LocalStore; "
            f"store = LocalStore(Path({str(self._directory)!r}))"
        )

    def damage(self, procedure_id: str) -> None:
        name = quote(procedure_id, safe="")
        connection = sqlite3.connect(self._directory / DATABASE, timeout=60)
        with connection:
            hit = connection.execute(
                "UPDATE Cache SET value = X'00' || value WHERE key IN ('doc/' || :name, 'outbox/' || :name)"
                " OR substr(key, 1, length(:name) + 5) = 'log/' || :name || '/'"
                " OR substr(key, 1, length(:name) + 7) = 'state/' || :name || '/'",
                {"name": name},
            ).rowcount
        connection.close()
        assert hit, f"nothing is kept of {procedure_id!r}"

    def misplace(self, procedure_id: str) -> None:
        name = quote(procedure_id, safe="")
        connection = sqlite3.connect(self._directory / DATABASE, timeout=60)
        with connection:
            hit = connection.execute("DELETE FROM Cache WHERE key GLOB 'due/*/' || ?", (name,)).rowcount
        connection.close()
        assert hit, f"{procedure_id!r} has no place"

    @contextmanager
    def failing(self, store: Store) -> Iterator[None]:
        assert isinstance(store, LocalStore)
        database = store.rows.database
        connection = database.connection()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (before,) = connection.execute(f"PRAGMA max_page_count = {pages + 20}").fetchone()
        try:
            yield
        finally:
            database.connection().execute("PRAGMA max_page_count = 4294967294").close()
        assert before == pages + 20

    def close(self) -> None:
        for store in self._opened:
            store.close()


STORES: dict[str, Callable[[Path], StoreHarness]] = {
    "local": lambda place: LocalHarness(place / "store"),
}
