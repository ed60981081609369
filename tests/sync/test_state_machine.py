"""Several machines, other writers and failures in any order; then everything is quiet, and nothing may be missing.

Every value is unique, so each can be looked for. What a write replaces is noted when it is replaced, and only as far as
its writer had seen it: a save of a whole object has seen what that object showed, a `state_set` what the store held, a
writer in Plexus what the record held. What syncing does by itself replaces nothing. So a value that is neither
superseded, nor in a store or in Plexus, nor in a conflict journal was lost, and is missed after the very step that lost
it; when everything is quiet, it has to be in Plexus or in a journal.

`STATE_MACHINE_EXAMPLES=2000` runs it large and at random, `STATE_MACHINE_STORES=3` with more machines.
"""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from helpers import fast
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from plexus_tactus_cache import (
    CheckpointEntry,
    ConflictOutdated,
    PlexusClient,
    PlexusStorageAdapter,
    ProcedureCache,
    ProcedureMetadata,
    ProcedureNotFound,
    RemoteUnavailable,
    RunSuperseded,
    SyncReport,
)
from plexus_tactus_cache.document.encoded import Document, key_text
from plexus_tactus_cache.envelope.parse import parse
from plexus_tactus_cache.envelope.parts import OWNED, entry_keys
from plexus_tactus_cache.reconcile.decide import FORK
from plexus_tactus_cache.reconcile.snapshot import Digests, Remote
from plexus_tactus_cache.store.local import LocalStore
from plexus_tactus_cache.sync.reconciler import DOUBT_SECONDS
from plexus_tactus_cache.testing.simulator import Simulator, writers

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "80"))
STEPS = int(os.environ.get("STATE_MACHINE_STEPS", "25"))
STORES = int(os.environ.get("STATE_MACHINE_STORES", "2"))
LARGE = "STATE_MACHINE_EXAMPLES" in os.environ
ROUNDS = 8  # of pulling and syncing, in which everything has to come to rest
EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TOKEN = re.compile(r"v\d+v")

numbers = st.integers(0, STORES - 1)
known = st.sampled_from(["p", "p", "p", "created"])
keys = st.sampled_from(["a", "b"])
kinds = st.sampled_from(["query", "mutation", "mutation"])
ways = st.sampled_from(["sync", "sync", "sync", "pull", "load"])
sides = st.sampled_from(["local", "remote"])
faults = st.sampled_from(["drop_before", "drop_after", "status", "throttle_429", "throttle_200", "html"])


WRITERS = [
    *("reset", "reset all", "reset after", "reset after", "shipped adapter", "scanner"),
    *("cancel", "start", "rename", "foreign key", "no foreign key"),
]
HAPPENINGS = [
    *("foreign key", "foreign state", "reset", "scanner", "other", "set", "append", "clear", "load", "process"),
    *("foreign state, then a process", "reset, then a process"),
]


def tokens(value: Any) -> set[str]:
    """The unique values inside a value."""
    return set(TOKEN.findall(json.dumps(value, default=lambda one: getattr(one, "result", None))))


def held_by(document: Document) -> set[str]:
    """The unique values in a document: results, state and lua_state."""
    parts = (document.state, document.lua_state)
    return tokens([[entry.result for entry in document.log], [[v.plain for v in part.values()] for part in parts]])


class Client(PlexusClient):
    """Plexus, where something can happen just before a request arrives, or between its effect and its answer."""

    def __init__(self, plexus: Simulator) -> None:
        super().__init__(plexus.url, plexus.api_key, timeout=2)
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[], None]] = {}
        self.problems: list[BaseException] = []

    def execute(self, query: str, variables: dict[str, Any] | None = None, /) -> dict[str, Any]:
        kind = "mutation" if query.startswith("mutation") else "query"
        self._let(self.before.pop(kind, None))
        answer = super().execute(query, variables)
        self._let(self.after.pop(kind, None))
        return answer

    def _let(self, happen: Callable[[], None] | None) -> None:
        if happen is not None:
            try:
                happen()
            except BaseException as error:  # the caller would take it for Plexus's
                self.problems.append(error)
                raise


