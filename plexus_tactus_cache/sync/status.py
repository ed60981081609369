"""Status: what a store holds that is not in Plexus yet, and why. Reads the store only."""

from __future__ import annotations

from plexus_tactus_cache.document.reports import CacheStatus, ProcedureStatus
from plexus_tactus_cache.errors import CacheCorrupted
from plexus_tactus_cache.store.contract import Header, Pending, Store


def pushed_version(store: Store, procedure_id: str) -> int:
    """The version that Plexus has; 0 for none, and for a damaged document."""
    try:
        header = store.header(procedure_id)
    except CacheCorrupted:
        return 0
    return header.pushed if header else 0


def pending(store: Store) -> tuple[str, ...]:
    """The documents that are not in Plexus yet, parked ones too; a damaged one may be."""
    return tuple(store.snapshot(lambda: _dirty(store.outbox(), store.headers())))


def dirty_versions(store: Store) -> dict[str, int]:
    """The newest version of each document that is not in Plexus yet; 1 where it is not known."""

    def work() -> dict[str, int]:
        headers = store.headers()
        found = {name: headers.get(name) for name in _dirty(store.outbox(), headers)}
        return {name: header.version if isinstance(header, Header) else 1 for name, header in found.items()}

    return store.snapshot(work)


def _dirty(outbox: dict[str, Pending], headers: dict[str, Header | str]) -> dict[str, Pending]:
    """Those of the outbox that have changes that Plexus does not have; one that is damaged, or has no header, may."""

    def is_dirty(header: Header | str | None) -> bool:
        return header.dirty if isinstance(header, Header) else True

    return {name: pending for name, pending in outbox.items() if is_dirty(headers.get(name))}


def waits(pending: Pending) -> bool:
    """Whether something of it is not in Plexus yet, and nobody has to do anything about that."""
    return pending.parked is None and not pending.look


def cache_status(
    store: Store,
    now: float,
    *,
    endpoint: str | None,
    has_client: bool,
    next_attempt: float | None,
    leads: bool,
    problem: str | None,
) -> CacheStatus:
    """The truth about one cache.

    Args:
        leads: whether this process does.
        problem: why the store could not be written.
    """
    outbox, headers, conflicts = store.snapshot(lambda: (store.outbox(), store.headers(), store.open_conflicts()))
    dirty = _dirty(outbox, headers).values()
    link = store.link()
    return CacheStatus(
        directory=store.location,
        endpoint=store.endpoint if endpoint is None else endpoint,
        connection=link.state if has_client else "no client",
        problem=link.problem,
        procedures=len(headers),
        dirty=len(dirty),
        oldest_dirty_age=max((max(0.0, now - pending.since) for pending in dirty if pending.since), default=None),
        parked=sum(pending.parked is not None for pending in outbox.values()),
        conflicts=conflicts,
        last_success=link.last_success,
        next_attempt=next_attempt if dirty or store.garbage_due() is not None else None,
        leader=leads,
        store_problem=problem,
        store_bytes=store.size,
        writer=store.writer(),
    )


def procedure_statuses(store: Store) -> list[ProcedureStatus]:
    """Where each stored procedure stands, by id."""
    outbox, headers = store.snapshot(lambda: (store.outbox(), store.headers()))
    missing = "its header is missing from the store"
    return [
        _procedure_status(name, headers.get(name, missing), outbox.get(name)) for name in sorted({*headers, *outbox})
    ]


def _procedure_status(procedure_id: str, found: Header | str, pending: Pending | None) -> ProcedureStatus:
    damage, header = (found, Header()) if isinstance(found, str) else (None, found)
    if pending is not None and pending.look:
        pending = None  # nothing of it waits
    return ProcedureStatus(
        procedure_id=procedure_id,
        version=header.version,
        pushed_version=header.pushed,
        dirty=header.dirty or damage is not None,
        entries=header.log_length,
        status=header.status,
        parked_reason=pending.parked if pending and pending.parked else damage,
        last_error=pending.error if pending else None,
        attempts=pending.attempts if pending else 0,
        next_attempt=pending.moment if pending and pending.parked is None else None,
        dirty_since=pending.since if pending and header.dirty else None,
    )
