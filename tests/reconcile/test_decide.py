"""The decision table as pure functions: properties that hold for whatever both sides did."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexus_tactus_cache.document.encoded import Document, EntryRecord, key_text
from plexus_tactus_cache.document.encoding import encode
from plexus_tactus_cache.envelope.parts import Envelope
from plexus_tactus_cache.reconcile.decide import Action, Plan, reconcile
from plexus_tactus_cache.reconcile.merge import merged
from plexus_tactus_cache.reconcile.snapshot import Digests, Remote

STATUSES = [None, "PENDING", "RUNNING", "COMPLETE", "FAILED", "CANCELLED", "STALLED", "WAITING_FOR_HUMAN"]


def entry(position: int, result: Any, run_id: str | None) -> EntryRecord:
    return EntryRecord(position, "agent_turn", result, {}, "2026-01-01T00:00:00+00:00", run_id=run_id)


@st.composite
def logs(draw: st.DrawFn, beginning: tuple[tuple[int, str], ...] = ()) -> tuple[tuple[int, str], ...]:
    """Results with their runs; often what somebody made of `beginning`."""
    how = draw(st.sampled_from(["same", "append", "cut", "replace", "clear", "new"]))
    more = tuple(draw(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["r1", "r2"])), max_size=3)))
    place = draw(st.integers(0, len(beginning)))
    return {
        "same": beginning,
        "append": beginning + more,
        "cut": beginning[:place],
        "replace": beginning[:place] + more[:1] + beginning[place + 1 :],
        "clear": (),
        "new": beginning[:place] + more,
    }[how]


parts = st.dictionaries(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 2)), max_size=3)


@st.composite
def documents(draw: st.DrawFn, beginning: tuple[tuple[int, str], ...] = ()) -> Document:
    log = draw(logs(beginning))
    status = draw(st.sampled_from(STATUSES))
    return Document(
        log=[entry(position, result, run) for position, (result, run) in enumerate(log)],
        replay_index=len(log),
        state={key_text(key): encode(value) for key, value in draw(parts).items()},
        lua_state={key_text(key): encode(value) for key, value in draw(parts).items()},
        status=status,
        waiting_on_message_id=draw(st.sampled_from([None, "m"])) if status is not None else None,
        extras=draw(st.sampled_from([None, encode({"x": 1}), encode({"x": 2})])),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Document | None, Document, Document]:
    """What Plexus last confirmed (None: nothing), what is here, what is there."""
    beginning = tuple(draw(st.lists(st.tuples(st.integers(0, 3), st.just("r1")), max_size=3)))
    base = draw(st.one_of(st.none(), documents(beginning)))
    log = beginning if base is None else tuple((one.result, one.run_id or "") for one in base.log)
    return base, draw(documents(log)), draw(documents(log))


def base_of(document: Document | None) -> Digests | None:
    return None if document is None else Digests.of(document)


def remote_of(document: Document) -> Remote:
    return Remote(
        "2026-01-02T00:00:00.000Z",
        document.status,
        document.waiting_on_message_id,
        Envelope(dataclasses.replace(document, status=None, waiting_on_message_id=None)),
    )


def decide(base: Document | None, local: Document, remote: Document, **options: Any) -> Plan:
    return reconcile(base_of(base), Digests.of(local), True, remote_of(remote), **options)


def outcome(plan: Plan, local: Document, remote: Document) -> Document:
    return local if plan.action is Action.PUSH else merged(local, remote, plan)


def same(one: Document, other: Document) -> bool:
    return Digests.of(one) == Digests.of(other)


@settings(max_examples=500)
@given(cases(), st.sampled_from(["park", "local", "remote"]))
def test_every_case_is_decided_and_merging_is_idempotent(
    case: tuple[Document | None, Document, Document], on_fork: Any
) -> None:
    """What was merged and pushed is the new base, and there is nothing left to decide."""
    base, local, remote = case
    plan = decide(base, local, remote, on_fork=on_fork)
    assert plan.action in (Action.PUSH, Action.MERGE, Action.PARK)
    if plan.action is Action.PARK:
        assert on_fork == "park"
        assert plan.set_aside[0].kept is None
        return
    result = outcome(plan, local, remote)
    again = reconcile(base_of(remote), Digests.of(result), True, remote_of(remote), on_fork=on_fork)
    assert again.action is Action.PUSH
    assert reconcile(base_of(result), Digests.of(result), False, remote_of(result)).action is Action.NOTHING


@settings(max_examples=500)
@given(cases())
def test_what_only_one_side_changed_is_that_sides(case: tuple[Document | None, Document, Document]) -> None:
    base, local, remote = case
    if base is None:
        base = Document()
        base_ = None
    else:
        base_ = base
    plan = decide(base_, local, remote, on_fork="local")
    result = outcome(plan, local, remote)
    for part in ("state", "lua_state"):
        before, here, there, now = (getattr(one, part) for one in (base, local, remote, result))
        for key in {*before, *here, *there}:
            values = [one.get(key) for one in (before, here, there, now)]
            if values[1] == values[0] and base_ is not None:
                assert values[3] == values[2]
            elif values[2] == values[0]:
                assert values[3] == values[1]
            else:
                assert values[3] in values[1:3]
    results = [one.result for one in result.log]
    assert results in ([one.result for one in local.log], [one.result for one in remote.log])  # never interleaved


@settings(max_examples=500)
@given(cases())
def test_nothing_is_lost(case: tuple[Document | None, Document, Document]) -> None:
    """Each value that a side changed is in the result or set aside; a log that loses entries to no others is too."""
    base, local, remote = case
    plan = decide(base, local, remote, on_fork="local")
    result = outcome(plan, local, remote)
    aside = {(one.part, one.key) for one in plan.set_aside}
    for part in ("state", "lua_state"):
        before: dict[str, Any] = {} if base is None else getattr(base, part)
        for side in (local, remote):
            for key, value in getattr(side, part).items():
                if value != before.get(key) and getattr(result, part).get(key) != value:
                    assert (part, key) in aside
    if base is not None:
        for side, other in ((local, remote), (remote, local)):
            changed = side.status is not None and side.status_unit != base.status_unit
            stalled = side is remote and side.status == "STALLED"
            if changed and result.status_unit != side.status_unit and not stalled and other.status is not None:
                assert ("status", None) in aside
    kept, seen = Digests.of(result).log, () if base is None else Digests.of(base).log
    for side in (local, remote):
        for position, mark in enumerate(Digests.of(side).log):
            if mark not in (*kept, *seen) and position >= len(kept):
                assert "execution_log" in {part for part, _ in aside}


@settings(max_examples=300)
@given(cases(), cases())
def test_keys_of_the_state_do_not_depend_on_each_other(
    case: tuple[Document | None, Document, Document], unrelated: tuple[Document | None, Document, Document]
) -> None:
    """Merging two sets of keys together is merging each by itself."""
    base, local, remote = case

    def prefixed(document: Document, extra: Document) -> Document:
        more = {key_text("other " + key): value for key, value in extra.state.items()}
        return dataclasses.replace(document, state={**document.state, **more})

    without = outcome(decide(base, local, remote, on_fork="local"), local, remote)
    both = [
        None if base is None else prefixed(base, unrelated[0] or Document()),
        prefixed(local, unrelated[1]),
        prefixed(remote, unrelated[2]),
    ]
    assert both[1] is not None
    assert both[2] is not None
    result = outcome(decide(both[0], both[1], both[2], on_fork="local"), both[1], both[2])
    assert {key: value for key, value in result.state.items() if "other " not in key} == without.state


@settings(max_examples=300)
@given(cases())
def test_two_stores_that_sync_in_turn_agree(case: tuple[Document | None, Document, Document]) -> None:
    """Here pushes the merge; there, which had pushed the remote document, adopts it."""
    base, local, remote = case
    plan = decide(base, local, remote, on_fork="local")
    result = outcome(plan, local, remote)
    there = reconcile(base_of(remote), Digests.of(remote), False, remote_of(result))
    assert there.action in (Action.NOTHING, Action.ADOPT)
    if there.action is Action.ADOPT:
        assert same(merged(remote, result, there), result)


# --- every row of the table -----------------------------------------------------------------------------------

BASE = Document(log=[entry(0, 1, "r1"), entry(1, 2, "r1")], replay_index=2, state={'"a"': encode(1)}, status="RUNNING")


def with_log(*results: int, run_id: str = "r1", **changes: Any) -> Document:
    log = [entry(position, result, run_id) for position, result in enumerate(results)]
    return dataclasses.replace(BASE, log=log, replay_index=len(log), **changes)


@pytest.mark.parametrize(
    ("local", "remote", "wanted"),
    [
        (with_log(1, 2, 3), BASE, "local"),
        (BASE, with_log(1, 2, 3), "remote"),
        (with_log(1, 2, 3), with_log(1, 2, 3, 4), "remote"),
        (with_log(1, 2, 3, 4), with_log(1, 2, 3), "local"),
        (with_log(1, 9), BASE, "local"),
        (with_log(1, 9), with_log(1, 9, 3), "remote"),
        (with_log(1), BASE, "local"),
        (with_log(), BASE, "local"),
        (with_log(1, 2, 3), with_log(), "remote"),  # a reset
        (with_log(1, 2, 3), with_log(1, status="PENDING"), "remote"),  # a partial one
        (with_log(1, 2, 3), with_log(1), "fork"),  # went on here, cleared there
        (with_log(1, 2, 3), with_log(1, 2, 4), "fork"),
        (with_log(1, 3), with_log(1, 4), "fork"),
        (with_log(1, 2, 3), with_log(5, 6, run_id="r2"), "fork"),
        (with_log(), with_log(1, 2, 3), "fork"),  # cleared here, went on there
        (with_log(1), with_log(1, 2, 3), "fork"),
    ],
)
def test_the_log(local: Document, remote: Document, wanted: str) -> None:
    plan = decide(BASE, dataclasses.replace(local, state={'"a"': encode(2)}), remote)
    if wanted == "fork":
        assert plan.action is Action.PARK
        for on_fork in ("local", "remote"):
            plan = decide(BASE, local, remote, on_fork=on_fork)
            assert plan.take_log == (on_fork == "remote")
            assert plan.set_aside[0].kept == on_fork
        return
    assert plan.action in (Action.MERGE, Action.PUSH)
    assert plan.take_log == (wanted == "remote")


@pytest.mark.parametrize(
    ("here", "there", "log", "wanted"),
    [
        ("RUNNING", "COMPLETE", BASE, "COMPLETE"),
        ("COMPLETE", "RUNNING", BASE, "COMPLETE"),
        ("RUNNING", "STALLED", BASE, "RUNNING"),  # its state went on
        ("RUNNING", "STALLED", with_log(1, 2, 3), "RUNNING"),
        ("WAITING_FOR_HUMAN", "STALLED", with_log(1, 2, 3), "WAITING_FOR_HUMAN"),
        ("WAITING_FOR_HUMAN", "STALLED", BASE, "WAITING_FOR_HUMAN"),
        ("WAITING_FOR_HUMAN", "PENDING", BASE, "WAITING_FOR_HUMAN"),
        ("WAITING_FOR_HUMAN", "COMPLETE", with_log(1, 2, 3), "COMPLETE"),
        ("FAILED", "PENDING", BASE, "FAILED"),
        ("FAILED", "COMPLETE", BASE, "FAILED"),
        ("RUNNING", "CANCELLED", with_log(1, 2, 3), "CANCELLED"),
        ("WAITING_FOR_HUMAN", "CANCELLED", with_log(1, 2, 3), "CANCELLED"),
        ("COMPLETE", "CANCELLED", with_log(1, 2, 3), "CANCELLED"),
        ("COMPLETE", "CANCELLED", with_log(1, 2, run_id="r2"), "COMPLETE"),
        ("CANCELLED", "COMPLETE", BASE, "CANCELLED"),
        (None, "FAILED", with_log(1, 2, 3), "FAILED"),
        (None, "STALLED", with_log(1, 2, 3), "RUNNING"),
    ],
)
def test_the_status(here: str | None, there: str, log: Document, wanted: str) -> None:
    local = dataclasses.replace(log, status=here, state={'"a"': encode(2)})
    remote = dataclasses.replace(BASE, status=there)
    assert outcome(decide(BASE, local, remote), local, remote).status == wanted


def test_a_run_that_did_not_go_on_is_stalled() -> None:
    local, remote = dataclasses.replace(BASE, replay_index=1), dataclasses.replace(BASE, status="STALLED")
    assert outcome(decide(BASE, local, remote), local, remote).status == "STALLED"


def test_a_resets_status_goes_with_the_reset() -> None:
    local = with_log(1, 2, 3, status="COMPLETE")
    remote = with_log(status="PENDING")
    plan = decide(BASE, local, remote)
    assert outcome(plan, local, remote).status_unit == ("PENDING", None)
    assert {one.part for one in plan.set_aside} == {"execution_log", "status"}


def test_what_is_not_there() -> None:
    digests = Digests.of(BASE)
    for base, created, action in itertools.product([None, base_of(BASE)], [False, True], [None]):
        plan = reconcile(base, digests, True, action, created_here=created)
        assert plan.action is (Action.CREATE if base is None and created else Action.PARK)
        assert plan.reason or plan.action is Action.CREATE


def test_metadata_that_was_removed_or_is_none_is_parked() -> None:
    removed = Remote("2026-01-02T00:00:00.000Z", "RUNNING", None, Envelope(absent=True))
    assert reconcile(base_of(BASE), Digests.of(BASE), True, removed).action is Action.PARK
    assert reconcile(None, Digests.of(BASE), True, removed).action is Action.PUSH
    broken = Remote("2026-01-02T00:00:00.000Z", "RUNNING", None, Envelope(problem="not JSON"))
    assert reconcile(None, Digests.of(BASE), True, broken) == Plan(Action.PARK, "not JSON")