@dataclass
class Run:
    """A worker's hold on one procedure: the live object, and what it replaced in it without saving yet."""

    live: Any
    replaced: set[str] = field(default_factory=set)
    new: set[str] = field(default_factory=set)
    cursor: int | None = None  # where a rerun is; None: at the end of the log
    run_id: str = "run"


@dataclass
class Machine:
    """One directory, and the workers that use it."""

    directory: Path
    client: Client
    on_fork: str
    store: LocalStore = field(init=False)
    cache: ProcedureCache = field(init=False)

    def __post_init__(self) -> None:
        self.store = LocalStore(self.directory, durability="normal")  # to look into
        self.start()

    def start(self) -> None:
        self.cache = self.another_cache(self.client)
        self.adapters: dict[str, PlexusStorageAdapter] = {}
        self.runs: dict[str, Run] = {}

    def another_cache(self, client: Client | None) -> ProcedureCache:
        chosen = fast(durability="normal", on_fork=self.on_fork)
        return ProcedureCache(client, self.directory, chosen, background=False)

    def storage(self, pid: str) -> PlexusStorageAdapter:
        if pid not in self.adapters:
            self.adapters[pid] = self.cache.storage(pid)
        return self.adapters[pid]

    def document(self, pid: str) -> Document:
        found = self.store.read(pid)
        return found[1] if found is not None else Document()

    def journal(self) -> set[str]:
        """What a person could restore."""
        conflicts = [*self.cache.conflicts(), *self.cache.conflicts(resolved=True)]
        return {token for one in conflicts for token in tokens([one.local, one.remote])}

    def doubts(self, pid: str, now: float) -> bool:
        """Whether a further stale read would be believed: Plexus is not that far behind."""
        pending = self.store.pending(pid)
        since = pending.doubtful_since if pending is not None else None
        return since is not None and now - since >= DOUBT_SECONDS


