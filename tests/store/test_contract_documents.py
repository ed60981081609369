"""The contract of a store: what is kept of documents, and what syncing remembers of them."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from helpers import eventually

from plexus_tactus_cache.document.encoded import Changes, Document
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.store.contract import Header, Pending, Store
from store.acts import (
    NOW,
    Act,
    conflict,
    do,
    document_of,
    document_writes,
    entry,
    fill,
    header_of,
    log,
    reads_of_one,
    results,
    state,
    value,
    write,
)
from store.stores import StoreHarness

# --- writing ----------------------------------------------------------------------------------------------


def test_nothing_is_known_of_what_is_not_stored(store: Store) -> None:
    assert store.header("a") is None
    assert store.read("a") is None
    assert store.procedure_ids() == []
    assert store.pending("a") is None
    assert (store.base("a"), store.creation("a"), store.inline_limit("a")) == (None, None, None)
    assert (store.history("a"), store.uploads("a")) == ([], {})
    assert store.old("a") == {"state": {}, "lua_state": {}}
    assert store.transaction("a", lambda: store.sweep("a")) is None


ODD = Encoded({"n": 1, "t": ["x", None, True, 0.5, "ü", "\x00"]}, {"/n": ["float"]})
FIRST = Changes(
    entries={
        0: entry(0, {"deep": [1]}, v="d1", w="d2")._replace(
            duration_ms=1.5, input_hash="h", source_location=["f", 1, "g", None], name="named"
        ),
        1: entry(1, None)._replace(notes={"": ["tuple"]}, run_id=None),
        2: entry(2, 2),
    },
    replay_index=3,
    state={"k": ODD, "stays": ODD, "gone": ODD},
    lua_state={"l": ODD, "stays": value(1), "gone": ODD},
    variables={"d1": ODD, "d2": value("x" * 100_000)},
    status=("WAITING_FOR_HUMAN", "m"),
    extras=(ODD,),
)
SECOND = Changes(
    entries={1: entry(1, "again", v="d3")},
    log_length=2,
    state={"k": value(2), "gone": None},
    lua_state={"l": value(2), "new": ODD, "gone": None},
    variables={"d3": value(3)},
    status=("RUNNING", None),
    extras=(None,),
    replay_index=1,
)
AFTER_FIRST = Document(
    log=[*FIRST.entries.values()],
    replay_index=3,
    state={"k": ODD, "stays": ODD, "gone": ODD},
    lua_state={"l": ODD, "stays": value(1), "gone": ODD},
    status="WAITING_FOR_HUMAN",
    waiting_on_message_id="m",
    extras=ODD,
    variables=FIRST.variables,
)
AFTER_SECOND = Document(
    log=[FIRST.entries[0], SECOND.entries[1]],
    replay_index=1,
    state={"k": value(2), "stays": ODD},
    lua_state={"l": value(2), "stays": value(1), "new": ODD},
    status="RUNNING",
    variables=FIRST.variables | SECOND.variables,
)


def apply(store: Store, how: str, changes: Changes, procedure_id: str = "a") -> Header:
    """By `write`, `merge` or `adopt`."""
    header: Header = do(store, procedure_id, how, changes, *{"write": (NOW,), "merge": ((), NOW), "adopt": ((),)}[how])
    return header


@pytest.mark.parametrize("how", ["write", "merge", "adopt"])
def test_all_of_a_change_is_there_and_what_it_does_not_name_stays(store: Store, other: Store, how: str) -> None:
    for version, (changes, document) in enumerate(((FIRST, AFTER_FIRST), (SECOND, AFTER_SECOND)), 1):
        header = apply(store, how, changes)
        assert header == Header(
            version=version,
            pushed=version if how == "adopt" else 0,
            log_version=version,
            log_length=len(document.log),
            replay_index=document.replay_index,
            status=document.status,
            waiting_on_message_id=document.waiting_on_message_id,
            queued=how != "adopt",
        )
        for one in (store, other):
            assert one.read("a") == (header, document)
            assert one.header("a") == header
            found = one.read("a", log=False)
            assert found is not None
            assert (found[0], found[1].log) == (header, [])
            assert replace(found[1], log=document.log, variables=document.variables) == document
    apply(store, how, Changes())
    assert document_of(other) == AFTER_SECOND


@pytest.mark.parametrize("how", ["write", "merge", "adopt"])
def test_what_a_change_is_not_about_stays(store: Store, how: str) -> None:
    """What syncing remembers, and what the header says besides."""
    apply(store, "write", FIRST)
    books = {
        "base": {"b": 1},
        "history": {"push": 1},
        "creation": {"c": 1},
        "uploads": {"key": "digest"},
        "inline_limit": 1,
    }
    for name, wrote in books.items():
        do(store, "a", f"put_{name}", wrote)
    header = header_of(store)._replace(pushed=1, swept=3, cancelled=["r"], held=["PENDING", "m"])
    do(store, "a", "put_header", header)
    store.park("a", "why", NOW)
    write(store, "a", state={"stays": None})
    place, header = store.pending("a"), header_of(store)
    apply(store, how, Changes(state={"k": value(2)}))
    assert {name: getattr(store, name)("a") for name in books} == books
    assert store.old("a")["state"].get("stays") == (None if how == "adopt" else ODD)
    pushed = 3 if how == "adopt" else 1
    assert header_of(store) == header._replace(version=3, pushed=pushed, queued=how != "adopt")
    assert store.pending("a") == (None if how == "adopt" else place)  # parked ones are for a person
    assert document_of(store) == replace(AFTER_FIRST, state={"k": value(2), "gone": ODD})


def test_a_write_raises_the_version_and_queues_the_document(store: Store) -> None:
    for version in (1, 2, 3):
        header = do(store, "a", "write", Changes(state={"k": value(version)}), NOW + version)
        assert (header.version, header.pushed, header.queued, header.dirty) == (version, 0, True, True)
        assert store.header("a") == header
    assert store.pending("a") == Pending(since=NOW + 1, due=NOW + 1)  # since it became dirty


def test_a_write_may_travel_after_its_delay(store: Store) -> None:
    do(store, "a", "write", Changes(state={"k": value(1)}), NOW, 5.0)
    do(store, "a", "write", Changes(state={"k": value(2)}), NOW + 4, 5.0)
    assert store.pending("a") == Pending(since=NOW, due=NOW + 5)


def test_a_write_without_changes_makes_the_document(store: Store) -> None:
    assert do(store, "a", "write", Changes(), NOW) == header_of(store)
    assert store.read("a") == (header_of(store), Document())
    assert store.procedure_ids() == ["a"]


def test_the_log_grows_is_replaced_in_place_and_is_cut(store: Store) -> None:
    write(store, "a", entries=log(*range(12)))
    header = header_of(store)
    assert (results(store, "a"), header.log_length, header.log_version) == ([*range(12)], 12, 1)
    write(store, "a", state={"k": value(1)})
    assert header_of(store).log_version == 1
    write(store, "a", entries={3: entry(3, "again")})
    assert results(store, "a") == [0, 1, 2, "again", *range(4, 12)]
    assert (header_of(store).log_length, header_of(store).log_version) == (12, 3)
    write(store, "a", log_length=10, entries={})
    assert results(store, "a") == [0, 1, 2, "again", *range(4, 10)]
    assert (header_of(store).log_length, header_of(store).log_version) == (10, 4)
    write(store, "a", log_length=2, entries=log("new", start=1))
    assert (results(store, "a"), header_of(store).log_version) == ([0, "new"], 5)
    write(store, "a", log_length=0)
    assert (results(store, "a"), header_of(store).log_length, header_of(store).log_version) == ([], 0, 6)
    write(store, "a", entries=log("x"))
    assert results(store, "a") == ["x"]


CUTS: list[tuple[Changes, list[object]]] = [
    (Changes(log_length=2, entries=log("x", "y", "z", start=1)), [0, "x"]),
    (Changes(log_length=4, entries=log("x", start=3)), [0, 1, 2, "x"]),
    (Changes(log_length=0, entries=log("x")), []),
    (Changes(log_length=2), [0, 1]),
]
NO_CUTS = [
    Changes(status=("RUNNING", "m")),
    Changes(replay_index=3),
    Changes(state={"k": value(1)}, lua_state={"k": value(1)}),
    Changes(extras=(value(1),)),
    Changes(variables={"d": value(1)}),
    Changes(log_length=3),
    Changes(log_length=9),
]


@pytest.mark.parametrize("how", ["write", "merge", "adopt"])
def test_entries_come_first_and_then_the_cut(store: Store, how: str) -> None:
    for number, (changes, wanted) in enumerate(CUTS):
        name = f"p{number}"
        write(store, name, entries=log(*range(3)), replay_index=3)
        header = apply(store, how, changes, name)
        assert results(store, name) == wanted
        assert (header.log_length, header.log_version, header.replay_index) == (len(wanted), 2, 3)


@pytest.mark.parametrize("how", ["write", "merge", "adopt"])
def test_nothing_but_the_log_changes_its_version(store: Store, how: str) -> None:
    write(store, "a", entries=log(*range(3)), replay_index=3)
    for version, changes in enumerate(NO_CUTS, 2):
        header = apply(store, how, changes)
        assert (header.version, header.log_version, header.log_length, header.replay_index) == (version, 1, 3, 3)
    assert results(store, "a") == [0, 1, 2]


def test_variables_that_no_entry_refers_to_are_swept(store: Store, other: Store) -> None:
    entries = {0: entry(0, v="kept"), 1: entry(1, v="replaced")}
    write(store, "a", entries=entries, variables={"kept": value(1), "replaced": value(2)})
    write(store, "b", entries={0: entry(0, v="replaced")}, variables={"replaced": value(2)})
    assert do(store, "a", "sweep") == header_of(store)
    assert header_of(store).swept == 0
    write(store, "a", entries={1: entry(1)})
    before = header_of(store)
    header = do(store, "a", "sweep")
    assert header == header_of(other) == before._replace(swept=header.swept)
    assert header.swept > before.swept
    for name, left in (("a", {"kept": value(1)}), ("b", {"replaced": value(2)})):
        found = other.read(name)
        assert found is not None
        assert found[1].variables == left


def test_variables_of_entries_that_were_cut_are_not_needed(store: Store) -> None:
    """Whether a cut sweeps is the store's business; `swept` says whether it did."""
    write(
        store, "a", entries={n: entry(n, v=f"d{n}") for n in range(4)}, variables={f"d{n}": value(n) for n in range(4)}
    )
    write(store, "a", log_length=1)
    do(store, "a", "sweep")
    found = store.read("a")
    assert found is not None
    assert found[1].variables == {"d0": value(0)}
    assert found[0].swept > 0


