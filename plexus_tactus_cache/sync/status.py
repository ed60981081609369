"""Status: what a store holds that is not in Plexus yet, and why. Reads the store only."""

from __future__ import annotations

from plexus_tactus_cache.document.reports import CacheStatus, ProcedureStatus
from plexus_tactus_cache.errors import CacheCorrupted
from plexus_tactus_cache.store.contract import Header, Pending, Store


def known_header(store: Store, procedure_id: str) -> Header | str:
    """The header, or what is wrong with a document whose header is damaged."""
    try:
        return store.header(procedure_id) or Header()
    except CacheCorrupted as error:
        return str(error)


def is_dirty(store: Store, procedure_id: str) -> bool:
    """Whether the document has changes that Plexus does not have; one that is damaged may have."""
    header = known_header(store, procedure_id)
    return isinstance(header, str) or header.dirty


def pushed_version(store: Store, procedure_id: str) -> int:
    """The version that Plexus has; 0 for none."""
    header = known_header(store, procedure_id)
    return 0 if isinstance(header, str) else header.pushed


def pending(store: Store) -> tuple[str, ...]:
    """The documents that are not in Plexus yet, parked ones too."""
    return tuple(procedure_id for procedure_id in store.outbox() if is_dirty(store, procedure_id))


def dirty_versions(store: Store) -> dict[str, int]:
    """The newest version of each document that is not in Plexus yet; 1 where it is not known."""
    headers = {procedure_id: known_header(store, procedure_id) for procedure_id in store.outbox()}
    return {
        procedure_id: 1 if isinstance(header, str) else header.version
        for procedure_id, header in headers.items()
        if isinstance(header, str) or header.dirty
    }


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
    outbox = store.outbox()
    dirty = [pending for procedure_id, pending in outbox.items() if is_dirty(store, procedure_id)]
    link = store.link()
    return CacheStatus(
        directory=store.location,
        endpoint=store.endpoint if endpoint is None else endpoint,
        connection=link.state if has_client else "no client",
        problem=link.problem,
        procedures=len(store.procedure_ids()),
        dirty=len(dirty),
        oldest_dirty_age=max((max(0.0, now - pending.since) for pending in dirty), default=None),
        parked=sum(pending.parked is not None for pending in outbox.values()),
        conflicts=store.open_conflicts(),
        last_success=link.last_success,
        next_attempt=next_attempt,
        leader=leads,
        store_problem=problem,
    )


def procedure_statuses(store: Store) -> list[ProcedureStatus]:
    """Where each stored procedure stands, by id."""
    outbox = store.outbox()
    return [_procedure_status(store, name, outbox.get(name)) for name in sorted({*store.procedure_ids(), *outbox})]


def _procedure_status(store: Store, procedure_id: str, pending: Pending | None) -> ProcedureStatus:
    found = known_header(store, procedure_id)
    damage, header = (found, Header()) if isinstance(found, str) else (None, found)
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
