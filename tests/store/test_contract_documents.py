"""The contract of a store: what is kept of documents, what syncing remembers of them, and what belongs to none."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest

from plexus_tactus_cache.document.encoded import Changes, Document
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.errors import CacheCorrupted, EndpointMismatch
from plexus_tactus_cache.store.contract import Header, Link, Pending, Store
from store.acts import NOW, conflict, entry, in_threads, log, put, results, state, value, write
from store.stores import StoreHarness

ODD = [
    "p/q",
    "p%2Fq",
    "p",
    "p/",
    "pq",
    "p-q",
    "ü",
    "u\u0308",
    "..",
    ".",
    "a b",
    "A",
    "a",
    "%",
    "'; DROP TABLE x; --",
    "_%",
    "new\nline",
    "nul\x00",
    "日本",
    "😀",
    "\uffff",
    "x" * 1000,
    "x" * 999,
    "10",
    "9",
]


def do(store: Store, procedure_id: str, method: str, *arguments: Any) -> Any:
    """One method about a document, in a transaction."""
    return store.transaction(procedure_id, lambda: getattr(store, method)(procedure_id, *arguments))


def header_of(store: Store, procedure_id: str = "a") -> Header:
    found = store.header(procedure_id)
    assert found is not None
    return found


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


def test_all_of_a_document_comes_back(store: Store, other: Store) -> None:
    odd = Encoded({"n": 1, "t": ["x", None, True, 0.5, "ü", "\x00"]}, {"/n": ["float"]})
    entries = {
        0: entry(0, {"deep": [1]}, v="d1", w="d2")._replace(
            duration_ms=1.5, input_hash="h", source_location=["f", 1, "g", None], name="named"
        ),
        1: entry(1, None)._replace(notes={"": ["tuple"]}, run_id=None),
    }
    changes = Changes(
        entries=entries,
        replay_index=1,
        state=dict.fromkeys(ODD, odd),
        lua_state={"l": odd},
        variables={"d1": odd, "d2": value("x" * 100_000)},
        status=("WAITING_FOR_HUMAN", "m"),
        extras=(odd,),
    )
    header = do(store, "a", "write", changes, NOW)
    document = Document(
        log=[*entries.values()],
        replay_index=1,
        state=dict.fromkeys(ODD, odd),
        lua_state={"l": odd},
        status="WAITING_FOR_HUMAN",
        waiting_on_message_id="m",
        extras=odd,
        variables={"d1": odd, "d2": value("x" * 100_000)},
    )
    for one in (store, other):
        assert one.read("a") == (header, document)
        assert one.header("a") == header
        found = one.read("a", log=False)
        assert found is not None
        assert (found[1].state, found[1].status, found[1].extras) == (document.state, document.status, odd)
        assert found[1].log == []


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


def test_a_write_changes_what_it_names_and_nothing_else(store: Store) -> None:
    write(
        store,
        "a",
        entries=log("x"),
        replay_index=1,
        state={"k": value(1), "gone": value(1)},
        lua_state={"k": value(2), "gone": value(2)},
        status=("RUNNING", "m"),
        extras=(value(3),),
    )
    before = store.read("a")
    assert before is not None
    write(store, "a", state={"gone": None, "never": None})
    write(store, "a", lua_state={"gone": None})
    after = store.read("a")
    assert after is not None
    for name in ("log", "replay_index", "status", "waiting_on_message_id", "extras", "variables"):
        assert getattr(after[1], name) == getattr(before[1], name)
    assert (after[1].state, after[1].lua_state) == ({"k": value(1)}, {"k": value(2)})
    write(store, "a", status=("PENDING", None), extras=(None,), replay_index=0)
    last = store.read("a")
    assert last is not None
    assert (last[1].status_unit, last[1].extras, last[1].replay_index) == (("PENDING", None), None, 0)
    assert last[1].state == {"k": value(1)}


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


def test_a_long_log_keeps_its_order(store: Store) -> None:
    write(store, "a", entries=log(*range(1200)))
    assert results(store, "a") == [*range(1200)]


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


# --- ids --------------------------------------------------------------------------------------------------


def test_documents_of_any_id_are_kept_apart(store: Store, other: Store) -> None:
    shuffled = random.Random(1).sample(ODD, len(ODD))
    for number, name in enumerate(shuffled):
        write(
            store,
            name,
            state={"k": value(number)},
            entries={0: entry(0, number, v="d")},
            variables={"d": value(number)},
        )
        do(store, name, "put_base", number)
    for one in (store, other):
        assert one.procedure_ids() == sorted(ODD)
        assert one.due(NOW) == one.due(NOW)
        assert sorted(one.due(NOW)) == sorted(one.outbox()) == sorted(ODD)
        for number, name in enumerate(shuffled):
            assert state(one, name) == {"k": number}
            assert results(one, name) == [number]
            assert one.base(name) == number
    for name in shuffled[::2]:
        write(store, name, log_length=0, state={"k": None})
        do(store, name, "sweep")
        do(store, name, "adopt", Changes(), ())
    for number, name in enumerate(shuffled):
        assert state(other, name) == ({"k": number} if number % 2 else {})
        assert results(other, name) == ([number] if number % 2 else [])
    assert sorted(other.outbox()) == sorted(shuffled[1::2])


@pytest.mark.parametrize("name", [None, 5])
def test_an_id_that_is_no_text_is_a_type_error(store: Store, name: Any) -> None:
    for method in (store.header, store.read, store.pending, store.base, store.old):
        with pytest.raises(TypeError):
            method(name)
    assert store.procedure_ids() == []


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


# --- objects that nothing refers to -----------------------------------------------------------------------


def test_garbage_by_the_time_that_it_may_go(store: Store, other: Store) -> None:
    assert store.garbage_due() is None
    do(store, "late", "put_garbage", ["k3"], NOW + 30)
    do(store, "p/q", "put_garbage", ["a/b", "a%2Fb"], NOW + 10)
    do(store, "late", "put_garbage", ["k2"], NOW + 20)
    for one in (store, other):
        assert one.garbage_due() == pytest.approx(NOW + 10, abs=0.002)
        assert one.garbage(NOW + 9) == {}
        found = one.garbage(NOW + 20.01)
        assert {name: sorted(keys) for name, keys in found.items()} == {"p/q": ["a%2Fb", "a/b"], "late": ["k2"]}
        assert sorted(one.garbage(NOW + 99)["late"]) == ["k2", "k3"]
    do(store, "p/q", "drop_garbage", ["a/b"])
    assert other.garbage(NOW + 15) == {"p/q": ["a%2Fb"]}
    do(store, "p/q", "drop_garbage", ["a%2Fb", "unknown"])
    assert other.garbage_due() == pytest.approx(NOW + 20, abs=0.002)
    do(store, "late", "put_garbage", ["k2"], NOW + 40)
    do(store, "late", "drop_garbage", ["k2"])
    assert other.garbage(NOW + 99) == {"late": ["k3"]}
    do(store, "late", "drop_garbage", ["k3"])
    assert other.garbage_due() is None


def test_keys_with_one_name_belong_to_their_procedures(store: Store) -> None:
    for name in ("a", "b"):
        do(store, name, "put_garbage", ["k"], NOW)
    do(store, "a", "drop_garbage", ["k"])
    assert store.garbage(NOW + 1) == {"b": ["k"]}


# --- the journal ------------------------------------------------------------------------------------------


def test_conflicts_by_number(store: Store, other: Store) -> None:
    records = [conflict(key=f"k{number}", local={"n": [number]}, remote=None) for number in range(12)]
    numbers = [store.transaction((), partial(store.put_conflict, one)) for one in records]
    assert numbers == sorted(set(numbers))
    for one in (store, other):
        assert one.conflicts() == dict(zip(numbers, records, strict=True))
        assert list(one.conflicts()) == numbers
        assert one.conflicts(resolved=True) == {}


def test_a_conflict_that_is_open_is_not_stored_again(store: Store, other: Store) -> None:
    record = conflict()
    number = store.transaction((), lambda: store.put_conflict(record))
    assert other.transaction((), lambda: other.put_conflict(record._replace(at=NOW + 99))) == number
    assert store.conflicts() == {number: record}
    different = store.transaction((), partial(store.put_conflict, record._replace(remote=3)))
    assert list(store.conflicts()) == [number, different]


def test_a_conflict_that_is_resolved(store: Store, other: Store) -> None:
    record = conflict()
    number = store.transaction((), lambda: store.put_conflict(record))
    done = record._replace(resolved="local")
    assert store.transaction((), lambda: store.put_conflict(done, number)) == number
    assert (other.conflicts(), other.conflicts(resolved=True)) == ({}, {number: done})
    again = store.transaction((), lambda: store.put_conflict(record))  # the same happened once more
    assert again > number
    assert (other.conflicts(), other.conflicts(resolved=True)) == ({again: record}, {number: done})
    store.transaction((), lambda: store.put_conflict(record._replace(remote=9), again))
    assert other.conflicts() == {again: record._replace(remote=9)}
    store.transaction((), lambda: store.put_conflict(record, number))  # opened again
    assert list(other.conflicts()) == [number, again]
    assert other.conflicts(resolved=True) == {}


# --- traces, link, requests, endpoint ---------------------------------------------------------------------


def test_traces_by_kind_and_name(store: Store, other: Store) -> None:
    assert (store.trace("run", "x"), store.traces("run")) == (None, [])
    for name in random.Random(2).sample(ODD, len(ODD)):
        store.transaction((), partial(store.put_trace, "run", name, name.encode()))
    store.transaction((), lambda: store.put_trace("breakpoints", "p/q", b"\x00\xff"))
    for one in (store, other):
        assert one.traces("run") == [name.encode() for name in sorted(ODD)]
        assert one.traces("breakpoints") == [b"\x00\xff"]
        assert one.trace("run", "p/q") == b"p/q"
        assert one.trace("breakpoints", "p/q") == b"\x00\xff"
    store.transaction((), lambda: store.put_trace("run", "p/q", b"new"))
    assert other.trace("run", "p/q") == b"new"
    assert other.trace("run", "p%2Fq") == b"p%2Fq"


def test_the_link_is_what_was_last_put(store: Store, other: Store) -> None:
    assert store.link() == Link()
    link = Link("throttled", "too much", 3, NOW + 5.5, True, NOW - 1, "fingerprint")
    store.transaction((), lambda: store.put_link(link))
    assert store.link() == other.link() == link


def test_requests_stand_until_they_are_dropped(store: Store, other: Store) -> None:
    assert store.requests() == []
    for name in ("one", "two", "one"):
        store.transaction((), partial(store.put_request, name))
    assert sorted(other.requests()) == ["one", "two"]
    for name in ("one", "unknown"):
        other.transaction((), partial(other.drop_request, name))
    assert store.requests() == ["two"]


def test_a_store_belongs_to_one_endpoint(harness: StoreHarness, store: Store, other: Store) -> None:
    assert store.endpoint is None
    store.check("https://one")
    store.bind("https://one")
    store.bind("https://one")
    for one in (store, other, harness.open()):
        assert one.endpoint == "https://one"
        one.check("https://one")
        for act in (one.check, one.bind):
            with pytest.raises(EndpointMismatch, match="https://one"):
                act("https://two")
        assert one.endpoint == "https://one"
        assert one.location
        assert one.read_only is None


# --- damage -----------------------------------------------------------------------------------------------

NAMES = ["the damaged/one", "fine", "zzz"]


def damaged(harness: StoreHarness, store: Store) -> str:
    """The name of one that was damaged; others are there as well."""
    for name in NAMES:
        write(store, name, entries=log("x"), state={"k": value(1)}, status=("RUNNING", None))
        do(store, name, "put_base", {"of": name})
    harness.damage(NAMES[0])
    return NAMES[0]


def test_damage_of_a_document_is_raised_for_it(harness: StoreHarness, store: Store, other: Store) -> None:
    name = damaged(harness, store)
    for one in (store, other, harness.open()):
        for act in (one.header, one.read):
            with pytest.raises(CacheCorrupted, match=name):
                act(name)
        for method, arguments in {
            "write": (Changes(state={"k": value(2)}), NOW),
            "merge": (Changes(state={"k": value(2)}), (), NOW),
            "adopt": (Changes(state={"k": value(2)}), ()),
            "sweep": (),
        }.items():
            with pytest.raises(CacheCorrupted, match=name):
                do(one, name, method, *arguments)


def test_damage_of_a_document_does_not_affect_others(harness: StoreHarness, store: Store, other: Store) -> None:
    damaged(harness, store)
    for number, one in enumerate((store, other, harness.open())):
        assert {*NAMES} <= {*one.procedure_ids()}
        assert {*one.due(NOW + 1)} == {*NAMES}
        assert one.next_due() == pytest.approx(NOW, abs=0.002)
        put(one, "fine", "k", number)
        put(one, f"new {number}")
        assert state(one, "fine") == {"k": number}
        assert results(one, "fine") == ["x"]
        do(one, "fine", "put_pending", Pending(since=NOW, attempts=number))
        assert one.pending("fine") == Pending(since=NOW, attempts=number)
        in_threads(partial(state, one, "zzz"))
        do(one, f"new {number}", "drop_pending")
    do(store, "fine", "adopt", Changes(), ())
    assert sorted(store.due(NOW + 1)) == sorted({*NAMES} - {"fine"})


def test_a_place_in_the_outbox_that_is_damaged_is_one_all_the_same(harness: StoreHarness, store: Store) -> None:
    """What is known of it besides can be done without: the record is read again."""
    damaged(harness, store)
    found = store.outbox()
    assert found.pop(NAMES[0]) == store.pending(NAMES[0]) == Pending(since=0.0, reread=True)
    store.park(NAMES[0], "why", NOW)
    assert store.outbox()[NAMES[0]].parked == "why"
    assert NAMES[0] not in store.due(NOW + 1)
    assert found["fine"] == found["zzz"] == Pending(since=NOW, due=NOW)


def test_a_transaction_that_meets_damage_leaves_nothing(harness: StoreHarness, store: Store, other: Store) -> None:
    name = damaged(harness, store)

    def work() -> None:
        put(store, "fine", "k", 2)
        put(store, name, "k", 2)

    with pytest.raises(CacheCorrupted):
        store.transaction(["fine", name], work)
    assert state(other, "fine") == {"k": 1}