# --- merging and adopting ---------------------------------------------------------------------------------


def test_a_merge_has_to_be_pushed(store: Store) -> None:
    write(store, "a", state={"k": value(1)})
    do(store, "a", "put_header", header_of(store)._replace(pushed=1, queued=False))
    do(store, "a", "drop_pending")
    header = do(store, "a", "merge", Changes(state={"k": value(2)}), (), NOW + 9)
    assert (header.version, header.pushed, header.queued, header.dirty) == (2, 1, True, True)
    assert store.header("a") == header
    assert state(store, "a") == {"k": 2}
    assert store.pending("a") == Pending(since=NOW + 9, due=NOW + 9)
    assert store.old("a")["state"] == {"k": value(1)} or store.old("a")["state"] == {}


def test_a_merge_keeps_the_place_of_what_waits_already(store: Store) -> None:
    write(store, "a", state={"k": value(1)})
    place = Pending(since=NOW, due=NOW + 50, attempts=3, error="no")
    do(store, "a", "put_pending", place)
    do(store, "a", "merge", Changes(state={"k": value(2)}), (), NOW + 9)
    assert store.pending("a") == place


def test_what_is_adopted_is_clean(store: Store) -> None:
    write(store, "a", state={"k": value(1)})
    write(store, "a", state={"k": value(2)})
    assert store.old("a")["state"] == {"k": value(1)}
    header = do(store, "a", "adopt", Changes(state={"k": value(3), "theirs": value(4)}, entries=log("x")), ())
    assert (header.version, header.pushed, header.queued, header.log_version) == (3, 3, False, 3)
    assert store.header("a") == header
    assert state(store, "a") == {"k": 3, "theirs": 4}
    assert store.pending("a") is None
    assert store.due(NOW + 1000) == []
    assert store.old("a") == {"state": {}, "lua_state": {}}


