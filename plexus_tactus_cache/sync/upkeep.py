"""Upkeep: what people, and time, do to the documents of a store: try again, forget."""

from __future__ import annotations

import logging

from plexus_tactus_cache.errors import CacheCorrupted, ProcedureNotFound, StillNeeded
from plexus_tactus_cache.store.contract import Lease, Store

log = logging.getLogger("plexus_tactus_cache")


def retry(store: Store, procedure_id: str) -> None:
    """Let a parked procedure be pushed again, now. To be called in a transaction on it."""
    found = store.pending(procedure_id)
    if found is not None:
        again = found.again()
        if store.creation(procedure_id) is not None:
            again = again._replace(reread=False)  # there is no record to read
        store.put_pending(procedure_id, again)


def forget(store: Store, procedure_id: str, *, discard: bool = False, lease: Lease | None = None) -> None:
    """Delete a procedure from the store; Plexus's record stays.

    Raises ProcedureNotFound; StillNeeded for one that has something that Plexus does not have, or that a person has to
    decide about, unless that is to be discarded.
    """

    def work() -> None:
        if not discard:
            why = _still_needed(store, procedure_id)
            if why is not None:
                raise StillNeeded(procedure_id, why)
        store.forget(procedure_id)

    store.transaction(procedure_id, work, lease=lease)


def _still_needed(store: Store, procedure_id: str) -> str | None:
    """Why it must not go."""
    header, pending = store.header(procedure_id), store.pending(procedure_id)
    if header is None:
        raise ProcedureNotFound(procedure_id, f"it is not in {store.location}")
    if pending is not None and pending.parked is not None:
        return f"it is parked: {pending.parked}"
    if header.dirty or (pending is not None and not pending.look):
        return "not all of it is in Plexus yet"
    if store.conflicts(procedure_id=procedure_id):
        return "it has open conflicts"
    if pending is not None:
        return "its record has to be looked at once more, seconds after the last push"
    return None


def collect(store: Store, before: float, *, most: int | None = None, lease: Lease | None = None) -> list[str]:
    """Forget the procedures that were last written before that moment (seconds since the epoch), if all of them is in
    Plexus and nobody has to decide anything about them; `most` of them at a time: which they were."""
    gone: list[str] = []
    for procedure_id in store.idle(before):
        if len(gone) == most:
            break
        try:
            forget(store, procedure_id, lease=lease)
        except (StillNeeded, ProcedureNotFound, CacheCorrupted):
            continue  # written, or forgotten, meanwhile; what is damaged is doctor's
        gone.append(procedure_id)
    if gone:
        log.info("%d procedures of which Plexus has everything were forgotten in %s", len(gone), store.location)
    return gone
