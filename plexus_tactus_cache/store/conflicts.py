"""The conflict journal of a store, for a person: what is in it, and how a decision is carried out."""

from __future__ import annotations

import time
from collections.abc import Callable

from plexus_tactus_cache.document.reports import Conflict
from plexus_tactus_cache.errors import ConflictNotFound, ProcedureNotFound
from plexus_tactus_cache.reconcile.decide import Side
from plexus_tactus_cache.reconcile.journal import ConflictRecord, conflict_of, restore
from plexus_tactus_cache.store.contract import Pending, Store

_DIGITS = 18  # of the number of a conflict; Python refuses to read thousands of them


def conflicts(store: Store, *, resolved: bool = False) -> list[Conflict]:
    """The open ones, oldest first; with `resolved` those that were dealt with."""
    return [conflict_of(*item) for item in store.conflicts(resolved=resolved).items()]


def resolve(store: Store, conflict_id: str, keep: Side, transaction: Callable[[str, Callable[[], None]], None]) -> None:
    """Let one side be the value; see ProcedureCache.resolve. Raises ConflictNotFound, ConflictOutdated."""
    number = int(conflict_id) if conflict_id.isdecimal() and len(conflict_id) <= _DIGITS else 0

    def find() -> ConflictRecord:
        found = store.conflict(number)
        if found is None:
            raise ConflictNotFound(f"there is no conflict {conflict_id!r} in {store.location}")
        return found

    def work() -> None:
        now, record = time.time(), find()
        if record.kept is None and record.resolved is None:
            pending = store.pending(record.procedure_id) or Pending(since=now)
            store.put_pending(record.procedure_id, pending.again()._replace(fork=keep))
        elif keep != (record.resolved or record.kept):
            _restore(store, number, record, keep, now)
        store.put_conflict(record._replace(resolved=keep), number)

    transaction(find().procedure_id, work)


def _restore(store: Store, number: int, record: ConflictRecord, keep: Side, now: float) -> None:
    found = store.read(record.procedure_id)
    if found is None:
        raise ProcedureNotFound(record.procedure_id, f"it is not in {store.location}")
    changes, replaced = restore(number, record, keep, found[1], now)
    if replaced is not None:
        store.put_conflict(replaced)
    store.merge(record.procedure_id, changes, (), now)
