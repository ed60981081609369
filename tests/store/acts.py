"""What the tests of the contract do to a store, in its own names."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers import eventually
from processes import Process

from plexus_tactus_cache.document.encoded import Changes, Document, EntryRecord
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.reconcile.journal import ConflictRecord
from plexus_tactus_cache.store.contract import Header, Link, Pending, Store

NOW = 1_700_000_000.0
PATIENCE = 100.0  # seconds, for what takes a fraction of one on an idle machine

ALIKE = [  # names that some store, somewhere, might take for one
    ("a", "A"),
    ("p", "pq"),
    ("p", "p/"),
    ("p/q", "p%2Fq"),
    ("p/q", "p-q"),
    ("s_t", "sxt"),
    ("s%t", "sxxt"),
    ("%", "_"),
    ("g*", "gh"),
    ("[gh]", "g"),
    ("ü", "u\u0308"),
    ("ß", "ss"),
    ("é", "É"),
    ("ﬁ", "fi"),
    ("\u212a", "k"),
    ("日本", "日"),
    ("😀", "\uffff"),
    ("nul", "nul\x00"),
    ("nul\x00a", "nul\x00b"),
    ("b", "b "),
    ("b", "\ufeffb"),
    ("new\nline", "new\\nline"),
    ("", " "),
    (".", ".."),
    ("9", "09"),
    ("10", "1e1"),
    ("null", "None"),
    ("'", "''"),
    ("'; DROP TABLE x; --", '"; DROP TABLE x; --'),
    ("x" * 30 + "a", "x" * 30 + "b"),
    ("x" * 999, "x" * 1000),
    ("ü" * 900 + "a", "ü" * 900 + "b"),
]
NAMES = sorted({name for pair in ALIKE for name in pair})

Act = Callable[[Store], object]


def value(plain: Any) -> Encoded:
    return Encoded(plain, {})


def entry(position: int, result: Any = None, run: str = "run", **captured: str) -> EntryRecord:
    return EntryRecord(position, "turn", result, {}, "2026-01-01T00:00:00+00:00", run_id=run, captured=captured or None)


def log(*results: Any, start: int = 0, run: str = "run") -> dict[int, EntryRecord]:
    return {start + number: entry(start + number, result, run) for number, result in enumerate(results)}


def conflict(procedure_id: str = "a", key: str = "k", **fields: Any) -> ConflictRecord:
    return ConflictRecord(procedure_id, "state", key, "local", "why", NOW, 1, 2)._replace(**fields)


def put(store: Store, procedure_id: str, key: str = "k", plain: Any = 1, **write: Any) -> None:
    """Write one key of the state, in a transaction."""
    changes = Changes(state={key: value(plain)})
    store.transaction(procedure_id, lambda: store.write(procedure_id, changes, write.get("now", NOW)))


def write(store: Store, procedure_id: str, **changes: Any) -> None:
    """Write any change, in a transaction."""
    store.transaction(procedure_id, lambda: store.write(procedure_id, Changes(**changes), NOW))


def do(store: Store, procedure_id: str, method: str, *arguments: Any) -> Any:
    """One method about a document, in a transaction."""
    return store.transaction(procedure_id, lambda: getattr(store, method)(procedure_id, *arguments))


def header_of(store: Store, procedure_id: str = "a") -> Header:
    """That of a document that is stored."""
    found = store.header(procedure_id)
    assert found is not None
    return found


def document_of(store: Store, procedure_id: str = "a") -> Document:
    """One that is stored."""
    found = store.read(procedure_id)
    assert found is not None
    return found[1]


def state(store: Store, procedure_id: str) -> dict[str, Any]:
    """The state as plain values; empty for what is not stored."""
    found = store.read(procedure_id)
    return {} if found is None else {key: one.plain for key, one in found[1].state.items()}


def results(store: Store, procedure_id: str) -> list[Any]:
    found = store.read(procedure_id)
    return [] if found is None else [one.result for one in found[1].log]


def count(store: Store, procedure_id: str, key: str = "n") -> None:
    """Read a number and write the next, in a transaction."""

    def work() -> None:
        before = state(store, procedure_id).get(key, 0)
        store.write(procedure_id, Changes(state={key: value(before + 1)}), NOW)

    store.transaction(procedure_id, work)


def document_writes(name: str, mark: int = 1) -> dict[str, Act]:
    """Every method that writes about one document, by its name, in an order in which each changes something."""
    changes = Changes(
        entries=log(mark, mark, run=f"run {mark}"),
        replay_index=mark,
        state={"k": value(mark), "drop": value(mark)},
        lua_state={"l": value(mark)},
        variables={f"v{mark}": value(mark)},
        status=("RUNNING", f"m{mark}"),
        extras=(value([mark]),),
    )
    more = Changes(state={"drop": None, f"k{mark}": value(mark)})
    return {
        "write": lambda store: store.write(name, changes, NOW + mark),
        "sweep": lambda store: store.sweep(name),
        "merge": lambda store: store.merge(name, more, ["run"], NOW + mark),
        "put_base": lambda store: store.put_base(name, {"mark": mark}),
        "put_history": lambda store: store.put_history(name, [mark]),
        "put_creation": lambda store: store.put_creation(name, {"name": mark}),
        "put_uploads": lambda store: store.put_uploads(name, {"key": f"digest {mark}"}),
        "put_inline_limit": lambda store: store.put_inline_limit(name, mark),
        "park": lambda store: store.park(name, f"reason {mark}", NOW),
        "update_pending": lambda store: store.update_pending(name, NOW, parked=None, attempts=mark),
        "drop_pending": lambda store: store.drop_pending(name),
        "put_pending": lambda store: store.put_pending(name, Pending(since=NOW + mark, attempts=mark)),
        "put_header": lambda store: store.put_header(name, header_of(store, name)._replace(replay_index=mark + 7)),
        "drop_creation": lambda store: store.drop_creation(name),
        "forget_old": lambda store: store.forget_old(name),
        "adopt": lambda store: store.adopt(name, Changes(state={"theirs": value(mark)}), ["run"]),
        "forget": lambda store: store.forget(name),
    }


def fill(store: Store, mark: int = 1) -> None:
    """Something of everything that can be written, about document `a` and the whole store."""
    acts = document_writes("a", mark) | other_writes(mark)
    del acts["forget"]
    store.transaction("a", lambda: [act(store) for act in acts.values()])


def other_writes(mark: int = 1) -> dict[str, Act]:
    """Every method that writes about the whole store, by its name."""
    return {
        "put_garbage": lambda store: store.put_garbage("b", [f"key {mark}"], NOW + mark),
        "drop_garbage": lambda store: store.drop_garbage("b", [f"key {mark - 1}"]),
        "put_conflict": lambda store: store.put_conflict(conflict(key=f"k{mark}")),
        "put_trace": lambda store: store.put_trace("run", "name", str(mark).encode()),
        "put_link": lambda store: store.put_link(Link("online", attempts=mark)),
        "put_request": lambda store: store.put_request(f"request {mark}"),
        "drop_request": lambda store: store.drop_request(f"request {mark - 1}"),
    }


def reads(store: Store) -> dict[str, Callable[[], Any]]:
    """All that can be read, of documents `a` and `b`, by what it is called."""
    found: dict[str, Callable[[], Any]] = {
        "procedure_ids": store.procedure_ids,
        "headers": store.headers,
        "unknown": store.unknown,
        "idle": lambda: store.idle(NOW),
        "outbox": store.outbox,
        "due": lambda: store.due(NOW + 1000),
        "next_due": store.next_due,
        "garbage": lambda: store.garbage(NOW + 1000),
        "garbage_due": store.garbage_due,
        "conflicts": store.conflicts,
        "resolved": lambda: store.conflicts(resolved=True),
        "conflict": lambda: store.conflict(1),
        "open_conflicts": store.open_conflicts,
        "trace": lambda: store.trace("run", "name"),
        "traces": lambda: store.traces("run"),
        "link": store.link,
        "requests": store.requests,
        "endpoint": lambda: store.endpoint,
    }
    return found | {
        f"{name} of {one}": partial(read, one) for name, read in reads_of_one(store).items() for one in "ab"
    }


def reads_of_one(store: Store) -> dict[str, Callable[[str], Any]]:
    """All that can be read about one document, by name."""
    return {
        "header": store.header,
        "read": store.read,
        "pending": store.pending,
        "base": store.base,
        "history": store.history,
        "old": store.old,
        "creation": store.creation,
        "uploads": store.uploads,
        "inline_limit": store.inline_limit,
        "read without its log": lambda name: store.read(name, log=False),
        "conflicts": lambda name: store.conflicts(procedure_id=name),
        "resolved": lambda name: store.conflicts(procedure_id=name, resolved=True),
    }


def picture(store: Store) -> dict[str, Any]:
    """What all `reads` say at one moment."""
    return store.snapshot(lambda: {name: read() for name, read in reads(store).items()})


def in_threads(*works: Callable[[], object]) -> None:
    """Run them at once, each in a thread; the first failure is ours."""
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]


def in_child(work: Callable[[], object]) -> bool:
    """Whether `work` in a fork of this process went well."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)  # nothing of pytest's runs twice
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    return os.waitpid(pid, 0)[1] == 0


def helping(opening: str) -> Process:
    """Another process with the store open, as `store`, and these acts."""
    here = Path(__file__).parent
    return Process(
        f"import os, sys, time; sys.path[:0] = [{str(here.parent)!r}]",
        "from pathlib import Path; from store.acts import *",
        opening,
    )


def inside(process: Process, place: Path, procedure_id: str = "a") -> None:
    """Let the process be in the middle of a transaction until it is killed, or finds a file `place`/go."""
    process.tell(
        f"""
def work():
    store.write({procedure_id!r}, Changes(state={{"half": value(1)}}), NOW)
    Path({str(place / "inside")!r}).touch()
    eventually(Path({str(place / "go")!r}).exists, 600)
store.transaction({procedure_id!r}, work)
"""
    )
    eventually((place / "inside").exists, PATIENCE)
