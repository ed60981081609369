"""What the parts of the local store share: rows as JSON, and which documents a transaction may write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from plexus_tactus_cache.store.contract import Header, Lease, Link, Pending
from plexus_tactus_cache.store.local.rows import Rows

Result = TypeVar("Result")
_Record = TypeVar("_Record", Header, Pending, Link)


class OnRows:
    """A part of the local store. Ids and keys are percent-encoded in the keys of rows."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._named = threading.local()  # the documents that this thread's transaction is about

    def transaction(
        self, procedure_ids: str | Collection[str], work: Callable[[], Result], *, lease: Lease | None = None
    ) -> Result:
        """See Transactions in contract.py."""
        named = {procedure_ids} if isinstance(procedure_ids, str) else set(procedure_ids)
        database = self.rows.database
        if database.writing:
            foreign = named - self._named.ids
            if foreign:
                raise RuntimeError(f"the transaction around this one is not about {sorted(foreign)}")
            self._check_lease(lease)
            return work()

        def run() -> Result:
            self._named.ids, self._named.news = named, False
            self._check_lease(lease)
            return work()

        result = self.rows.transaction(run)
        if self._named.news:
            self._tell()
        return result

    def snapshot(self, work: Callable[[], Result]) -> Result:
        """See Transactions in contract.py."""
        return self.rows.snapshot(work)

    def _check_lease(self, lease: Lease | None) -> None:
        """Raises LeaseLost when somebody took the lease meanwhile."""

    def _tell(self) -> None:
        """There is news for those who wait: it was committed."""

    def _note_news(self) -> None:
        """Inside a transaction: what it writes is news."""
        self._named.news = True

    def _writable(self, procedure_id: str) -> str:
        """The name of a document in keys of rows. Raises RuntimeError where the transaction is not about it."""
        if self.rows.database.writing and procedure_id not in self._named.ids:
            raise RuntimeError(f"the transaction is not about procedure {procedure_id!r}")
        return quoted(procedure_id)  # outside of a transaction the rows refuse

    def _json(self, key: str) -> Any:
        payload = self.rows.read_row(key)
        return None if payload is None else orjson.loads(payload)

    def _put_json(self, key: str, value: Any) -> None:
        self.rows.write_row(key, orjson.dumps(value))

    def _load(self, kind: type[_Record], key: str) -> _Record | None:
        payload = self.rows.read_row(key)
        return None if payload is None else kind(*orjson.loads(payload))

    def _save(self, key: str, record: Header | Pending | Link) -> None:
        self.rows.write_row(key, orjson.dumps([*record]))


def quoted(text: str) -> str:
    """Percent-encoded, as a part of a key."""
    return quote(text, safe="")