def test_adopting_nothing_is_no_new_version(store: Store) -> None:
    write(store, "a", state={"k": value(1)})
    header = do(store, "a", "adopt", Changes(), ())
    assert (header.version, header.pushed, header.queued) == (1, 1, False)
    assert store.pending("a") is None


def test_a_document_that_comes_from_plexus_is_new(store: Store) -> None:
    header = do(store, "a", "adopt", Changes(state={"k": value(1)}, status=("RUNNING", None)), ())
    assert (header.version, header.pushed, header.queued, header.dirty) == (1, 1, False, False)
    assert store.procedure_ids() == ["a"]
    assert store.outbox() == {}


def test_a_header_is_replaced_as_it_is(store: Store, other: Store) -> None:
    write(store, "a", state={"k": value(1)})
    header = Header(
        version=7,
        pushed=5,
        log_version=3,
        log_length=0,
        replay_index=2,
        status="RUNNING",
        waiting_on_message_id="m",
        queued=True,
        swept=4,
        cancelled=["r"],
        held=["PENDING", None],
    )
    do(store, "a", "put_header", header)
    for one in (store, other):
        assert one.header("a") == header
        found = one.read("a")
        assert found is not None
        assert found[0] == header
        assert found[1].status_unit == ("RUNNING", "m")


