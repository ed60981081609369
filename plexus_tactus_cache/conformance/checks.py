"""The checks. Each opens the backend on a directory, as often as it needs, and says what must hold."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tactus.protocols.cost import CostStats, UsageStats
from tactus.protocols.models import CheckpointEntry, HITLResponse, ProcedureMetadata
from tactus.protocols.result import TactusResult

from plexus_tactus_cache.conformance import runs
from plexus_tactus_cache.conformance.harness import Check, NotConforming, Open, expect

CHECKS: list[Check] = []
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
Body = Callable[[Open], None]


def check(group: str, name: str) -> Callable[[Body], Body]:
    """Register a check."""

    def register(body: Body) -> Body:
        CHECKS.append(Check(group, name, body))
        return body

    return register


def entry(position: int, result: Any, **fields: Any) -> Any:
    return CheckpointEntry(
        position=position, type="explicit_checkpoint", result=result, timestamp=NOW, run_id="run", **fields
    )


def append(backend: Any, result: Any, procedure_id: str = "p") -> None:
    """What a runtime does for one checkpoint."""
    metadata = backend.load_procedure_metadata(procedure_id)
    metadata.execution_log.append(entry(len(metadata.execution_log), result))
    metadata.replay_index = len(metadata.execution_log)
    backend.save_procedure_metadata(procedure_id, metadata)


def results(backend: Any, procedure_id: str = "p") -> list[Any]:
    return [found.result for found in backend.load_procedure_metadata(procedure_id).execution_log]


# --- protocol ---------------------------------------------------------------------------------------------


@check("protocol", "an unknown procedure loads empty")
def _(open_: Open) -> None:
    with open_() as backend:
        found = backend.load_procedure_metadata("p")
        expect(list(found.execution_log), [], "the log")
        expect((found.state, found.lua_state), ({}, {}), "the state")
        expect((found.replay_index, found.waiting_on_message_id), (0, None), "the rest")


@check("protocol", "state_set, get_state and set_state")
def _(open_: Open) -> None:
    with open_() as backend:
        backend.state_set("p", "a", 1)
        backend.state_set("p", "b", [2])
        expect(backend.get_state("p"), {"a": 1, "b": [2]}, "after state_set")
        backend.set_state("p", {"c": 3})
        expect(backend.get_state("p"), {"c": 3}, "after set_state")


@check("protocol", "the status, and the message that it waits for")
def _(open_: Open) -> None:
    with open_() as backend:
        backend.update_procedure_status("p", "WAITING_FOR_HUMAN", "message-1")
        backend.update_procedure_status("q", "COMPLETED")
        for name, wanted in (("p", ("WAITING_FOR_HUMAN", "message-1")), ("q", ("COMPLETED", None))):
            found = backend.load_procedure_metadata(name)
            expect((found.status, found.waiting_on_message_id), wanted, name)


@check("protocol", "an object that the caller built replaces the document")
def _(open_: Open) -> None:
    with open_() as backend:
        append(backend, 1)
        backend.state_set("p", "old", 1)
        backend.save_procedure_metadata("p", ProcedureMetadata(procedure_id="p", state={"new": 2}))
        expect((results(backend), backend.get_state("p")), ([], {"new": 2}), "the document")


# --- durability -------------------------------------------------------------------------------------------


@check("durability", "everything is there for the next process")
def _(open_: Open) -> None:
    with open_() as backend:
        metadata = backend.load_procedure_metadata("p")
        metadata.execution_log.append(entry(0, {"a": [1]}, duration_ms=1.5, captured_vars={"x": 1}))
        metadata.state["k"] = {"n": 1}
        metadata.lua_state["l"] = 2
        metadata.replay_index = 1
        backend.save_procedure_metadata("p", metadata)
        backend.state_set("p", "set", True)
        backend.update_procedure_status("p", "COMPLETED")
    with open_() as backend:
        found = backend.load_procedure_metadata("p")
        expect(results(backend), [{"a": [1]}], "the log")
        first = found.execution_log[0]
        expect(
            (first.timestamp, first.duration_ms, first.run_id, first.captured_vars),
            (NOW, 1.5, "run", {"x": 1}),
            "an entry",
        )
        expect(found.state, {"k": {"n": 1}, "set": True}, "the state")
        expect((found.lua_state, found.replay_index, found.status), ({"l": 2}, 1, "COMPLETED"), "the rest")


@check("durability", "handles of asynchronous procedures")
def _(open_: Open) -> None:
    with open_() as backend:
        metadata = backend.load_procedure_metadata("p")
        metadata.__dict__["async_procedures"] = {"h": {"status": "running"}}
        backend.save_procedure_metadata("p", metadata)
    with open_() as backend:
        found = backend.load_procedure_metadata("p").__dict__.get("async_procedures")
        expect(found, {"h": {"status": "running"}}, "the handles")


@check("durability", "entries replaced in place, and a log cut short")
def _(open_: Open) -> None:
    with open_() as backend:
        for number in range(4):
            append(backend, number)
        metadata = backend.load_procedure_metadata("p")
        metadata.execution_log[1] = entry(1, "replaced")
        backend.save_procedure_metadata("p", metadata)
        metadata.execution_log = metadata.execution_log[:3]
        backend.save_procedure_metadata("p", metadata)
    with open_() as backend:
        expect(results(backend), [0, "replaced", 2], "the log")


# --- the live object --------------------------------------------------------------------------------------


@check("live object", "state_set shows in the object that the runtime holds, and its next save keeps it")
def _(open_: Open) -> None:
    with open_() as backend:
        metadata = backend.load_procedure_metadata("p")
        backend.state_set("p", "k", 1)
        expect(metadata.state.get("k"), 1, "the object's state")
        metadata.execution_log.append(entry(0, 1))
        backend.save_procedure_metadata("p", metadata)
    with open_() as backend:
        expect(backend.get_state("p"), {"k": 1}, "the state after the save")


@check("live object", "a value changed in place is stored with the next save")
def _(open_: Open) -> None:
    with open_() as backend:
        backend.state_set("p", "k", {"items": [1]})
        metadata = backend.load_procedure_metadata("p")
        metadata.state["k"]["items"].append(2)
        backend.save_procedure_metadata("p", metadata)
    with open_() as backend:
        expect(backend.get_state("p"), {"k": {"items": [1, 2]}}, "the state")


# --- isolation --------------------------------------------------------------------------------------------


@check("isolation", "procedures do not mix, whatever their ids")
def _(open_: Open) -> None:
    ids = ["p", "p/q", "p%2Fq", "../p", "P", "ü", "p ", ".", "p" * 200]
    with open_() as backend:
        for number, procedure_id in enumerate(ids):
            append(backend, number, procedure_id)
            backend.state_set(procedure_id, "n", number)
    with open_() as backend:
        for number, procedure_id in enumerate(ids):
            expect(results(backend, procedure_id), [number], f"the log of {procedure_id[:10]!r}")
            expect(backend.get_state(procedure_id), {"n": number}, f"the state of {procedure_id[:10]!r}")


@check("isolation", "a result changed by its caller after the save stays as it was stored")
def _(open_: Open) -> None:
    with open_() as backend:
        result = {"items": [1]}
        append(backend, result)
        result["items"].append(2)
        append(backend, "next")
    with open_() as backend:
        expect(results(backend), [{"items": [1]}, "next"], "the log")


# --- types ------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "numbers": [1, 1.0, -0.0, True, 2**80, 0.1, float("inf"), float("nan")],
    "text and nothing": ["", "ü\u2028\x00", None],
    "times and bytes": [NOW, NOW.date(), dt.timedelta(1, 2, 3), b"\x00\xff"],
    "containers": [(1, (2,)), {1, 2}, [], {}, {"": {}}],
    "keys that are not text": [{1: "int", "1": "text", 2.5: "float", (1, 2): "tuple"}, {True: 1}, {None: 0}],
    "HITLResponse": [HITLResponse(value={"a": (1, 2.0)}, responded_at=NOW)],
    "TactusResult": [
        TactusResult(output={"a": 1.0}, usage=UsageStats(total_tokens=3), cost_stats=CostStats(total_cost=0.5))
    ],
}


def _types(name: str) -> None:
    @check("types", f"{name}, as they were")
    def _(open_: Open) -> None:
        with open_() as backend:
            for value in VALUES[name]:
                append(backend, value)
        with open_() as backend:
            expect(results(backend), VALUES[name], "the results")


for _name in VALUES:
    _types(_name)


# --- concurrency ------------------------------------------------------------------------------------------


@check("concurrency", "threads that set state do not lose each other's keys")
def _(open_: Open) -> None:
    def work(backend: Any, name: str) -> None:
        for number in range(20):
            backend.state_set("p", f"{name}{number}", number)

    with open_() as backend, ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, backend, name) for name in "abcd"]:
            done.result()
    with open_() as backend:
        expect(len(backend.get_state("p")), 80, "keys")


@check("concurrency", "two openers of one store do not lose each other's keys")
def _(open_: Open) -> None:
    with open_() as one, open_() as other:
        for number, backend in enumerate((one, other, one, other)):
            backend.load_procedure_metadata("p")
            backend.state_set("p", str(number), number)
        append(one, "a result")
    with open_() as backend:
        expect(backend.get_state("p"), {"0": 0, "1": 1, "2": 2, "3": 3}, "the state")
        expect(results(backend), ["a result"], "the log")


@check("concurrency", "of two openers that append to one log, one is told")
def _(open_: Open) -> None:
    with open_() as one, open_() as other:
        append(one, "first")
        held = other.load_procedure_metadata("p")
        append(one, "one's second")
        held.execution_log.append(entry(1, "other's second"))
        try:
            other.save_procedure_metadata("p", held)
        except Exception:  # noqa: BLE001  # any error tells it
            return
    raise NotConforming("the second writer overwrote the first, and neither was told")


# --- errors -----------------------------------------------------------------------------------------------


@check("errors", "a result that cannot be stored is refused, and what is stored stays")
def _(open_: Open) -> None:
    with open_() as backend:
        append(backend, "good")
        try:
            append(backend, {"bad": object()})
            accepted = True
        except Exception:  # noqa: BLE001  # which one is the backend's affair
            accepted = False
        if accepted:
            raise NotConforming("it was accepted")
    with open_() as backend:
        expect(results(backend), ["good"], "the log")


# --- replay, with Tactus's runtime and ours ---------------------------------------------------------------


@check("replay", "Tactus's runtime, in one process: a finished run replays")
def _(open_: Open) -> None:
    with open_() as backend:
        first = runs.execute(backend, runs.FIELDS, durable=False)
        expect(runs.execute(backend, runs.FIELDS, durable=False), first, "the result")


@check("replay", "Tactus's runtime, in the next process: a finished run replays")
def _(open_: Open) -> None:
    with open_() as backend:
        first = runs.execute(backend, runs.FIELDS, durable=False)
    with open_() as backend:
        expect(runs.execute(backend, runs.FIELDS, durable=False), first, "the result")


@check("replay", "DurableRuntime: Lua tables are tables again")
def _(open_: Open) -> None:
    with open_() as backend:
        first = runs.execute(backend, runs.TABLES)
    with open_() as backend:
        expect(runs.execute(backend, runs.TABLES), first, "the result")


@check("replay", "DurableRuntime: State counts once")
def _(open_: Open) -> None:
    with open_() as backend:
        first = runs.execute(backend, runs.COUNT)
        expect((first["count"], first["seen"]), (3, 3), "an uninterrupted run")
    with open_() as backend:
        expect(runs.execute(backend, runs.COUNT), first, "the result")
        expect(backend.get_state("p").get("count"), 3, "the stored state")


@check("replay", "DurableRuntime: a question asked before is one entry, with the answer")
def _(open_: Open) -> None:
    with open_() as backend:
        runs.execute(backend, runs.ASK, answer=None)
    with open_() as backend:
        expect(runs.execute(backend, runs.ASK, answer="yes"), {"answer": "yes"}, "the result")
    with open_() as backend:
        found = [one for one in backend.load_procedure_metadata("p").execution_log if one.type.startswith("hitl_")]
        expect(len(found), 1, "entries")
        expect(found[0].result.value, "yes", "the answer")
