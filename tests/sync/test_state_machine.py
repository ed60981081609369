"""Several machines, other writers and failures in any order; then everything is quiet, and nothing may be missing.

Every value is unique, so each can be looked for afterwards. One may be gone only if somebody who had it before them
replaced or removed it. `STATE_MACHINE_EXAMPLES=2000` runs it large.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helpers import client_of, fast
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from plexus_tactus_cache import (
    CheckpointEntry,
    ConflictOutdated,
    PlexusStorageAdapter,
    ProcedureCache,
    RemoteUnavailable,
    RunSuperseded,
)
from plexus_tactus_cache.codec import decode
from plexus_tactus_cache.reconcile import Digests, Remote
from plexus_tactus_cache.records import Document, key_value
from plexus_tactus_cache.remote import Procedures
from tools.simulator import Simulator, writers

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "60"))
STORES = 2
AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

stores = st.integers(0, STORES - 1)
keys = st.sampled_from(["a", "b", "c"])
FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("drop_before", {"times": 1, "only": "mutation"}),
    ("drop_after", {"times": 1, "only": "mutation"}),
    ("drop_after", {"times": 1}),
    ("status", {"times": 1, "code": 503}),
    ("throttle_200", {"times": 1}),
    ("stale", {"times": 1, "only": "query"}),
    ("html", {"times": 1}),
]


def tags(value: Any) -> set[str]:
    """The unique values inside a value."""
    if isinstance(value, str):
        return {value} if value.startswith("#") else set()
    if isinstance(value, dict):
        return tags(list(value.values()))
    if isinstance(value, (list, tuple)):
        return {tag for one in value for tag in tags(one)}
    return tags(value.result) if isinstance(value, CheckpointEntry) else set()


class Machines(RuleBasedStateMachine):
    """Two stores on two machines, one procedure in Plexus."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="state-machine-"))
        self.plexus = Simulator().start()
        self.plexus.put("p", status="PENDING", metadata={"runtime": "lua"})
        self.foreign: dict[str, Any] = {"runtime": "lua"}
        self.count = 0
        self.acknowledged: set[str] = set()
        self.superseded: set[str] = set()
        self.caches: list[ProcedureCache] = []
        self.storages: list[PlexusStorageAdapter] = []
        self.workers: dict[int, Any] = {}  # objects that runs hold on to, by store

    @initialize()
    def begin(self) -> None:
        for number in range(STORES):
            self.caches.append(self.open(number))
            self.storages.append(self.caches[number].storage("p"))

    def open(self, number: int) -> ProcedureCache:
        return ProcedureCache(client_of(self.plexus), self.place / str(number), fast(), background=False)

    def teardown(self) -> None:
        try:
            if self.caches:
                self.quiet()
        finally:
            for cache in self.caches:
                cache.close(timeout=0)
            self.plexus.stop()
            shutil.rmtree(self.place)

    # --- what the model knows -----------------------------------------------------------------------------

    def new(self) -> str:
        self.count += 1
        return f"#{self.count}"

    def document(self, number: int) -> Document:
        found = self.caches[number]._store.read("p")
        return found[1] if found is not None else Document()

    def key_tags(self, number: int, key: str) -> set[str]:
        state = {key_value(text): value for text, value in self.document(number).state.items()}
        return tags(decode(state[key])) if key in state else set()

    def now(self) -> dt.datetime:
        return AT + dt.timedelta(seconds=self.count)

    def wrote(self, new: str, over: Iterable[str]) -> None:
        self.acknowledged.add(new)
        self.superseded |= set(over)

    def metadata(self) -> dict[str, Any]:
        return dict((self.plexus.record("p") or {})["metadata"])

    # --- workers ------------------------------------------------------------------------------------------

    @rule(number=stores, key=keys)
    def state_set(self, number: int, key: str) -> None:
        self.storages[number].get_state("p")  # an adapter's first call may bring something
        over, new = self.key_tags(number, key), self.new()
        self.storages[number].state_set("p", key, {"in": [new]})
        self.wrote(new, over)

    @rule(number=stores, key=keys)
    def state_delete(self, number: int, key: str) -> None:
        self.storages[number].get_state("p")
        over = self.key_tags(number, key)
        self.storages[number].state_delete("p", key)
        self.superseded |= over

    @rule(number=stores, key=keys)
    def change_in_place(self, number: int, key: str) -> None:
        live = self.storages[number].load_procedure_metadata("p")
        value = live.state.get(key)
        if isinstance(value, dict):
            new, over = self.new(), tags(value)
            value["in"] = [new]
            self.storages[number].save_procedure_metadata("p", live)
            self.wrote(new, over)

    @rule(number=stores, run=st.sampled_from(["r1", "r1", "r2"]))
    def append(self, number: int, run: str) -> None:
        self.workers[number] = self.storages[number].load_procedure_metadata("p")
        self.go_on(number, run)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), run=st.sampled_from(["r1", "r1", "r2"]))
    def append_without_loading(self, data: st.DataObject, run: str) -> None:
        """A run that goes on with the object that it has, whatever happened to the document."""
        self.go_on(data.draw(st.sampled_from(sorted(self.workers))), run)

    def go_on(self, number: int, run: str) -> None:
        live, new = self.workers[number], self.new()
        log = live.execution_log
        log.append(CheckpointEntry(position=len(log), type="step", result=new, timestamp=self.now(), run_id=run))
        live.replay_index = len(log)
        try:
            self.storages[number].save_procedure_metadata("p", live)
        except RunSuperseded:
            del self.workers[number]
        else:
            self.acknowledged.add(new)

    @rule(number=stores, place=st.integers(0, 3), run=st.sampled_from(["r1", "r3"]))
    def replace_in_place(self, number: int, place: int, run: str) -> None:
        """An answer that arrives, or a rerun."""
        live = self.storages[number].load_procedure_metadata("p")
        if place < len(live.execution_log):
            new, over = self.new(), tags(live.execution_log[place])
            entry = CheckpointEntry(position=place, type="step", result=new, timestamp=self.now(), run_id=run)
            live.execution_log[place] = entry
            self.storages[number].save_procedure_metadata("p", live)
            self.wrote(new, over)

    @rule(number=stores, place=st.integers(0, 3))
    def clear(self, number: int, place: int) -> None:
        live = self.storages[number].load_procedure_metadata("p")
        if place < len(live.execution_log):
            over = tags(list(live.execution_log[place:]))
            self.storages[number].checkpoint_clear_after("p", f"{place:06}:step")
            self.superseded |= over

    @rule(number=stores, status=st.sampled_from(["RUNNING", "WAITING_FOR_HUMAN", "COMPLETE", "FAILED"]))
    def set_status(self, number: int, status: str) -> None:
        self.storages[number].update_procedure_status("p", status)

    # --- machines -----------------------------------------------------------------------------------------

    @rule(number=stores)
    def sync(self, number: int) -> None:
        self.caches[number].sync(10)

    @rule(number=stores)
    def pull(self, number: int) -> None:
        try:
            self.caches[number].pull("p")
        except RemoteUnavailable:
            pass  # a failure was waiting for it

    @rule(number=stores)
    def another_adapter(self, number: int) -> None:
        self.storages[number] = self.caches[number].storage("p")
        self.storages[number].load_procedure_metadata("p")

    @rule(number=stores)
    def restart(self, number: int) -> None:
        self.caches[number].close(timeout=0)
        self.caches[number] = self.open(number)
        self.storages[number] = self.caches[number].storage("p")
        self.workers.pop(number, None)

    @rule(number=stores, key=keys)
    def another_process(self, number: int, key: str) -> None:
        over, new = self.key_tags(number, key), self.new()
        with ProcedureCache(None, self.place / str(number), fast()) as other:
            other.storage("p").state_set("p", key, {"in": [new]})
        self.wrote(new, over)

    @rule(number=stores, keep=st.sampled_from(["local", "remote"]), resolved=st.booleans(), data=st.data())
    def resolve(self, number: int, keep: Any, resolved: bool, data: st.DataObject) -> None:
        conflicts = self.caches[number].conflicts(resolved=resolved)
        if conflicts:
            try:
                self.caches[number].resolve(data.draw(st.sampled_from(conflicts)).id, keep)
            except ConflictOutdated:
                pass  # it stays in the journal

    # --- other writers ------------------------------------------------------------------------------------

    @rule(clear_state=st.booleans())
    def reset(self, clear_state: bool) -> None:
        metadata = self.metadata()
        self.superseded |= tags([entry["result"] for entry in metadata.get("checkpoints", {}).values()])
        if clear_state:
            self.superseded |= tags(metadata.get("state", {}))
        writers.reset(self.plexus, "p", clear_state=clear_state)

    @rule(data=st.data())
    def reset_after(self, data: st.DataObject) -> None:
        checkpoints = self.metadata().get("checkpoints", {})
        if checkpoints:
            name = data.draw(st.sampled_from(sorted(checkpoints)))
            at = checkpoints[name]["completed_at"]
            gone = [entry["result"] for entry in checkpoints.values() if entry["completed_at"] >= at]
            self.superseded |= tags(gone)
            writers.reset_after(self.plexus, "p", name)

    @rule()
    def shipped_adapter(self) -> None:
        writers.shipped_adapter_save(self.plexus, "p")

    @rule()
    def scanner(self) -> None:
        writers.mark_stalled(self.plexus, "p")
        self.foreign["last_failure"] = self.metadata()["last_failure"]

    @rule()
    def cancel(self) -> None:
        self.plexus.put("p", status="CANCELLED")

    @rule(key=st.sampled_from(["x", "y"]))
    def foreign_key(self, key: str) -> None:
        self.foreign[key] = self.new()
        self.plexus.put("p", metadata=self.metadata() | {key: self.foreign[key]})

    @rule(key=keys)
    def foreign_state(self, key: str) -> None:
        metadata, new = self.metadata(), self.new()
        state = metadata.get("state") or {}
        self.wrote(new, tags(state.get(key)))
        self.plexus.put("p", metadata=metadata | {"state": state | {key: new}})

    # --- failures -----------------------------------------------------------------------------------------

    @rule(fault=st.sampled_from(FAULTS))
    def fail(self, fault: tuple[str, dict[str, Any]]) -> None:
        self.plexus.fail(fault[0], **fault[1])

    @rule(number=stores)
    def write_between_read_and_write(self, number: int) -> None:
        value = self.new()
        writes = iter([value])

        def interfere(name: str, args: dict[str, Any]) -> None:
            if next(writes, None) is not None:
                self.foreign["between"] = value
                self.plexus.put("p", metadata=self.metadata() | {"between": value})

        self.plexus.before_mutation = interfere
        self.caches[number].sync(10)
        self.plexus.before_mutation = None

    # --- when everything is quiet ----------------------------------------------------------------------------

    def quiet(self) -> None:
        self.plexus.heal()
        for _ in range(8):
            before = self.plexus.record("p")
            for cache in self.caches:
                for conflict in cache.conflicts():
                    if conflict.kept is None:
                        cache.resolve(conflict.id, "local")
                cache.pull("p")
                cache.flush(10)
            states = [cache.status() for cache in self.caches]
            if self.plexus.record("p") == before and not any(status.dirty or status.parked for status in states):
                break
        else:
            raise AssertionError("it does not come to rest")
        self.check_agreement()
        self.check_nothing_is_lost()
        self.check_foreign_keys()

    def check_agreement(self) -> None:
        for cache in self.caches:
            status = cache.status()
            assert (status.parked, status.dirty) == (0, 0), cache.procedures()
        record = self.plexus.record("p")
        remote = Procedures(client_of(self.plexus)).get(["p"])["p"]
        assert isinstance(remote, Remote)
        there = Digests.of(remote.document)
        for number in range(STORES):
            assert Digests.of(self.document(number)) == there
        for cache in self.caches:
            self.plexus.reset_counters()
            report = cache.sync(10)
            assert (report.pushed, report.merged, report.parked, self.plexus.requests) == ((), (), (), 0)
        assert self.plexus.record("p") == record

    def check_nothing_is_lost(self) -> None:
        metadata = self.metadata()
        found = tags([entry["result"] for entry in metadata.get("checkpoints", {}).values()])
        found |= tags(metadata.get("state", {}))
        for cache in self.caches:
            for resolved in (False, True):
                for conflict in cache.conflicts(resolved=resolved):
                    found |= tags([conflict.local, conflict.remote])
        lost = self.acknowledged - self.superseded - found
        assert not lost, lost

    def check_foreign_keys(self) -> None:
        owned = {"checkpoints", "state", "lua_state", "replay_index", "cache"}
        assert {key: value for key, value in self.metadata().items() if key not in owned} == self.foreign


def test_machines() -> None:
    run_state_machine_as_test(
        Machines,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            derandomize="STATE_MACHINE_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
        ),
    )
