"""Loading: an adapter's first touch of a document, the only moment when a procedure waits for the network."""

from __future__ import annotations

import logging
import time

from plexus_tactus_cache.errors import OutOfResources, RemoteUnavailable, StoreFull
from plexus_tactus_cache.reconcile.snapshot import Remote
from plexus_tactus_cache.remote.failures import Failure, FailureClass, RequestFailed
from plexus_tactus_cache.settings import CacheSettings
from plexus_tactus_cache.store.contract import Store
from plexus_tactus_cache.sync.engine import SyncEngine
from plexus_tactus_cache.sync.reconciler import is_older
from plexus_tactus_cache.sync.within import within

log = logging.getLogger("plexus_tactus_cache")


def revalidate(procedure_id: str, store: Store, engine: SyncEngine | None, settings: CacheSettings) -> bool:
    """Revalidate a document with Plexus, if that answers within `load_timeout`; False to be asked again.

    Raises RemoteUnavailable for an unknown document, as `on_unreachable` says.
    """
    if store.creation(procedure_id) is not None:
        return True  # Plexus does not have it yet
    problem = _ask(procedure_id, store, engine, settings)
    if problem is None or has_document(store, procedure_id):
        return True
    if store.forgotten(procedure_id) is not None:
        raise RemoteUnavailable(f"procedure {procedure_id!r} was forgotten here, Plexus has it, and {problem}")
    if settings.on_unreachable == "raise" or (settings.on_unreachable == "wait" and engine is None):
        raise RemoteUnavailable(f"procedure {procedure_id!r} is not stored here, and {problem}")
    if settings.on_unreachable == "wait":
        return False
    log.log(
        logging.INFO if engine is None else logging.WARNING,
        "procedure %s is not stored here, and %s: it starts EMPTY; Plexus's is kept and reconciled later",
        procedure_id,
        problem,
    )
    return True


def has_document(store: Store, procedure_id: str) -> bool:
    """Whether more is stored of a procedure than that its record cannot be used, if that much."""
    header = store.header(procedure_id)
    return header is not None and (header.dirty or store.base(procedure_id) is not None)


def _ask(procedure_id: str, store: Store, engine: SyncEngine | None, settings: CacheSettings) -> str | None:
    """Read the record and reconcile: None, or why Plexus's document is not known."""
    if engine is None:
        return "there is no client to ask Plexus with"
    procedures, known = engine.procedures, engine.known([procedure_id])
    answer: Remote | Failure | None
    try:
        answer = within(
            settings.load_timeout,
            lambda: procedures.get([procedure_id], known)[procedure_id],
            "plexus-tactus-cache-load",
        )
    except TimeoutError:
        return f"Plexus did not answer within {settings.load_timeout} s"
    except OutOfResources as error:
        return f"Plexus cannot be asked ({error})"
    except RequestFailed as error:
        answer = error.failure
    if isinstance(answer, Failure):
        where = "Plexus refused it" if answer.kind is FailureClass.REFUSED else "Plexus cannot be asked"
        return f"{where} ({answer.kind.value}: {answer.message})"
    token = store.forgotten(procedure_id)
    if token is not None and (answer is None or is_older(answer.updated_at, token)):
        return "it does not show it: a read can be stale; if it was deleted there, `forget --discard` it here"
    if token is not None and answer is not None and (answer.envelope.problem or answer.envelope.absent):
        return answer.envelope.problem or "its record there has no metadata"
    try:
        engine.reconcile(procedure_id, answer, time.time())
    except StoreFull as error:
        return str(error)
    return answer.envelope.problem if answer is not None else None
