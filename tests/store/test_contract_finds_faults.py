"""The suite of the contract fails for stores that break it: each fault, planted in a store that has no other."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from plexus_tactus_cache.document.encoded import Changes, Document
from plexus_tactus_cache.errors import CacheCorrupted, LocalStoreError
from plexus_tactus_cache.reconcile.journal import ConflictRecord
from plexus_tactus_cache.store.contract import Header, Lease, Pending
from plexus_tactus_cache.store.local import LocalStore
from plexus_tactus_cache.store.local.lease import LocalLease
from plexus_tactus_cache.store.local.parts import Sheet, header_of
from plexus_tactus_cache.store.local.processes import LocalWakeups
from store import test_contract_damage as damages
from store import test_contract_documents as documents
from store import test_contract_lease as leases
from store import test_contract_names as names
from store import test_contract_outbox as outboxes
from store import test_contract_processes as processes
from store import test_contract_shared as shared
from store import test_contract_snapshots as snapshots
from store import test_contract_transactions as transactions
from store import test_contract_values as values
from store.stores import LocalHarness

Result = TypeVar("Result")


class LeaksARow(LocalStore):
    """The last row of a transaction stays when that fails."""

    leaks = -1

    def transaction(
        self, procedure_ids: str | Collection[str], work: Callable[[], Result], *, lease: Lease | None = None
    ) -> Result:
        if self.rows.database.writing:
            return super().transaction(procedure_ids, work, lease=lease)
        written: list[tuple[str, bytes]] = []
        write_row = self.rows.write_row

        def noting(key: str, payload: bytes) -> int:
            checksum = write_row(key, payload)
            written.append((key, payload))
            return checksum

        self.rows.write_row = noting  # type: ignore[method-assign]  # the fault
        try:
            return super().transaction(procedure_ids, work, lease=lease)
        except BaseException:
            if written:
                super().transaction((), lambda: write_row(*written[self.leaks]))
            raise
        finally:
            del self.rows.write_row


class LeaksTheFirstRow(LeaksARow):
    """The first one does."""

    leaks = 0


class KeepsWhatFailed(LocalStore):
    """A transaction that fails is committed."""

    def transaction(
        self, procedure_ids: str | Collection[str], work: Callable[[], Result], *, lease: Lease | None = None
    ) -> Result:
        def without_failing() -> Result | None:
            try:
                return work()
            except Exception as error:  # noqa: BLE001 - that is the fault
                failed.append(error)
                return None

        failed: list[Exception] = []
        result = super().transaction(procedure_ids, without_failing, lease=lease)
        if failed:
            raise failed[0]
        return result  # type: ignore[return-value]


class WritesAnything(LocalStore):
    """A transaction writes documents that it does not name."""

    def _sheet(self, procedure_id: str) -> Sheet:
        self._current.ids |= {procedure_id}
        return super()._sheet(procedure_id)


class SnapshotOfNow(LocalStore):
    """A snapshot sees each row as it is."""

    def snapshot(self, work: Callable[[], Result]) -> Result:
        return work()


class ByName(LocalStore):
    """The outbox is in the order of names."""

    def due(self, until: float, after: float | None = None) -> list[str]:
        return sorted(super().due(until, after))


class LatestFirst(LocalStore):
    """The outbox is in the opposite order."""

    def due(self, until: float, after: float | None = None) -> list[str]:
        return super().due(until, after)[::-1]


class ForgetsNoPlace(LocalStore):
    """A place in the order stays when the document leaves the outbox."""

    def _move(self, before: str | None, after: str | None) -> None:
        super()._move(None, after)


class NoGeneration(LocalStore):
    """A lease has no generation: a former holder may write."""

    def _check_lease(self, lease: Lease | None) -> None:
        pass


class SameGeneration(LocalStore):
    """The generation of a lease stays what it is."""

    def lease(self, who: str) -> Lease | None:
        lease = super().lease(who)
        if lease is not None:
            lease.generation = 1  # type: ignore[misc]
        return lease

    def newest_generation(self) -> int:
        return min(1, super().newest_generation())


class ForEverybody(LocalStore):
    """Whoever asks has the lease."""

    def lease(self, who: str) -> Lease | None:
        self._lease_file.close()
        return super().lease(who)


class TellsNobody(LocalStore):
    """News is for those of the own process."""

    def wakeups(self) -> LocalWakeups:
        found = super().wakeups()
        found._commits_of_others = lambda: 0
        return found


class SeesNoDamage(LocalStore):
    """A document that is damaged is one that is not there."""

    def header(self, procedure_id: str) -> Header | None:
        try:
            return super().header(procedure_id)
        except CacheCorrupted:
            return None

    def pending(self, procedure_id: str) -> Pending | None:
        try:
            return super().pending(procedure_id)
        except CacheCorrupted:
            return None


class StopsAtDamage(LocalStore):
    """One that is damaged keeps the others from being listed."""

    def procedure_ids(self) -> list[str]:
        return [name for name in super().procedure_ids() if self.header(name)]


class LosesAVersion(LocalStore):
    """A write does not raise the version."""

    def write(self, procedure_id: str, changes: Changes, now: float, delay: float = 0.0) -> Header:
        header = super().write(procedure_id, changes, now, delay)._replace(version=1)
        self.put_header(procedure_id, header)
        return header


class AcknowledgesTooEarly(LocalStore):
    """What was written goes back to what it was when the store is closed."""

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.transaction("a", lambda: self.rows.delete_range("state/a/"))
        super().close()


class ReadsInSteps(LocalStore):
    """A document is read row after row."""

    def read(self, procedure_id: str, *, log: bool = True) -> tuple[Header, Document] | None:
        return self._read(procedure_id, log=log)


class DropsByPattern(LocalStore):
    """What is dropped is what is LIKE it."""

    def __init__(self, directory: Path, **options: Any) -> None:
        super().__init__(directory, **options)
        self.rows.delete_range = self._delete_alike  # type: ignore[method-assign]  # the fault

    def _delete_alike(self, prefix: str, start: str = "") -> None:
        pattern = "DELETE FROM Cache WHERE raw = 1 AND key LIKE ? || '%' AND key >= ?"
        self.rows.database.execute(pattern, (prefix, prefix + start), write=True)


class HandsOutWhatItKeeps(LocalStore):
    """Who asks twice has the same object twice."""

    def base(self, procedure_id: str) -> Any:
        found = super().base(procedure_id)
        return self.__dict__.setdefault("_bases", {}).setdefault(repr(found), found)


class StopsHalfWay(LocalStore):
    """A key of garbage that is none comes after those that were written."""

    def put_garbage(self, procedure_id: str, keys: Iterable[str], due: float) -> None:
        for key in keys:
            super().put_garbage(procedure_id, [key], due)


class BindsLate(LocalStore):
    """The store belongs to whoever came last of those who found it free."""

    def bind(self, endpoint: str) -> None:
        if self.endpoint is None:
            self.transaction((), lambda: self._put_json("store", {**self._json("store"), "endpoint": endpoint}))
        self.check(endpoint)


class TakesNothingBack(LocalStore):
    """A lease that was given back goes on."""

    def lease(self, who: str) -> Lease | None:
        found = super().lease(who)
        if isinstance(found, LocalLease):
            found.release = partial(self._lease_file.let_go, found.generation)  # type: ignore[method-assign]  # the fault
        return found


class IsImpatient(LocalStore):
    """A lease is taken from the living after two thirds of their time."""

    def __init__(self, directory: Path, *, clock: Callable[[], float], **options: Any) -> None:
        super().__init__(directory, clock=lambda: clock() * 1.4, **options)


class BeatsInTurn(LocalStore):
    """A beat comes after whoever writes."""

    def lease(self, who: str) -> Lease | None:
        found = super().lease(who)
        if isinstance(found, LocalLease):
            beat = found.beat
            found.beat = lambda: self.transaction((), beat)  # type: ignore[method-assign]  # the fault
        return found


class ForgetsTheDocumentOnly(LocalStore):
    """What syncing remembers of it stays, as long as nobody looks."""

    def forget(self, procedure_id: str, *, token: str | None = None) -> None:
        base = self.base(procedure_id)
        super().forget(procedure_id, token=token)
        if base is not None:
            self._put_json(f"left/{procedure_id}", base)

    def base(self, procedure_id: str) -> Any:
        return super().base(procedure_id) or self._json(f"left/{procedure_id}")


class KnowsConflictsByTheirKeys(LocalStore):
    """Two conflicts about one key are one."""

    def put_conflict(self, record: ConflictRecord, number: int | None = None) -> int:
        for known, one in self.conflicts(procedure_id=record.procedure_id).items():
            if number is None and one._replace(at=record.at, local=record.local) == record:
                return known
        return super().put_conflict(record, number)


class ListsWhatWas(LocalStore):
    """Inside a transaction, lists are of what was there before."""

    def headers(self) -> dict[str, Header | str]:
        return {name: header_of(payload) for name, payload in self.rows.scan("doc/")}


class KeepsNoPlace(LocalStore):
    """A place in the outbox, and what the header says of it, are two things."""

    def _note_queued(self, sheet: Sheet, *, queued: bool) -> None:
        pass


FAULTS: list[tuple[type[LocalStore], Callable[..., None], dict[str, Any]]] = [
    (
        LeaksARow,
        transactions.test_what_a_transaction_wrote_before_an_exception_is_not_there,
        {"error": KeyboardInterrupt},
    ),
    (LeaksARow, transactions.test_an_error_of_the_store_undoes_the_transaction, {}),
    (LeaksARow, transactions.test_the_failure_of_an_inner_transaction_is_the_outer_ones, {}),
    (
        LeaksARow,
        transactions.test_a_transaction_writes_no_document_that_it_does_not_name,
        {"name": "write", "named": "b"},
    ),
    (LeaksARow, outboxes.test_a_transaction_that_fails_moves_nothing, {}),
    (LeaksARow, leases.test_a_holder_that_lost_the_lease_changes_nothing, {}),
    (
        LeaksTheFirstRow,
        transactions.test_what_a_transaction_wrote_before_an_exception_is_not_there,
        {"error": KeyboardInterrupt},
    ),
    (LeaksTheFirstRow, transactions.test_an_error_of_the_store_undoes_the_transaction, {}),
    (LeaksTheFirstRow, transactions.test_the_failure_of_an_inner_transaction_is_the_outer_ones, {}),
    (
        LeaksTheFirstRow,
        transactions.test_a_transaction_writes_no_document_that_it_does_not_name,
        {"name": "write", "named": "b"},
    ),
    (LeaksTheFirstRow, outboxes.test_a_transaction_that_fails_moves_nothing, {}),
    (LeaksTheFirstRow, leases.test_a_holder_that_lost_the_lease_changes_nothing, {}),
    (
        KeepsWhatFailed,
        transactions.test_what_a_transaction_wrote_before_an_exception_is_not_there,
        {"error": ValueError},
    ),
    (KeepsWhatFailed, damages.test_a_transaction_that_meets_damage_leaves_nothing, {}),
    (
        WritesAnything,
        transactions.test_a_transaction_writes_no_document_that_it_does_not_name,
        {"name": "write", "named": "b"},
    ),
    (SnapshotOfNow, snapshots.test_a_snapshot_sees_one_state_while_others_write, {}),
    (SnapshotOfNow, snapshots.test_readers_never_see_half_a_transaction, {}),
    (ByName, outboxes.test_those_that_are_due_come_in_the_order_of_their_moments, {}),
    (ByName, outboxes.test_a_moment_is_not_before_it_became_dirty, {}),
    (ByName, outboxes.test_those_too_far_off_come_after_the_others, {}),
    (LatestFirst, outboxes.test_those_that_are_due_come_in_the_order_of_their_moments, {}),
    (LatestFirst, outboxes.test_any_sequence_leaves_the_outbox_in_order_and_nothing_stale, {}),
    (ForgetsNoPlace, outboxes.test_any_sequence_leaves_the_outbox_in_order_and_nothing_stale, {}),
    (ForgetsNoPlace, outboxes.test_parked_ones_are_listed_and_not_due, {}),
    (NoGeneration, leases.test_a_holder_that_lost_the_lease_changes_nothing, {}),
    (NoGeneration, leases.test_a_former_holder_becomes_a_candidate, {}),
    (SameGeneration, leases.test_the_generation_rises_each_time, {}),
    (SameGeneration, leases.test_a_lease_is_taken_from_a_holder_that_does_not_beat, {}),
    (ForEverybody, leases.test_one_holder_at_a_time, {}),
    (TellsNobody, processes.test_news_of_another_opener, {"cause": processes.queued}),
    (SeesNoDamage, damages.test_damage_of_a_document_is_raised_for_it, {}),
    (StopsAtDamage, damages.test_damage_of_a_document_does_not_affect_others, {}),
    (LosesAVersion, documents.test_a_write_raises_the_version_and_queues_the_document, {}),
    (LosesAVersion, transactions.test_writers_of_one_document_lose_nothing, {}),
    (AcknowledgesTooEarly, processes.test_everything_is_there_after_a_reopening, {}),
    (ReadsInSteps, snapshots.test_a_document_is_read_as_it_is_at_one_moment, {}),
    (DropsByPattern, names.test_what_is_kept_under_names_that_are_alike_is_kept_apart, {"kind": "old"}),
    (DropsByPattern, names.test_what_is_forgotten_takes_nothing_along, {"kind": "content"}),
    (HandsOutWhatItKeeps, values.test_what_is_returned_is_the_callers, {}),
    (StopsHalfWay, values.test_a_call_that_raised_has_changed_nothing, {}),
    (BindsLate, shared.test_of_two_that_bind_at_once_one_is_too_late, {}),
    (TakesNothingBack, leases.test_a_lease_that_was_given_back_is_good_for_nothing, {}),
    (IsImpatient, leases.test_a_lease_is_taken_from_a_holder_that_does_not_beat, {}),
    (BeatsInTurn, leases.test_a_beat_waits_for_no_writer, {}),
    (ForgetsTheDocumentOnly, documents.test_what_is_forgotten_was_never_there_but_for_its_versions, {}),
    (KnowsConflictsByTheirKeys, shared.test_conflicts_that_differ_in_anything_but_the_time_are_two, {}),
    (ListsWhatWas, transactions.test_a_transaction_sees_what_it_wrote_so_far, {"name": "write"}),
    (KeepsNoPlace, outboxes.test_a_document_that_has_a_place_is_queued, {"how": outboxes.by_update, "stored": True}),
]


@pytest.fixture
def open_faulty(tmp_path: Path) -> Iterator[Callable[[type[LocalStore]], LocalHarness]]:
    made: list[LocalHarness] = []

    def open_(kind: type[LocalStore]) -> LocalHarness:
        made.append(LocalHarness(tmp_path / f"store {len(made)}", kind))
        return made[-1]

    yield open_
    for one in made:
        one.close()


def run(test: Callable[..., None], harness: LocalHarness, place: Path, arguments: dict[str, Any]) -> None:
    """A test of the suite, with what it asks for."""
    wanted = inspect.signature(test).parameters
    given: dict[str, Callable[[], Any]] = {
        "harness": lambda: harness,
        "store": harness.open,
        "other": harness.open,
        "tmp_path": lambda: Path(tempfile.mkdtemp(dir=place)),
    }
    test(**arguments, **{name: make() for name, make in given.items() if name in wanted})


@pytest.mark.parametrize(("kind", "test", "arguments"), FAULTS, ids=lambda found: getattr(found, "__name__", ""))
def test_a_fault_is_found(
    open_faulty: Callable[[type[LocalStore]], LocalHarness],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[LocalStore],
    test: Callable[..., None],
    arguments: dict[str, Any],
) -> None:
    monkeypatch.setattr(processes, "LONG", 3.0)  # the faulty ones wait that long
    run(test, open_faulty(LocalStore), tmp_path, arguments)
    with pytest.raises((AssertionError, LocalStoreError, pytest.fail.Exception)):
        run(test, open_faulty(kind), tmp_path, arguments)
