"""Pushing: what arrives in Plexus, at what price, and whose keys survive."""

from __future__ import annotations

import time
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, client_of, eventually, parked_reason, remote_results, remote_state

from plexus_tactus_cache.testing.simulator import Simulator

OWNED = {"checkpoints", "state", "lua_state", "replay_index", "cache"}


class Recording:
    """A client that keeps the variables of every request."""

    def __init__(self, plexus: Simulator) -> None:
        self._client = client_of(plexus)
        self.api_url = plexus.url
        self.sent: list[dict[str, Any]] = []

    def execute(self, query: str, variables: dict[str, Any] | None = None, /) -> dict[str, Any]:
        self.sent.append(variables or {})
        return self._client.execute(query, variables)

    @property
    def mutations(self) -> list[dict[str, Any]]:
        return [variables for variables in self.sent if "c0" in variables]


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"runtime": "lua", "last_failure": {"deep": [1, {"x": None}]}},
        {"checkpoints": {}, "state": {}, "lua_state": {}, "replay_index": 0, "scorecard_name": "s"},
    ],
)
def test_first_push(plexus: Simulator, open_cache: OpenCache, metadata: dict[str, Any] | None) -> None:
    plexus.put("p", metadata=metadata)
    cache = open_cache()
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    append(storage, "one")

    assert cache.flush(10)

    found = (plexus.record("p") or {})["metadata"]
    assert (found["state"], remote_results(plexus, "p")) == ({"k": 1}, ["one"])
    foreign = {key: value for key, value in (metadata or {}).items() if key not in OWNED}
    assert {key: value for key, value in found.items() if key not in OWNED} == foreign


def test_a_foreign_key_written_between_our_read_and_our_write_survives(
    plexus: Simulator, open_cache: OpenCache
) -> None:
    plexus.put("p", metadata={"runtime": "lua"})
    cache = open_cache(background=False)
    cache.storage("p").state_set("p", "k", 1)

    def write_between(name: str, args: dict[str, Any]) -> None:
        plexus.before_mutation = None
        plexus.put("p", metadata={"runtime": "lua", "optimizer_artifacts": {"n": 5}})

    plexus.before_mutation = write_between
    assert cache.flush(10)
    found = (plexus.record("p") or {})["metadata"]
    assert (found["runtime"], found["optimizer_artifacts"], found["state"]) == ("lua", {"n": 5}, {"k": 1})


def test_a_status_that_was_never_set_is_never_sent(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", status="PENDING")
    client = Recording(plexus)
    cache = open_cache(client=client, background=False)
    storage = cache.storage("p")
    append(storage, 1)
    assert cache.flush(10)
    assert all("status" not in variables["i0"] for variables in client.mutations)
    assert (plexus.record("p") or {})["status"] == "PENDING"

    storage.update_procedure_status("p", "WAITING_FOR_HUMAN", "m1")
    assert cache.flush(10)
    record = plexus.record("p") or {}
    assert (record["status"], record["waitingOnMessageId"]) == ("WAITING_FOR_HUMAN", "m1")
    storage.update_procedure_status("p", "RUNNING")
    assert cache.flush(10)
    record = plexus.record("p") or {}
    assert (record["status"], record["waitingOnMessageId"]) == ("RUNNING", None)
    assert len(client.mutations) == 3


def test_the_condition_asks_for_absence_where_the_base_has_null(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    client = Recording(plexus)
    cache = open_cache(client=client, background=False)
    cache.storage("p").state_set("p", "k", 1)
    assert cache.flush(10)
    condition = client.mutations[0]["c0"]
    assert condition["status"] == condition["waitingOnMessageId"] == {"attributeExists": False}


def test_an_update_with_a_base_is_one_round_trip(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(background=False)
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    assert cache.flush(10)
    plexus.reset_counters()
    storage.state_set("p", "k", 2)
    assert cache.flush(10)
    assert plexus.requests == 1


def test_many_documents_travel_in_few_requests(plexus: Simulator, open_cache: OpenCache) -> None:
    ids = [f"p{number}" for number in range(30)]
    for procedure_id in ids:
        plexus.put(procedure_id)
    cache = open_cache(background=False)
    for procedure_id in ids:
        cache.storage(procedure_id).state_set(procedure_id, "k", procedure_id)
    plexus.reset_counters()
    report = cache.sync(20)
    assert set(report.pushed) == set(ids)
    assert report.pending == report.parked == report.errors == ()
    assert plexus.requests <= 5
    assert [remote_state(plexus, one) for one in ids] == [{"k": one} for one in ids]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("bad", "reason"),
    [("x" * 420_000, "at most 409,600 bytes"), ("x" * 300_000, "refused"), (deep(40), "nested 42 levels deep")],
    ids=["too large", "too large with what else the record has", "too deep"],
)
def test_a_refused_document_is_parked_and_does_not_stop_others(
    plexus: Simulator, open_cache: OpenCache, bad: Any, reason: str
) -> None:
    for procedure_id in ("a", "b", "c"):
        plexus.put(procedure_id, code="c" * 150_000)
    cache = open_cache(background=False, attachments="never")
    for procedure_id in ("a", "b", "c"):
        cache.storage(procedure_id).state_set(procedure_id, "k", bad if procedure_id == "b" else 1)
    report = cache.sync(20)
    assert set(report.pushed) == {"a", "c"}
    assert report.parked == ("b",)
    assert reason in (parked_reason(cache, "b") or "")
    assert remote_state(plexus, "b") == {}
    assert not cache.flush(5)
    assert (cache.status().parked, cache.status().dirty) == (1, 1)

    cache.storage("b").state_set("b", "k", "small")
    cache.retry("b")
    assert cache.flush(10)
    assert remote_state(plexus, "b") == {"k": "small"}


def test_requests_are_split_by_size(plexus: Simulator, open_cache: OpenCache) -> None:
    ids = [f"p{number}" for number in range(6)]
    for procedure_id in ids:
        plexus.put(procedure_id)
    cache = open_cache(background=False, max_request_bytes=50_000)
    for procedure_id in ids:
        cache.storage(procedure_id).state_set(procedure_id, "k", '"' * 10_000)  # 20 kB as JSON, 40 kB in JSON
    plexus.reset_counters()
    assert set(cache.sync(20).pushed) == set(ids)
    mutations = [entry for entry in plexus.log if entry.fields[0].name == "updateProcedure"]
    assert len(mutations) == 6
    assert plexus.bytes_received / plexus.requests < 60_000

    cache.storage("p0").state_set("p0", "k", "x" * 60_000)
    assert cache.sync(20).parked == ("p0",)
    assert "max_request_bytes" in (parked_reason(cache, "p0") or "")


def test_repeated_writes_coalesce(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(push_interval=0.5)
    storage = cache.storage("p")
    storage.load_procedure_metadata("p")
    plexus.reset_counters()
    for number in range(50):
        storage.state_set("p", "k", number)
    eventually(lambda: remote_state(plexus, "p") == {"k": 49})
    assert plexus.operations["updateProcedure"] <= 2


def test_nothing_to_do_sends_nothing(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache()
    cache.storage("p").state_set("p", "k", 1)
    assert cache.flush(10)
    plexus.reset_counters()
    cache.storage("p").load_procedure_metadata("p")  # a new adapter: the one read that is due
    assert cache.sync(5).errors == ()
    assert cache.flush(5)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        time.sleep(0.02)
    assert plexus.requests == 1
    assert plexus.operations["updateProcedure"] == 0