def _seen_after(store: Store, act: Act) -> Header | None:
    act(store)
    return store.header("a")


def test_what_is_noted_is_noted_of_a_document(store: Store, other: Store) -> None:
    """Which is empty, and there, as soon as anything is."""
    for name, act in document_writes("a").items():
        if name in ("put_base", "put_history", "put_creation", "put_uploads", "put_inline_limit"):
            new = store.unknown()
            assert store.transaction("a", partial(_seen_after, store, act)) == new
            assert other.read("a") == (new, Document())
            assert other.headers() == {"a": new}
            do(store, "a", "forget")


# --- all of them ------------------------------------------------------------------------------------------


def test_the_headers_of_all(store: Store, other: Store) -> None:
    write(store, "b", state={"k": value(1)})
    apply(store, "adopt", FIRST, "a")
    store.park("parked", "why", NOW)
    assert store.headers() == other.headers() == {name: header_of(store, name) for name in ("a", "b", "parked")}
    assert [*other.headers()] == other.procedure_ids() == ["a", "b", "parked"]


def test_idle_ones_are_clean_and_were_not_written_since(store: Store, other: Store) -> None:
    def now() -> float:
        """After all that was written, and before what will be."""
        moment = time.time() + 0.001
        eventually(lambda: time.time() > moment + 0.001)
        return moment

    started = now()
    for name in ("old", "touched", "dirty", "parked", "queued"):
        apply(store, "write" if name == "dirty" else "adopt", Changes(), name)
    store.park("parked", "why", NOW)
    do(store, "queued", "put_pending", Pending(since=NOW))
    moment = now()
    for name in ("new", "touched"):
        apply(store, "adopt", Changes(state={"k": value(1)}), name)
    assert (store.idle(started), other.idle(moment)) == ([], ["old"])
    assert sorted(other.idle(now())) == ["new", "old", "touched"]


def test_what_is_forgotten_was_never_there_but_for_its_versions(harness: StoreHarness, store: Store) -> None:
    other, never = harness.open(), reads_of_one(store)
    nothing = {name: read("a") for name, read in never.items()}
    fill(store)
    for act in document_writes("b").values():
        store.transaction("b", partial(act, store))
    do(store, "b", "adopt", Changes(state={"k": value(1)}), ())
    do(store, "b", "put_garbage", ["k"], NOW)
    do(store, "a", "put_garbage", ["k"], NOW)
    number = store.transaction("a", lambda: store.put_conflict(conflict("a", "forgotten")))
    header, twin = header_of(store), [read("b") for read in reads_of_one(store).values()]
    do(store, "a", "forget")
    do(store, "a", "forget")  # twice is fine
    for one in (store, other, harness.open()):
        found = {name: read("a") for name, read in reads_of_one(one).items()}
        assert number in found.pop("conflicts")
        assert found == {name: was for name, was in nothing.items() if name != "conflicts"}
        assert "a" not in [*one.procedure_ids(), *one.headers(), *one.outbox(), *one.due(math.inf)]
        assert [read("b") for read in reads_of_one(one).values()] == twin
        assert one.garbage(NOW)["a"] == ["k"]
        unknown = one.unknown()
        assert unknown == Header(version=unknown.version, pushed=unknown.version, log_version=unknown.version)
        assert unknown.version > header.version
    write(store, "a", state={"k": value(1)})
    assert header_of(other).version > header.version
    assert (header_of(other).dirty, other.old("a")) == (True, {"state": {}, "lua_state": {}})
    assert document_of(other) == Document(state={"k": value(1)})


def test_versions_go_on_above_those_of_all_that_were_forgotten(store: Store, other: Store) -> None:
    assert store.unknown() == Header()
    do(store, "never stored", "forget")
    assert other.unknown() == Header()
    for name, times in (("high", 7), ("low", 2)):
        for _ in range(times):
            write(store, name)
    for name in ("high", "low"):
        do(store, name, "forget")
        for how in ("write", "merge", "adopt", "put_base"):
            version = other.unknown().version
            assert version >= 7
            new = f"new by {how}"
            do(store, new, "put_base", 1) if how == "put_base" else apply(store, how, FIRST, new)
            assert header_of(other, new).version >= version

    def again() -> Header:
        store.forget("new by write")
        return store.write("new by write", Changes(), NOW)

    before = header_of(store, "new by write").version
    assert store.transaction("new by write", again).version > before
    assert header_of(other, "new by write").version > before