class Machines(RuleBasedStateMachine):
    """`p` exists in Plexus; `created` is created by the first machine, some time."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="state-machine-"))
        self.patches = contextlib.ExitStack()
        self.ahead = 0.0
        self.real_time = time.time
        self.patches.enter_context(mock.patch("time.time", self.time))
        # Two writes in one millisecond get one token on the real thing too, but no two come from our machines.
        for module in ("table", "writers"):
            self.patches.enter_context(mock.patch(f"plexus_tactus_cache.testing.simulator.{module}.stamp", self.stamp))
        self.plexus = Simulator().start()
        self.count = 0
        self.stamps = 0
        self.ids: dict[str, str] = {"p": "p"}
        self.acknowledged: set[str] = set()
        self.superseded: set[str] = set()
        self.foreign: dict[str, dict[str, Any]] = {"p": {"runtime": "lua"}}
        self.names = {"p": "p"}
        self.rewriting: dict[str, Any] = {}  # what a writer has read, by procedure
        self.machines: list[Machine] = []
        self.reports: list[SyncReport] = []
        self.keep: Any = "local"

    @initialize(keep=sides, on_fork=st.sampled_from(["park", "park", "local", "remote"]))
    def begin(self, keep: Any, on_fork: str) -> None:
        self.keep = keep
        self.plexus.put("p", status="PENDING", metadata={"runtime": "lua"})
        self.machines = [Machine(self.place / str(number), Client(self.plexus), on_fork) for number in range(STORES)]

    def teardown(self) -> None:
        try:
            if self.machines and sys.exc_info()[0] is None:
                self.come_to_rest()
        finally:
            for machine in self.machines:
                machine.cache.close(timeout=0)
                machine.store.close()
            self.plexus.stop()
            self.patches.close()
            shutil.rmtree(self.place)

    # --- what the model knows -----------------------------------------------------------------------------

    def time(self) -> float:
        return self.real_time() + self.ahead

    def stamp(self, *, after: str | None = None) -> str:
        self.stamps += 1
        moment = EPOCH + dt.timedelta(milliseconds=self.stamps)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def new(self) -> str:
        self.count += 1
        return f"v{self.count}v"

    def pid(self, name: str, machine: Machine) -> str:
        """The id of that procedure; while the machine cannot know of it yet, that of the other one."""
        found = self.ids.get(name, "p")
        return "p" if machine is not self.machines[0] and self.plexus.record(found) is None else found

    def record(self, name: str) -> Any:
        """The record in Plexus, if there is one."""
        return self.plexus.record(self.ids[name]) if name in self.ids else None

    def remote(self, pid: str) -> Remote | None:
        record = self.plexus.record(pid)
        if record is None:
            return None
        return Remote(record["updatedAt"], record["status"], record["waitingOnMessageId"], parse(record["metadata"]))

    def wrote(self, new: Iterable[str], over: Iterable[str]) -> None:
        self.superseded |= set(over)
        self.acknowledged |= set(new)
        self.superseded -= set(new)

    # --- workers ------------------------------------------------------------------------------------------

    def run_of(self, machine: Machine, pid: str, load: bool) -> Run:
        """The hold of that machine's worker; `load`: it asks for the object again."""
        run = machine.runs.get(pid)
        if run is None or load:
            live = machine.storage(pid).load_procedure_metadata(pid)
            if run is None or run.live is not live:
                run = machine.runs[pid] = Run(live)
        return run

    def save(self, machine: Machine, pid: str) -> None:
        """What a worker does with its object; when its run was superseded it loads again."""
        run = machine.runs[pid]
        before = held_by(machine.document(pid)) | machine.journal()
        try:
            machine.storage(pid).save_procedure_metadata(pid, run.live)
        except RunSuperseded:
            log = tokens(list(run.live.execution_log))
            assert log <= held_by(machine.document(pid)) | machine.journal(), "a superseded log is not in the journal"
            assert before <= held_by(machine.document(pid)) | machine.journal()
            del machine.runs[pid]
            self.run_of(machine, pid, load=True)
            return
        self.wrote(run.new, run.replaced)
        run.new, run.replaced = set(), set()
        stored = machine.document(pid)
        assert tokens(list(run.live.execution_log)) <= held_by(stored), "a save that returned is not stored"
        for part, live in ((stored.state, run.live.state), (stored.lua_state, run.live.lua_state)):
            assert {key: value.plain for key, value in part.items()} == {key_text(key): v for key, v in live.items()}

    @rule(number=numbers, name=known, key=keys)
    def state_set(self, number: int, name: str, key: str) -> None:
        machine = self.machines[number]
        pid = self.pid(name, machine)
        self.set_through(machine, machine.storage(pid), pid, key)

    def set_through(self, machine: Machine, storage: PlexusStorageAdapter, pid: str, key: str) -> None:
        storage.state_get(pid, key)  # so that a first touch is over
        before, new = machine.document(pid).state, self.new()
        storage.state_set(pid, key, {"in": [new]})
        over = before.pop(key_text(key), None)
        self.wrote({new}, tokens(over))
        after = machine.document(pid).state
        assert after.pop(key_text(key)).plain == {"in": [new]}
        assert after == before, "another key changed too"

    @rule(number=numbers, name=known, key=keys, everything=st.booleans())
    def state_delete(self, number: int, name: str, key: str, everything: bool) -> None:
        machine = self.machines[number]
        pid = self.pid(name, machine)
        run = self.run_of(machine, pid, load=True)
        state = machine.document(pid).state
        if everything:
            machine.storage(pid).state_clear(pid)
            self.wrote((), tokens([value.plain for value in state.values()]) | run.replaced)
            run.replaced, run.new = set(), set()
            assert machine.document(pid).state == {}
        else:
            machine.storage(pid).state_delete(pid, key)
            self.wrote((), tokens(state.pop(key_text(key), None)))
            assert machine.document(pid).state == state

    @rule(number=numbers, name=known, key=keys, lua=st.booleans(), load=st.booleans(), save=st.booleans())
    def change_in_place(self, number: int, name: str, key: str, lua: bool, load: bool, save: bool) -> None:
        """A nested value, in the object that the worker has; the save may come later."""
        machine = self.machines[number]
        pid = self.pid(name, machine)
        run, new = self.run_of(machine, pid, load), self.new()
        part = run.live.lua_state if lua else run.live.state
        run.replaced |= tokens(part.get(key))
        if isinstance(part.get(key), dict):
            part[key]["in"] = [new]
        else:
            part[key] = {"in": [new]}
        if save:
            self.acknowledge_in(run, machine, pid)

    def acknowledge_in(self, run: Run, machine: Machine, pid: str) -> None:
        """Save; what the object still holds of its new values is acknowledged then."""
        run.new |= tokens([run.live.state, run.live.lua_state]) - self.acknowledged
        self.save(machine, pid)

    @rule(number=numbers, name=known, load=st.booleans(), where=st.sampled_from([None, None, None, 0, 1, 2]))
    def checkpoint(self, number: int, name: str, load: bool, where: int | None) -> None:
        """At the end of the log, or where a rerun is; or in place, as an answer that arrives."""
        machine = self.machines[number]
        pid = self.pid(name, machine)
        run = self.run_of(machine, pid, load)
        if where is not None and where < len(run.live.execution_log):
            self.put_entry(machine, pid, run, where)
        else:
            self.append(machine, pid)

    def append(self, machine: Machine, pid: str, load: bool = False) -> None:
        run = self.run_of(machine, pid, load)
        position = len(run.live.execution_log) if run.cursor is None else run.cursor
        if run.cursor is not None:
            run.cursor += 1
        self.put_entry(machine, pid, run, min(position, len(run.live.execution_log)))

    def put_entry(self, machine: Machine, pid: str, run: Run, position: int) -> None:
        new, log = self.new(), run.live.execution_log
        at = EPOCH + dt.timedelta(seconds=self.count)
        entry = CheckpointEntry(position=position, type="step", result={"r": new}, timestamp=at, run_id=run.run_id)
        run.new.add(new)
        if position < len(log):
            run.replaced |= tokens(log[position])
            log[position] = entry
        else:
            log.append(entry)
        run.live.replay_index = max(position + 1, run.live.replay_index if run.cursor is None else 0)
        self.acknowledge_in(run, machine, pid)

    @rule(number=numbers, name=known)
    def begin_rerun(self, number: int, name: str) -> None:
        """A new run, whose entries replace the old ones from position 0 on."""
        machine = self.machines[number]
        pid = self.pid(name, machine)
        run = self.run_of(machine, pid, load=True)
        run.run_id, run.cursor = f"run {self.count}", 0
        run.live.replay_index = 0
        self.put_entry(machine, pid, run, 0)
        run.cursor = 1 if machine.runs.get(pid) is run else None

    @rule(number=numbers, name=known, given=st.sampled_from(["n", "m"]))
    def named_checkpoint(self, number: int, name: str, given: str) -> None:
        machine = self.machines[number]
        pid = self.pid(name, machine)
        run, new = self.run_of(machine, pid, load=True), self.new()
        over = {token for one in machine.document(pid).log if one.name == given for token in tokens(one.result)}
        machine.storage(pid).checkpoint_save(pid, given, new)
        self.wrote({new} | (run.new & held_by(machine.document(pid))), over | run.replaced)
        run.replaced, run.new = set(), set()
        assert machine.storage(pid).checkpoint_get(pid, given) == new
        assert new in held_by(machine.document(pid))

    @rule(number=numbers, name=known, log=st.booleans())
    def replace_document(self, number: int, name: str, log: bool) -> None:
        """An object that the worker built itself, as a clone is, takes the place of the whole document."""
        machine = self.machines[number]
        pid = self.pid(name, machine)
        machine.storage(pid).state_get(pid, "a")
        over, new, result = held_by(machine.document(pid)), self.new(), self.new()
        at = EPOCH + dt.timedelta(seconds=self.count)
        entry = CheckpointEntry(position=0, type="step", result=result, timestamp=at, run_id="clone")
        built = ProcedureMetadata(procedure_id=pid, state={"a": new}, execution_log=[entry] if log else [])
        machine.storage(pid).save_procedure_metadata(pid, built)
        wanted = {new, result} if log else {new}
        assert held_by(machine.document(pid)) == wanted
        self.wrote(wanted, over)
        machine.runs[pid] = Run(built)

    @rule(number=numbers, name=known, where=st.integers(0, 3))
    def clear(self, number: int, name: str, where: int) -> None:
        """The whole log, or an entry and all after it."""
        machine = self.machines[number]
        pid = self.pid(name, machine)
        run = self.run_of(machine, pid, load=True)
        log = machine.document(pid).log
        if where >= len(log):
            return
        if where:
            machine.storage(pid).checkpoint_clear_after(pid, entry_keys(log)[where])
        else:
            machine.storage(pid).checkpoint_clear_all(pid)
        assert machine.document(pid).log == log[:where]
        self.wrote((), tokens([entry.result for entry in log[where:]]) | run.replaced)
        run.replaced, run.new, run.cursor = set(), set(), None

    @rule(number=numbers, name=known, status=st.sampled_from(["RUNNING", "WAITING_FOR_HUMAN", "COMPLETE", "FAILED"]))
    def set_status(self, number: int, name: str, status: str) -> None:
        machine = self.machines[number]
        pid = self.pid(name, machine)
        message = self.new() if status == "WAITING_FOR_HUMAN" else None
        machine.storage(pid).update_procedure_status(pid, status, message)

    # --- machines -----------------------------------------------------------------------------------------

    @precondition(lambda self: "created" not in self.ids)
    @rule(status=st.sampled_from([None, "PENDING"]))
    def create_procedure(self, status: str | None) -> None:
        given = {} if status is None else {"status": status}
        pid = self.machines[0].cache.create_procedure(account_id="account", name="created", **given)
        self.ids["created"], self.foreign["created"], self.names["created"] = pid, {}, "created"

    @rule(number=numbers, later=st.sampled_from([0, 0, 2, 7]))
    def sync(self, number: int, later: float) -> None:
        self.ahead += later
        self.reports.append(self.machines[number].cache.sync(20))

    @rule(number=numbers, name=known, later=st.sampled_from([0, 0, 7]))
    def pull(self, number: int, name: str, later: float) -> None:
        self.ahead += later
        machine = self.machines[number]
        pid = self.pid(name, machine)
        machine.cache.pull(pid)

    @rule(number=numbers, name=known, what=st.sampled_from(["fresh adapter", "fresh adapter", "restart", "retry"]))
    def begin_again(self, number: int, name: str, what: str) -> None:
        """The first load of a fresh adapter asks Plexus."""
        machine = self.machines[number]
        pid = self.pid(name, machine)
        if what == "fresh adapter":
            machine.adapters[pid] = machine.cache.storage(pid)
            self.run_of(machine, pid, load=True)
        elif what == "restart":
            machine.cache.close(timeout=0)
            machine.start()
        elif machine.store.header(pid) is not None:
            machine.cache.retry(pid)

    @rule(number=numbers, name=known, key=keys, what=st.sampled_from(["state", "log", "both"]), offline=st.booleans())
    def another_process(self, number: int, name: str, key: str, what: str, offline: bool) -> None:
        machine = self.machines[number]
        pid = self.pid(name, machine)
        self.other_process(machine, pid, key, what, offline)

    def other_process(self, machine: Machine, pid: str, key: str, what: str, offline: bool) -> None:
        twin = machine.another_cache(None if offline else Client(self.plexus))
        mine = machine.cache, machine.adapters, machine.runs
        machine.cache, machine.adapters, machine.runs = twin, {}, {}
        try:
            if what in ("state", "both"):
                self.set_through(machine, machine.storage(pid), pid, key)
            if what in ("log", "both"):
                self.append(machine, pid, load=True)
        finally:
            twin.close(timeout=0)
            machine.cache, machine.adapters, machine.runs = mine

    @precondition(lambda self: any(machine.cache.conflicts() for machine in self.machines))
    @rule(keep=sides, resolved=st.booleans(), first=st.sampled_from([None, "set", "append"]), data=st.data())
    def resolve(self, keep: Any, resolved: bool, first: str | None, data: st.DataObject) -> None:
        machine = data.draw(st.sampled_from([one for one in self.machines if one.cache.conflicts()]))
        conflicts = machine.cache.conflicts(resolved=resolved) or machine.cache.conflicts()
        conflict = data.draw(st.sampled_from(conflicts))
        pid = conflict.procedure_id
        if first == "set" and conflict.part == "state":
            self.set_through(machine, machine.storage(pid), pid, conflict.key)
        elif first is not None:
            self.append(machine, pid, load=True)
        before = held_by(machine.document(pid)) | machine.journal()
        with contextlib.suppress(ConflictOutdated):  # it stays in the journal
            machine.cache.resolve(conflict.id, keep)
            restored = tokens(conflict.local if keep == "local" else conflict.remote)
            self.superseded -= restored & held_by(machine.document(pid))  # somebody wants it back
        assert before <= held_by(machine.document(pid)) | machine.journal()

    # --- other writers ------------------------------------------------------------------------------------

    def elsewhere(self, name: str, write: Callable[[str], Any]) -> None:
        """Another writer reads the record and writes it: it has seen what it removes."""
        if self.record(name) is None:
            return
        pid = self.ids[name]
        before = self.there(pid)
        write(pid)
        after = self.there(pid)
        self.wrote(after - before, before - after)

    def there(self, pid: str) -> set[str]:
        metadata = (self.plexus.record(pid) or {}).get("metadata") or {}
        return tokens([metadata.get(part) for part in ("checkpoints", "state", "lua_state")])

    def metadata(self, pid: str) -> dict[str, Any]:
        return dict((self.plexus.record(pid) or {}).get("metadata") or {})

    @rule(name=known, key=keys, part=st.sampled_from(["state", "state", "lua_state"]), delete=st.booleans())
    def foreign_state(self, name: str, key: str, part: str, delete: bool) -> None:
        self.elsewhere(name, lambda pid: self.write_foreign_state(pid, key, part, delete))

    @rule(name=known, who=st.sampled_from(WRITERS), data=st.data())
    def another_writer(self, name: str, who: str, data: st.DataObject) -> None:
        if self.record(name) is None:
            return
        happen: dict[str, Callable[[str], Any]] = {
            "reset": lambda pid: writers.reset(self.plexus, pid),
            "reset all": lambda pid: writers.reset(self.plexus, pid, clear_state=True),
            "reset after": lambda pid: self.reset_after(pid, data),
            "shipped adapter": lambda pid: writers.shipped_adapter_save(self.plexus, pid),
            "scanner": self.mark_stalled,
            "cancel": lambda pid: self.plexus.put(pid, status="CANCELLED"),
            "start": lambda pid: self.plexus.put(pid, status="RUNNING"),
            "rename": lambda pid: self.rename(name, pid),
            "foreign key": lambda pid: self.write_foreign_key(name, "x", delete=False),
            "no foreign key": lambda pid: self.write_foreign_key(name, "x", delete=True),
        }
        self.elsewhere(name, happen[who])

    @rule(name=known)
    def begin_to_rewrite(self, name: str) -> None:
        """A writer reads the record, and takes his time."""
        if self.record(name) is not None:
            self.rewriting[name] = copy.deepcopy((self.metadata(self.ids[name]), self.foreign[name]))

    @rule(name=known)
    def rewrite(self, name: str) -> None:
        """He writes back what he had read, as Plexus's runner does at the end of a run: he means to replace nothing, but
        what nobody else had read yet is gone."""
        if self.record(name) is None or name not in self.rewriting:
            return
        metadata, foreign = self.rewriting.pop(name)
        pid, self.count = self.ids[name], self.count + 1
        before = self.there(pid)
        self.plexus.put(pid, metadata={**metadata, "rewritten": self.count})
        self.foreign[name] = {**foreign, "rewritten": self.count}
        held = {token for machine in self.machines for token in held_by(machine.document(pid)) | machine.journal()}
        self.wrote((), before - self.there(pid) - held)

    @rule(number=numbers, name=known, key=keys)
    def push_while_he_waits(self, number: int, name: str, key: str) -> None:
        machine = self.machines[number]
        self.begin_to_rewrite(name)
        pid = self.pid(name, machine)
        self.set_through(machine, machine.storage(pid), pid, key)
        self.reports.append(machine.cache.sync(20))
        self.rewrite(name)

    def reset_after(self, pid: str, data: st.DataObject) -> None:
        checkpoints = sorted(self.metadata(pid).get("checkpoints") or {})
        if checkpoints:
            writers.reset_after(self.plexus, pid, data.draw(st.sampled_from(checkpoints)))

    def rename(self, name: str, pid: str) -> None:
        self.names[name] = self.new()
        self.plexus.put(pid, name=self.names[name])

    def mark_stalled(self, pid: str) -> None:
        record = writers.mark_stalled(self.plexus, pid)
        name = next(name for name, known_id in self.ids.items() if known_id == pid)
        self.foreign[name]["last_failure"] = record["metadata"]["last_failure"]

    def write_foreign_key(self, name: str, key: str, delete: bool) -> None:
        if self.record(name) is not None:
            metadata = self.metadata(self.ids[name])
            for keys_ in (metadata, self.foreign[name]):
                keys_.pop(key, None)
                if not delete:
                    keys_[key] = {"at": self.count, "n": [1.5]}
            self.count += 1
            self.plexus.put(self.ids[name], metadata=metadata)

    def write_foreign_state(self, pid: str, key: str, part: str, delete: bool) -> None:
        metadata = self.metadata(pid)
        values = dict(metadata.get(part) or {})
        values.pop(key, None)
        if not delete:
            values[key] = self.new()
        self.plexus.put(pid, metadata=metadata | {part: values})

    # --- failures -----------------------------------------------------------------------------------------

    @rule(number=numbers, key=keys, fault=faults, only=kinds, how=ways)
    def meet_a_failure(self, number: int, key: str, fault: str, only: Any, how: str) -> None:
        machine = self.machines[number]
        self.set_through(machine, machine.storage("p"), "p", key)
        self.plexus.fail(fault, times=1, only=only)
        self.exchange(number, how)

    @rule(number=numbers, how=ways)
    def read_what_was_before(self, number: int, how: str) -> None:
        """One read is stale."""
        machine = self.machines[number]
        if not any(machine.doubts(pid, time.time()) for pid in self.ids.values()):
            self.plexus.fail("stale", times=1, only="query")
            self.exchange(number, how)

    def exchange(self, number: int, how: str) -> None:
        machine = self.machines[number]
        try:
            if how == "sync":
                self.reports.append(machine.cache.sync(20))
            elif how == "pull":
                with contextlib.suppress(RemoteUnavailable, ProcedureNotFound):
                    machine.cache.pull("p")
            else:
                machine.adapters["p"] = machine.cache.storage("p")
                self.run_of(machine, "p", load=True)
        finally:
            self.plexus.heal()

    @rule(number=numbers, key=keys, only=kinds, after=st.booleans(), how=ways, what=st.sampled_from(HAPPENINGS))
    def meanwhile(self, number: int, key: str, only: str, after: bool, how: str, what: str) -> None:
        """Something happens between a read and a write, or between a write and its answer."""
        machine, name, pid = self.machines[number], "p", "p"
        if how == "load" and what in ("set", "append", "clear", "load"):
            return  # that document's lock is held
        self.append(machine, pid)
        happen: dict[str, Callable[[], Any]] = {
            "foreign key": lambda: self.write_foreign_key(name, key, delete=False),
            "foreign state": lambda: self.foreign_state_now(name, key),
            "reset": lambda: self.elsewhere(name, lambda pid: writers.reset(self.plexus, pid)),
            "scanner": lambda: self.elsewhere(name, self.mark_stalled),
            "set": lambda: self.set_through(machine, machine.storage(pid), pid, key),
            "append": lambda: self.append(machine, pid),
            "load": lambda: machine.cache.storage(pid).load_procedure_metadata(pid),
            "clear": lambda: self.clear_now(machine, pid),
            "process": lambda: self.other_process(machine, pid, key, "both", offline=False),
            "other": lambda: self.reports.append(self.machines[(number + 1) % STORES].cache.sync(20)),
        }
        happen["foreign state, then a process"] = lambda: (happen["foreign state"](), happen["process"]())
        happen["reset, then a process"] = lambda: (happen["reset"](), happen["process"]())
        client = machine.client
        (client.after if after else client.before)[only] = happen[what]
        self.exchange(number, how)
        client.before, client.after = {}, {}

    def foreign_state_now(self, name: str, key: str) -> None:
        self.elsewhere(name, lambda pid: self.write_foreign_state(pid, key, "state", delete=False))

    def clear_now(self, machine: Machine, pid: str) -> None:
        run = self.run_of(machine, pid, load=True)
        log = machine.document(pid).log
        machine.storage(pid).checkpoint_clear_all(pid)
        self.wrote((), tokens([entry.result for entry in log]) | run.replaced)
        run.replaced, run.new, run.cursor = set(), set(), None

    # --- what always holds --------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        wanted = self.acknowledged - self.superseded
        for pid in self.ids.values():
            wanted -= self.there(pid)
            for machine in self.machines:
                wanted -= held_by(machine.document(pid))
        for machine in self.machines:
            wanted -= machine.journal() if wanted else set()
        assert not wanted, f"lost: {wanted}"

    @invariant()
    def other_writers_find_what_they_wrote(self) -> None:
        for name, pid in self.ids.items():
            record = self.plexus.record(pid)
            if record is not None:
                found = {key: value for key, value in self.metadata(pid).items() if key not in OWNED}
                assert (record["name"], found) == (self.names[name], self.foreign[name])

    @invariant()
    def nothing_went_wrong(self) -> None:
        for machine in self.machines:
            assert machine.client.problems == []
            forks = {one.procedure_id for one in machine.cache.conflicts() if one.kept is None}
            for pid, pending in machine.store.outbox().items():
                assert pending.parked is None or (pending.parked == FORK and pid in forks), pending.parked
                assert pending.error is None or "internal" not in pending.error
        for report in self.reports:
            assert not [error for error in report.errors if "internal" in error]
        self.reports.clear()

    # --- when everything is quiet ----------------------------------------------------------------------------

    @rule()
    def come_to_rest(self) -> None:
        for _ in range(ROUNDS):
            before = self.everything()
            for machine in self.machines:
                self.take_turn(machine)
            if self.everything() == before:
                break
        else:
            raise AssertionError("it does not come to rest")
        self.nothing_went_wrong()
        self.all_agree()
        self.nothing_is_missing()
        self.another_pass_does_nothing()

    def take_turn(self, machine: Machine) -> None:
        self.ahead += DOUBT_SECONDS + 1
        for conflict in machine.cache.conflicts():
            if conflict.kept is None:
                machine.cache.resolve(conflict.id, self.keep)
        for name in self.ids:
            pid = self.pid(name, machine)
            if self.plexus.record(pid) is not None:
                machine.cache.pull(pid)
        self.reports.append(machine.cache.sync(20))

    def everything(self) -> Any:
        found: list[Any] = [self.plexus.records()]
        for machine in self.machines:
            documents = [(machine.store.header(pid), machine.document(pid)) for pid in self.ids.values()]
            found.append((documents, machine.store.outbox(), machine.cache.conflicts()))
        return found

    def all_agree(self) -> None:
        for machine in self.machines:
            status = machine.cache.status()
            assert (status.parked, status.dirty) == (0, 0), machine.cache.procedures()
            for pid in self.ids.values():
                remote = self.remote(pid)
                assert remote is not None
                here = machine.document(pid)
                assert Digests.of(here) == Digests.of(remote.document)
                if machine.runs.get(pid) is None or not machine.runs[pid].replaced | machine.runs[pid].new:
                    self.shows(machine, pid, here)

    def shows(self, machine: Machine, pid: str, here: Document) -> None:
        """A worker that loads sees what is stored, but for what it changed itself."""
        live = self.run_of(machine, pid, load=True).live
        assert [entry.result for entry in live.execution_log] == [entry.result for entry in here.log]
        pending = tokens([live.state, live.lua_state]) - self.acknowledged
        if not pending:
            assert {key_text(key) for key in live.state} == here.state.keys()
            assert (live.status, live.waiting_on_message_id) == (here.status or "RUNNING", here.waiting_on_message_id)

    def nothing_is_missing(self) -> None:
        found = {token for pid in self.ids.values() for token in self.there(pid)}
        for machine in self.machines:
            found |= machine.journal()
        missing = self.acknowledged - self.superseded - found
        assert not missing, f"neither in Plexus nor in a journal: {missing}"

    def another_pass_does_nothing(self) -> None:
        before = self.everything()
        self.plexus.reset_counters()
        for machine in self.machines:
            self.take_turn(machine)
        assert set(self.plexus.operations) <= {"getProcedure"}
        assert self.everything() == before


@pytest.mark.timeout(900)  # a slow machine, or a large run
def test_machines() -> None:
    run_state_machine_as_test(
        Machines,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not LARGE,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
