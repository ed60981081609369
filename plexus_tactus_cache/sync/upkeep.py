"""Upkeep: what people, and time, do to the documents of a store: try again, forget."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from plexus_tactus_cache.document.encoded import Changes
from plexus_tactus_cache.errors import CacheCorrupted, ProcedureNotFound, StillNeeded
from plexus_tactus_cache.store.contract import Header, Lease, Store

Transaction = Callable[[str, Callable[[], None]], None]
Unmoved = Callable[[Sequence[str]], list[str]]

_AT_ONCE = 50

log = logging.getLogger("plexus_tactus_cache")


def create(store: Store, record: dict[str, Any], now: float, delay: float, transaction: Transaction) -> str:
    """A new document, for a record that is created with these fields at the next sync: its id.

    Args:
        transaction: one whose failure shows in the cache's status.
    """
    fields = dict(record)
    status, message = fields.pop("status", None), fields.pop("waitingOnMessageId", None)
    procedure_id = str(uuid.uuid4())

    def work() -> None:
        store.put_creation(procedure_id, fields)
        store.write(procedure_id, Changes(status=None if status is None else (status, message)), now, delay)

    transaction(procedure_id, work)
    return procedure_id


def retry(store: Store, procedure_id: str) -> None:
    """Let a parked procedure be pushed again, now. To be called in a transaction on it."""
    found = store.pending(procedure_id)
    if found is not None:
        again = found.again()
        if store.creation(procedure_id) is not None:
            again = again._replace(reread=False)  # there is no record to read
        store.put_pending(procedure_id, again)


def forget(
    store: Store,
    procedure_id: str,
    *,
    discard: bool = False,
    unmoved: Unmoved | None = None,
    lease: Lease | None = None,
) -> None:
    """Delete a procedure from the store; Plexus's record stays.

    Args:
        discard: whatever it has that Plexus does not have is given up.
        unmoved: tells of which procedures Plexus's record is as it was left; None: it cannot be asked.

    Raises ProcedureNotFound; StillNeeded for one that has something that Plexus does not have, or that a person has to
    decide about; RequestFailed.
    """
    if not discard and unmoved is not None and store.base(procedure_id) is not None and not unmoved([procedure_id]):
        raise StillNeeded(procedure_id, "its record in Plexus is not as it was left")

    def work() -> None:
        header, base = store.header(procedure_id), store.base(procedure_id)
        if header is None and (not discard or store.forgotten(procedure_id) is None):
            raise ProcedureNotFound(procedure_id, f"it is not in {store.location}")
        why = _still_needed(store, procedure_id, header) if header is not None and not discard else None
        if why is not None:
            raise StillNeeded(procedure_id, why)
        store.forget(procedure_id, token=None if discard or base is None else base["updated_at"])

    store.transaction(procedure_id, work, lease=lease)


def _still_needed(store: Store, procedure_id: str, header: Header) -> str | None:
    """Why it must not go."""
    pending = store.pending(procedure_id)
    if pending is not None and pending.parked is not None:
        return f"it is parked: {pending.parked}"
    if header.dirty or (pending is not None and not pending.look):
        return "not all of it is in Plexus yet"
    if store.conflicts(procedure_id=procedure_id):
        return "it has open conflicts"
    if pending is not None:
        return "its record has to be looked at once more, seconds after the last push"
    return None


def collect(
    store: Store,
    before: float,
    *,
    most: int | None = None,
    unmoved: Unmoved | None = None,
    lease: Lease | None = None,
) -> list[str]:
    """Forget the procedures that were last written before that moment (seconds since the epoch), if all of them is in
    Plexus and nobody has to decide anything about them; `most` of them at a time: which they were. Else as `forget`."""
    gone: list[str] = []
    old = store.idle(before)
    for start in range(0, len(old), _AT_ONCE):
        some = old[start : start + _AT_ONCE]
        for procedure_id in some if unmoved is None else unmoved(some):
            if len(gone) == most:
                return gone
            try:
                forget(store, procedure_id, lease=lease)
            except (StillNeeded, ProcedureNotFound, CacheCorrupted):
                continue  # written, or forgotten, meanwhile; what is damaged is doctor's
            gone.append(procedure_id)
    if gone:
        log.info("%d procedures of which Plexus has everything were forgotten in %s", len(gone), store.location)
    return gone