# --- a CANCELLED from Plexus ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["adopt", "merge"])
def test_an_adopted_cancelled_stays_until_a_new_run(store: Store, how: str) -> None:
    write(store, "a", entries=log("x", run="old"), status=("RUNNING", None))
    came = Changes(status=("CANCELLED", None))
    do(store, "a", how, came, ["old"], *([NOW] if how == "merge" else []))
    assert header_of(store).status == "CANCELLED"
    write(store, "a", status=("WAITING_FOR_HUMAN", "m1"))
    write(store, "a", status=("COMPLETE", "m2"), state={"k": value(1)})
    assert header_of(store).status == "CANCELLED"
    assert state(store, "a") == {"k": 1}  # only the status is held back
    write(store, "a", entries=log("y", start=1, run="old"))
    assert header_of(store).status == "CANCELLED"
    write(store, "a", entries=log("z", start=2, run="new"))
    header = header_of(store)
    assert (header.status, header.waiting_on_message_id) == ("COMPLETE", "m2")
    write(store, "a", status=("RUNNING", None))
    assert header_of(store).status == "RUNNING"


def test_the_status_of_a_new_run_ends_a_cancelled(store: Store) -> None:
    write(store, "a", entries=log("x", run="old"), status=("RUNNING", None))
    do(store, "a", "adopt", Changes(status=("CANCELLED", None)), ["old"])
    write(store, "a", status=("ERROR", None))
    write(store, "a", entries=log("y", start=1, run="new"), status=("RUNNING", None))
    assert header_of(store).status == "RUNNING"


def test_another_status_from_plexus_ends_a_cancelled(store: Store) -> None:
    write(store, "a", entries=log("x", run="old"), status=("RUNNING", None))
    do(store, "a", "adopt", Changes(status=("CANCELLED", None)), ["old"])
    write(store, "a", status=("ERROR", None))
    do(store, "a", "adopt", Changes(status=("PENDING", None)), ["old"])
    assert header_of(store).status == "PENDING"
    write(store, "a", status=("RUNNING", None))
    assert header_of(store).status == "RUNNING"


def test_a_cancelled_that_was_set_here_holds_nothing_back(store: Store) -> None:
    write(store, "a", status=("CANCELLED", None))
    write(store, "a", status=("RUNNING", None))
    assert header_of(store).status == "RUNNING"


# --- bookkeeping ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrote", "empty"),
    [
        ("base", {"updatedAt": None, "digests": {"ü": [1, 0.5, True, None]}}, ...),
        ("history", [{"id": "push", "version": 3}], []),
        ("creation", {"accountId": "acc", "metadata": {"k": [1]}}, None),
        ("uploads", {"key/1": "", "key/2": "digest"}, {}),
        ("inline_limit", 1000, ...),
    ],
)
def test_what_syncing_remembers_comes_back(store: Store, other: Store, name: str, wrote: Any, empty: Any) -> None:
    def read(one: Store, procedure_id: str) -> Any:
        return getattr(one, name)(procedure_id)

    nothing = read(store, "a")
    do(store, "a", f"put_{name}", wrote)
    assert read(store, "a") == read(other, "a") == wrote
    assert read(store, "b") == nothing
    assert store.procedure_ids() == ["a"]  # which is empty, and is there: what is noted is noted of a document
    changed = 7 if isinstance(wrote, int) else {"other": 1} if name != "uploads" else {"other": "x"}
    do(store, "a", f"put_{name}", changed)
    assert read(other, "a") == changed
    if empty is None:
        do(store, "a", f"drop_{name}")
        do(store, "a", f"drop_{name}")  # twice is fine
        assert read(other, "a") is None
    elif empty is not ...:
        do(store, "a", f"put_{name}", empty)
        assert read(other, "a") == empty


def test_what_keys_were_before_they_changed_is_kept_until_it_is_forgotten(store: Store, other: Store) -> None:
    write(store, "a", state={key: value("first") for key in ("p/q", "k", "same")}, lua_state={"l": value("first")})
    do(store, "a", "adopt", Changes(state={"k": value("pushed")}), ())
    assert store.old("a") == {"state": {}, "lua_state": {}}
    for number in (1, 2):
        write(store, "a", state={"k": value(number), "p/q": None, "new": value(number)}, lua_state={"l": value(number)})
    old = store.old("a")
    assert {key: old["state"][key] for key in ("k", "p/q")} == {"k": value("pushed"), "p/q": value("first")}
    assert "same" not in old["state"]
    assert old["lua_state"] == {"l": value("first")}
    assert other.old("a") == old
    assert other.old("b") == {"state": {}, "lua_state": {}}
    do(store, "a", "forget_old")
    assert other.old("a") == {"state": {}, "lua_state": {}}
