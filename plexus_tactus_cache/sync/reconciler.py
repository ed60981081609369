"""Reconciler: reconciles one document with its record, in one transaction. No network."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from dataclasses import dataclass
from typing import Literal

from plexus_tactus_cache.document.encoded import Document
from plexus_tactus_cache.errors import CacheCorrupted
from plexus_tactus_cache.reconcile.decide import FORK, TWO_WAYS, Action, OnFork, Plan, Side, reconcile
from plexus_tactus_cache.reconcile.journal import open_fork, record_of
from plexus_tactus_cache.reconcile.lineage import (
    Base,
    Chosen,
    History,
    Snapshot,
    history_from_json,
    history_to_json,
    read_id,
)
from plexus_tactus_cache.reconcile.merge import difference, merged
from plexus_tactus_cache.reconcile.snapshot import Digests, Remote
from plexus_tactus_cache.store.contract import Header, Lease, Pending, Store

log = logging.getLogger("plexus_tactus_cache")

DOUBT_SECONDS = 5.0  # a read of DynamoDB is consistent by then: only after that is a missing record believed


@dataclass(frozen=True)
class Reconciled:
    """What came of it: whether the document is to be pushed now, and what was done to it."""

    to_push: bool = False
    did: Literal["pulled", "merged", "parked"] | None = None


class Reconciler:
    """Reconciles the documents of one store. Any thread."""

    def __init__(self, store: Store, on_fork: OnFork) -> None:
        self._store = store
        self._on_fork = on_fork

    def reconcile(self, procedure_id: str, remote: Remote | None, now: float, lease: Lease | None = None) -> Reconciled:
        """Reconcile one document with the record just read, in one transaction."""
        return self._store.transaction(procedure_id, lambda: self._reconcile(procedure_id, remote, now), lease=lease)

    def _reconcile(self, procedure_id: str, remote: Remote | None, now: float) -> Reconciled:
        found = self._read(procedure_id, remote, now)
        header, local = found or (self._store.unknown(), Document())
        history, base = remembered(self._store, procedure_id)
        pending = self._store.pending(procedure_id)
        creating = self._store.creation(procedure_id) is not None
        created = not creating or (pending is not None and pending.reread)  # a create met a record of that id
        doubtful = found is not None and created and _stale(base, remote)
        if doubtful and self._still_doubtful(procedure_id, pending, now):
            return Reconciled()
        chosen = Chosen(history.base, True, True)
        if remote is not None and remote.envelope.problem is None and not remote.envelope.absent:
            chosen = history.base_of(remote.envelope.lineage, remote.envelope.push_id)
        if remote is not None and remote.unchanged and (chosen.base is None or remote.relative_to != chosen.base.id):
            self._store.update_pending(procedure_id, now, reread=True)  # a push of ours came in between
            return Reconciled()
        header = self._as_known(procedure_id, header, history, chosen)
        before = None if chosen.base is None else _with_status(chosen.base.digests, base, remote)
        fork = pending.fork if pending is not None else None
        plan = reconcile(
            before,
            Digests.of(local),
            header.dirty,
            remote,
            created_here=creating,
            on_fork=fork or self._on_fork,
            known=chosen.is_known,
        )
        if remote is not None:
            self._set_aside(procedure_id, plan, local, remote, before, fork, now)
        if found is None and remote is None:
            return Reconciled()
        if plan.action is Action.PARK:
            if found is None:  # it exists, and cannot be used: say so in status
                self._store.put_header(procedure_id, header)
            self._store.park(procedure_id, plan.reason, now)
            return Reconciled(did="parked")
        if remote is not None:
            self._note_read(procedure_id, history, base, remote, before)
            self._store.drop_creation(procedure_id)
            reconciled = self._carry_out(procedure_id, plan, header, local, remote.document, now)
        elif plan.action is Action.NOTHING:
            reconciled = self._carry_out(procedure_id, plan, header, local, local, now)
        else:
            reconciled = Reconciled(to_push=True)
        if not reconciled.to_push and pending is not None and pending.look and pending.moment > now:
            self._store.put_pending(procedure_id, pending)  # somebody may still write what he had read before
        if reconciled.to_push:
            pending = self._store.pending(procedure_id) or Pending(since=now)
            parked = None if pending.parked == FORK else pending.parked  # it is none any more: see `_set_aside`
            again = pending._replace(parked=parked, reread=False, doubtful_since=None, look=False)
            self._store.put_pending(procedure_id, again)
        return reconciled

    def _read(self, procedure_id: str, remote: Remote | None, now: float) -> tuple[Header, Document] | None:
        """The document; one that is damaged, and of which Plexus has everything, makes room for Plexus's.

        Raises CacheCorrupted for any other that is damaged.
        """
        try:
            return self._store.read(procedure_id)
        except CacheCorrupted as error:
            if remote is None or remote.unchanged or remote.envelope.problem or self._is_dirty(procedure_id):
                raise
            log.warning("%s; Plexus has all of it, and it was read again from there", error)
            self._store.forget(procedure_id)
            self._store.put_header(procedure_id, self._store.unknown())
            return self._store.unknown(), Document()

    def _is_dirty(self, procedure_id: str) -> bool:
        """Of a document that is damaged: whether it has, or had, changes that Plexus does not have."""
        try:
            header = self._store.header(procedure_id)
        except CacheCorrupted:
            pending = self._store.pending(procedure_id)
            return pending is not None and not pending.look
        return header is not None and header.dirty

    def _set_aside(
        self,
        procedure_id: str,
        plan: Plan,
        local: Document,
        remote: Remote,
        base: Digests | None,
        fork: Side | None,
        now: float,
    ) -> None:
        """Write what the plan sets aside into the conflict journal; a fork that is none any more is closed there."""
        old = self._store.old(procedure_id) if plan.set_aside else {}
        undecided = open_fork(self._store.conflicts(procedure_id=procedure_id).items(), procedure_id)
        for aside in plan.set_aside:
            record = record_of(aside, procedure_id, local, remote, base, old, now)
            if aside.kept is None:
                self._store.put_conflict(record, undecided)
            elif aside.reason == TWO_WAYS and fork is not None:
                self._store.put_conflict(record._replace(resolved=fork))  # as a person wanted it
            else:
                self._store.put_conflict(record)
                log.warning(
                    "procedure %s: %s: the %s one is kept (%s)", procedure_id, aside.part, aside.kept, aside.reason
                )
        if undecided is not None and plan.action is not Action.PARK:
            record = self._store.conflicts(procedure_id=procedure_id)[undecided]
            side: Side = "remote" if plan.take_log else "local"
            self._store.put_conflict(record._replace(kept=side, resolved=side), undecided)

    def _carry_out(
        self, procedure_id: str, plan: Plan, header: Header, local: Document, remote: Document, now: float
    ) -> Reconciled:
        """Write what the plan makes of the document."""
        if plan.action is Action.ADOPT:
            self._store.adopt(procedure_id, difference(local, merged(local, remote, plan)), local.runs)
            return Reconciled(did="pulled")
        if plan.action is Action.NOTHING:
            self._store.put_header(procedure_id, header._replace(queued=False))
            self._store.drop_pending(procedure_id)
            return Reconciled()
        self._store.forget_old(procedure_id)
        if plan.action is Action.MERGE:
            self._store.merge(procedure_id, difference(local, merged(local, remote, plan)), local.runs, now)
            return Reconciled(to_push=True, did="merged")
        return Reconciled(to_push=True)

    def _as_known(self, procedure_id: str, header: Header, history: History, chosen: Chosen) -> Header:
        """The header, with what the record says of how far Plexus has our versions."""
        base = chosen.base
        if base is not None and base.version is not None and base.id in {push.id for push in history.pushes}:
            pushed = max(header.pushed, base.version)  # an answer was lost: it landed
        elif not chosen.is_last:
            pushed = min(header.pushed, header.version - 1)  # somebody wrote back what was there before
        else:
            return header
        header = header._replace(pushed=pushed)
        self._store.put_header(procedure_id, header)
        return header

    def _note_read(
        self, procedure_id: str, history: History, base: Base | None, remote: Remote, before: Digests | None
    ) -> None:
        """The record is this now: what the next push is made for."""
        if base is None or remote.updated_at != base.updated_at:
            snapshot = Snapshot(
                read_id(remote.updated_at),
                remote.envelope.lineage or {},
                None,
                remote.digests(before),
                remote.attachments,
                remote.over,
            )
            self._store.put_history(procedure_id, history_to_json(history.read(snapshot)))
        else:
            snapshot = base.snapshot
        found = Base(remote.updated_at, snapshot, remote.envelope.foreign)
        self._store.put_base(procedure_id, found.to_json())

    def _still_doubtful(self, procedure_id: str, pending: Pending | None, now: float) -> bool:
        """Nothing is believed on the word of one read: note the doubt and read again, for `DOUBT_SECONDS`."""
        pending = pending or Pending(since=now)
        since = pending.doubtful_since if pending.doubtful_since is not None else now
        if now - since >= DOUBT_SECONDS:
            return False
        again = pending._replace(reread=True, doubtful_since=min(since, now), due=now + 1.0)
        self._store.put_pending(procedure_id, again)
        return True


def remembered(store: Store, procedure_id: str) -> tuple[History, Base | None]:
    """What is remembered of a document's record, and what of it Plexus last confirmed, or showed."""
    stored = store.base(procedure_id)
    history = history_from_json(store.history(procedure_id), None if stored is None else stored["id"])
    snapshot = history.base
    if stored is None or snapshot is None:
        return history, None
    return history, Base(stored["updated_at"], snapshot, stored["foreign"])


def history_of(store: Store, procedure_id: str) -> History:
    """What is remembered of a document's record."""
    return remembered(store, procedure_id)[0]


def _with_status(before: Digests, last: Base | None, remote: Remote | None) -> Digests:
    """The digests of a base, with the status as it last was: who writes back old metadata leaves that as it is, or
    writes back the one of the same time."""
    if last is None or remote is None:
        return before
    if (remote.status, remote.waiting_on_message_id) == (before.status, before.waiting_on_message_id):
        return before
    return dataclasses.replace(
        before, status=last.digests.status, waiting_on_message_id=last.digests.waiting_on_message_id
    )


def _stale(base: Base | None, remote: Remote | None) -> bool:
    """Whether a read may be older than what is there: no record (yet), or one older than Plexus confirmed."""
    return remote is None or (base is not None and is_older(remote.updated_at, base.updated_at))


def is_older(one: str, other: str) -> bool:
    """Whether a record of token `one` was there before that of `other`."""
    return _moment(one) < _moment(other)


def _moment(timestamp: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(timestamp)
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
