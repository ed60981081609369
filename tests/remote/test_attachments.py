"""Records whose parts are kept in S3, as Plexus writes them and as we do."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, eventually, parked_reason, remote_results, remote_state

from plexus_tactus_cache import ProcedureCache
from plexus_tactus_cache.testing.simulator import Simulator
from remote.s3server import Bucket, S3Server

PARTS = ("checkpoints", "state", "lua_state")


@pytest.fixture
def shipped(plexus: Simulator, bucket: Bucket) -> None:
    """A record as Plexus writes it today: four pointers, fixed keys."""
    checkpoints = {
        name: {
            "name": name,
            "result": {"n": number},
            "completed_at": f"2026-01-0{number}T00:00:00+00:00",
            "run_id": "r",
        }
        for number, name in enumerate(("first", "second"), start=1)
    }
    write_shipped(plexus, bucket, checkpoints=checkpoints, state={"k": 1, "deep": {"a": [1, 2]}}, lua_state={"l": "x"})


def write_shipped(plexus: Simulator, bucket: Bucket, **parts: Any) -> None:
    """The objects first, then the record (plexus-facts.md §6)."""
    metadata = (plexus.record("p") or {}).get("metadata") or {"replay_index": 2, "scorecard_name": "s"}
    for name, part in parts.items():
        bucket.write(f"procedures/p/{name}.json", json.dumps(part).encode())
        metadata[name] = {"_s3_key": f"procedures/p/{name}.json"}
    bucket.write("reportblocks/procedures/p/dashboard_state.json", b'{"old": "view"}')
    metadata["dashboard_state"] = {"_s3_key": "reportblocks/procedures/p/dashboard_state.json"}
    plexus.put("p", metadata=metadata)


def followed(plexus: Simulator, bucket: Bucket, procedure_id: str = "p") -> dict[str, Any]:
    """The metadata as Plexus's adapter and dashboard see it: pointers followed."""
    metadata = (plexus.record(procedure_id) or {})["metadata"]
    found = {}
    for name, part in metadata.items():
        if isinstance(part, dict) and "_s3_key" in part:
            assert part["_s3_key"].startswith(("procedures/", "reportblocks/"))
            part = json.loads(bucket.read(part["_s3_key"]))
        found[name] = part
    return found


def results(cache: ProcedureCache) -> list[Any]:
    return [entry.result for entry in cache.storage("p").load_procedure_metadata("p").execution_log]


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("policy", ["auto", "always"])
def test_a_record_of_pointers(
    plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache, policy: str
) -> None:
    before = bucket.all_keys()
    cache = open_cache(background=False, attachments=policy)
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    assert [(entry.result, entry.run_id) for entry in live.execution_log] == [({"n": 1}, "r"), ({"n": 2}, "r")]
    assert (live.state, live.lua_state, live.replay_index) == ({"k": 1, "deep": {"a": [1, 2]}}, {"l": "x"}, 2)
    append(storage, (3, b"x"), run_id="r")
    storage.state_set("p", "new", 1.0)
    assert cache.flush(10)
    found = followed(plexus, bucket)
    assert [found["checkpoints"][name]["result"] for name in ("first", "second")] == [{"n": 1}, {"n": 2}]
    assert len(found["checkpoints"]) == 3
    assert found["state"] == {"k": 1, "deep": {"a": [1, 2]}, "new": 1}
    assert (found["lua_state"], found["scorecard_name"]) == ({"l": "x"}, "s")
    assert "old" not in found["dashboard_state"]
    assert found["dashboard_state"]["k"] == 1
    assert ("_s3_key" in (plexus.record("p") or {})["metadata"]["state"]) == (policy == "always")
    assert before <= bucket.all_keys()  # what is not ours stays
    other = open_cache("other", background=False, attachments=policy)
    theirs = other.storage("p").load_procedure_metadata("p")
    assert theirs.state == storage.get_state("p")
    assert [entry.result for entry in theirs.execution_log] == [{"n": 1}, {"n": 2}, (3, b"x")]


@pytest.mark.usefixtures("shipped")
def test_an_object_overwritten_under_its_fixed_key_is_noticed(
    plexus: Simulator, bucket: Bucket, open_cache: OpenCache
) -> None:
    cache = open_cache(background=False)
    assert cache.storage("p").get_state("p")["k"] == 1
    write_shipped(plexus, bucket, state={"k": 2})
    cache.pull("p")
    assert cache.storage("p").get_state("p") == {"k": 2}
    assert len(results(cache)) == 2


@pytest.mark.usefixtures("shipped")
def test_what_is_unchanged_is_not_fetched_again(
    plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache
) -> None:
    cache = open_cache(background=False, attachments="always")
    storage = cache.storage("p")
    storage.state_set("p", "k", 5)
    assert cache.flush(10)
    s3.requests.clear()
    cache.storage("p").load_procedure_metadata("p")
    plexus.put("p", name="renamed")
    storage.state_set("p", "k", 6)
    assert cache.flush(10)
    assert [method for method, *_ in s3.requests if method == "GET"] == []
    assert sum("state-" in path and "lua" not in path and "dash" not in path for method, path, _ in s3.requests) == 1
    assert followed(plexus, bucket)["state"]["k"] == 6


@pytest.mark.usefixtures("shipped")
def test_parts_that_others_changed_are_merged(plexus: Simulator, bucket: Bucket, open_cache: OpenCache) -> None:
    ours, theirs = open_cache("ours", background=False, attachments="always"), open_cache("theirs", background=False)
    here, there = ours.storage("p"), theirs.storage("p")
    here.load_procedure_metadata("p")
    append(there, "theirs", run_id="r")
    there.state_set("p", "there", {1, 2})
    assert theirs.flush(10)
    here.state_set("p", "here", 1)
    assert ours.flush(10)
    theirs.pull("p")
    for cache in (ours, theirs):
        live = cache.storage("p").load_procedure_metadata("p")
        assert live.state == {"k": 1, "deep": {"a": [1, 2]}, "there": {1, 2}, "here": 1}
        assert live.execution_log[-1].result == "theirs"
    assert ours.conflicts() == theirs.conflicts() == []


@pytest.mark.parametrize("fault", ["missing", "down", "denied", "garbage", "list"])
@pytest.mark.usefixtures("shipped")
def test_a_part_that_cannot_be_read_is_not_empty(
    plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache, fault: str
) -> None:
    before = plexus.record("p")
    if fault == "missing":
        bucket.delete("procedures/p/state.json")
    elif fault in ("garbage", "list"):
        bucket.write("procedures/p/state.json", b"<html>" if fault == "garbage" else b"[]")
    else:
        s3.down() if fault == "down" else s3.deny()
    plexus.put("fine")
    cache = open_cache()
    storage = cache.storage("p")
    storage.state_set("p", "k", "written while it could not be read")
    cache.storage("fine").state_set("fine", "k", 1)
    eventually(lambda: remote_state(plexus, "fine") == {"k": 1})
    eventually(lambda: parked_reason(cache, "p") is not None if fault != "down" else cache.procedures()[1].last_error)
    if fault == "down":
        assert "S3 is out of reach" in (cache.procedures()[1].last_error or "")
        assert parked_reason(cache, "p") is None
    else:
        assert "S3" in (parked_reason(cache, "p") or "")
    assert plexus.record("p") == before
    s3.heal()
    bucket.write("procedures/p/state.json", b'{"k": 1, "theirs": 2}')
    if fault != "down":
        cache.retry("p")
    assert cache.flush(15)
    assert followed(plexus, bucket)["state"] == {"k": "written while it could not be read", "theirs": 2}
    assert [one.remote for one in cache.conflicts()] == [1]


@pytest.mark.usefixtures("shipped")
def test_the_local_copy_serves_while_s3_is_away(plexus: Simulator, s3: S3Server, open_cache: OpenCache) -> None:
    cache = open_cache()
    cache.storage("p").load_procedure_metadata("p")
    s3.down()
    storage = cache.storage("p")
    assert storage.state_get("p", "k") == 1
    append(storage, "more", run_id="r")
    assert len(results(cache)) == 3


def large(size: int = 500_000) -> dict[str, Any]:
    return {"text": "x" * size, "exact": (1.0, b"bytes")}


def test_auto_moves_the_largest_parts_and_the_state_last(
    plexus: Simulator, bucket: Bucket, open_cache: OpenCache
) -> None:
    plexus.put("p")
    cache = open_cache(background=False)
    storage = cache.storage("p")
    storage.state_set("p", "k", "s" * 200_000)
    append(storage, "r" * 150_000)
    assert cache.flush(10)
    metadata = (plexus.record("p") or {})["metadata"]
    assert "_s3_key" in metadata["checkpoints"]
    assert metadata["state"]["k"] == "s" * 200_000
    storage.state_set("p", "k", large())
    assert cache.flush(10)
    assert "_s3_key" in (plexus.record("p") or {})["metadata"]["state"]
    storage.state_set("p", "k", "small")
    assert cache.flush(10)
    assert (plexus.record("p") or {})["metadata"]["state"] == {"k": "small"}
    other = open_cache("other", background=False)
    assert other.storage("p").load_procedure_metadata("p").execution_log[0].result == "r" * 150_000


def test_a_part_too_deep_for_the_record(plexus: Simulator, bucket: Bucket, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(background=False)
    deep: Any = 1.0
    for _ in range(60):
        deep = [deep]
    cache.storage("p").state_set("p", "deep", deep)
    assert cache.flush(10), parked_reason(cache, "p")
    other = open_cache("other", background=False)
    assert other.storage("p").state_get("p", "deep") == deep


def test_twelve_megabytes_and_500_checkpoints(plexus: Simulator, s3: S3Server, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(request_timeout=30)
    storage = cache.storage("p")
    state = {f"k{number}": {"text": chr(97 + number) * 1_000_000, "n": float(number)} for number in range(12)}
    for key, value in state.items():
        storage.state_set("p", key, value)
    live = storage.load_procedure_metadata("p")
    for number in range(500):
        append(storage, {"number": number, "exact": (number, 1.0)})
    assert cache.flush(60), parked_reason(cache, "p")
    other = open_cache("other", background=False, load_timeout=30)
    theirs = other.storage("p").load_procedure_metadata("p")
    assert theirs.state == state
    assert theirs.model_dump() == live.model_dump()


def test_without_s3_what_is_too_large_is_parked_with_the_way_out(plexus: Simulator, open_cache: OpenCache) -> None:
    for procedure_id in ("p", "q"):
        plexus.put(procedure_id)
    cache = open_cache()
    cache.storage("p").state_set("p", "k", large())
    cache.storage("q").state_set("q", "k", 1)
    eventually(lambda: cache.status().parked == 1)
    reason = parked_reason(cache, "p") or ""
    assert "500," in reason
    assert "credentials" in reason
    eventually(lambda: remote_state(plexus, "q") == {"k": 1})
    assert remote_state(plexus, "p") == {}
    assert cache.storage("p").state_get("p", "k") == large()


def test_never(plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(background=False, attachments="never")
    cache.storage("p").state_set("p", "k", large())
    assert cache.sync(10).parked == ("p",)
    reason = parked_reason(cache, "p") or ""
    assert "state 500," in reason
    assert "attachments=auto" in reason
    assert bucket.all_keys() == set()
    cache.close()
    again = open_cache(background=False)
    again.retry("p")
    assert again.flush(10)
    assert followed(plexus, bucket)["state"]["k"]["text"] == "x" * 500_000


def test_a_record_with_less_room_than_we_thought(plexus: Simulator, s3: S3Server, open_cache: OpenCache) -> None:
    """The record has fields that we do not see; its refusal makes more leave it."""
    plexus.put("p", code="c" * 250_000)
    cache = open_cache(background=False)
    storage = cache.storage("p")
    storage.state_set("p", "k", "s" * 200_000)
    assert cache.flush(10), parked_reason(cache, "p")
    assert "_s3_key" in (plexus.record("p") or {})["metadata"]["state"]
    storage.state_set("p", "k", "t" * 200_000)
    plexus.reset_counters()
    assert cache.flush(10)
    assert plexus.requests == 1  # that was remembered


def test_s3_is_away_while_plexus_is_there(
    plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache
) -> None:
    for procedure_id in ("p", "q"):
        plexus.put(procedure_id)
    cache = open_cache()
    s3.down()
    cache.storage("p").state_set("p", "k", large())
    cache.storage("q").state_set("q", "k", 1)
    eventually(lambda: remote_state(plexus, "q") == {"k": 1})
    eventually(lambda: cache.procedures()[0].last_error)
    status = cache.procedures()[0]
    assert "500," in (status.last_error or "")
    assert "S3 is out of reach" in (status.last_error or "")
    assert (status.parked_reason, status.next_attempt is not None) == (None, True)
    eventually(lambda: cache.status().connection == "online")
    s3.heal()
    eventually(lambda: cache.status().dirty == 0)
    assert followed(plexus, bucket)["state"]["k"]["text"] == "x" * 500_000


def test_plexus_is_away_while_s3_is_there(
    plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache
) -> None:
    """An upload whose record did not follow is used again; nothing piles up."""
    plexus.put("p")
    cache = open_cache(background=False)
    storage = cache.storage("p")
    storage.state_set("p", "small", 1)
    assert cache.flush(10)
    plexus.fail("status", code=503, only="mutation")
    storage.state_set("p", "k", large())
    for _ in range(3):
        cache.sync(5)
    assert remote_state(plexus, "p") == {"small": 1}
    assert len([key for key in bucket.all_keys() if "/state-" in key]) == 1
    plexus.heal()
    assert cache.flush(10)
    assert len([key for key in bucket.all_keys() if "/state-" in key]) == 1
    assert followed(plexus, bucket)["state"]["k"]["text"] == "x" * 500_000


def test_a_crash_between_upload_and_record(
    plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache
) -> None:
    """The old record is whole, and the next process goes on."""
    plexus.put("p")
    cache = open_cache(background=False, attachments="always", attachments_retention=0)
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    assert cache.flush(10)
    plexus.fail("drop_before", times=1, only="mutation")
    storage.state_set("p", "k", 2)
    cache.sync(5)
    cache.close(timeout=0)
    assert followed(plexus, bucket)["state"] == {"k": 1}
    again = open_cache(background=False, attachments="always", attachments_retention=0)
    again.storage("p").state_set("p", "k", 3)
    assert again.flush(10)
    assert again.sync(5).errors == ()
    assert followed(plexus, bucket)["state"] == {"k": 3}
    assert len([key for key in bucket.all_keys() if "/state-" in key]) == 1  # and what nothing refers to is gone


def test_a_slow_upload_while_the_document_changes(
    plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache
) -> None:
    plexus.put("p")
    cache = open_cache(attachments="always", request_timeout=20)
    storage = cache.storage("p")
    s3.slow()
    storage.state_set("p", "k", 1)
    eventually(lambda: any(method == "PUT" and "procedures" in path for method, path, _ in s3.requests))
    storage.state_set("p", "k", 2)
    append(storage, "meanwhile")
    s3.heal()
    assert cache.flush(15)
    assert followed(plexus, bucket)["state"] == {"k": 2}


def test_superseded_objects_are_deleted_later_and_only_ours(
    plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache
) -> None:
    plexus.put("p")
    bucket.write("procedures/p/state.json", b"{}")
    cache = open_cache(background=False, attachments="always")
    storage = cache.storage("p")
    for value in range(3):
        storage.state_set("p", "k", value)
        assert cache.flush(10)
    states = {key for key in bucket.all_keys() if "/state-" in key}
    assert len(states) == 3  # kept for days
    cache.close()
    plexus.put("p", name="held", description=None)
    metadata = (plexus.record("p") or {})["metadata"]
    held = sorted(states - {metadata["state"]["_s3_key"]})[0]
    plexus.put("p", metadata=metadata | {"somebody_refers_to": {"_s3_key": held}})
    again = open_cache(background=False, attachments="always", attachments_retention=0)
    again.storage("p").state_set("p", "k", 9)
    assert again.flush(10)
    again.sync(5)
    left = {key for key in bucket.all_keys() if "/state-" in key}
    # those of before have days left; the one that was superseded just now has none
    assert held in left
    assert metadata["state"]["_s3_key"] not in left
    assert "procedures/p/state.json" in bucket.all_keys()


def test_a_lost_answer_with_attachments(plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(background=False, attachments="always")
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    assert cache.flush(10)
    append(storage, (1, 2))
    plexus.fail("drop_after", times=1, only="mutation")
    cache.sync(5)
    storage.state_set("p", "k", 2)
    s3.requests.clear()
    assert cache.flush(10)
    assert [method for method, *_ in s3.requests if method == "GET"] == []
    assert cache.conflicts() == []
    assert followed(plexus, bucket)["state"] == {"k": 2}
    assert results(cache) == [(1, 2)]


def test_the_dashboards_view(plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(background=False)
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    assert cache.flush(10)
    assert "dashboard_state" not in (plexus.record("p") or {})["metadata"]
    storage.state_set("p", "iterations", [{"iteration": 1, "accepted": True, "internal": "x" * 400_000}])
    storage.state_set("p", "known_contradictions", ["y"])
    assert cache.flush(10)
    assert followed(plexus, bucket)["dashboard_state"] == {"k": 1, "iterations": [{"iteration": 1, "accepted": True}]}
    cache.close()
    own = ProcedureCache(
        cache._client, cache.directory, cache.settings, dashboard_state=lambda state: {"mine": state["k"]}
    )
    with own:
        own.storage("p").state_set("p", "k", 2)
        assert own.flush(10), (own.procedures(), own.status())
    assert followed(plexus, bucket)["dashboard_state"] == {"mine": 2}


def test_many_threads_upload_at_once(plexus: Simulator, s3: S3Server, bucket: Bucket, open_cache: OpenCache) -> None:
    ids = [f"p{number}" for number in range(5)]
    for procedure_id in ids:
        plexus.put(procedure_id)
    caches = [open_cache(name, background=False, attachments="always") for name in ("one", "two")]

    def work(cache: ProcedureCache, key: str) -> None:
        for procedure_id in ids:
            cache.storage(procedure_id).state_set(procedure_id, key, procedure_id)
        assert cache.flush(20)

    threads = [threading.Thread(target=work, args=(cache, f"k{n}")) for n, cache in enumerate(caches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for procedure_id in ids:
        assert followed(plexus, bucket, procedure_id)["state"] == {"k0": procedure_id, "k1": procedure_id}
    assert remote_results(plexus, "p0") == []


def test_exact_values_inline_while_their_bookkeeping_is_in_s3(
    plexus: Simulator, bucket: Bucket, open_cache: OpenCache
) -> None:
    """The bookkeeping leaves the record first; what stays inline still comes back exactly."""
    plexus.put("p")
    cache = open_cache(background=False, max_inline_bytes=10_000)
    storage = cache.storage("p")
    exact = {"tuple": (1, 2.0), "bytes": b"x", 7: "key"}
    storage.state_set("p", "exact", exact)
    live = storage.load_procedure_metadata("p")
    live.state["many"] = [(number, 1.0) for number in range(300)]
    storage.save_procedure_metadata("p", live)
    assert cache.flush(10)
    metadata = (plexus.record("p") or {})["metadata"]
    assert "_s3_key" in metadata["cache"]["book"]
    assert "exact" in metadata["state"]
    other = open_cache("other", background=False)
    there = other.storage("p")
    assert there.get_state("p") == live.state
    plexus.put("p", name="renamed", metadata=metadata | {"state": metadata["state"] | {"theirs": 1}})
    for one in (cache, other):
        one.pull("p")
        assert one.storage("p").get_state("p") == {**live.state, "theirs": 1}
        assert one.storage("p").state_get("p", "exact") == exact


@pytest.mark.parametrize("why", ["denied", "no access"])
def test_what_cannot_be_deleted_is_tried_again_later_and_not_all_the_time(
    plexus: Simulator, s3: S3Server, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    plexus.put("p")
    cache = open_cache(background=False, attachments="always", attachments_retention=1)
    for value in range(2):
        cache.storage("p").state_set("p", "k", value)
        assert cache.flush(10)
    if why == "denied":
        s3.deny()
    else:
        cache.close()
        monkeypatch.setattr("plexus_tactus_cache.cache.s3_or_none", lambda *_: None)
        cache = open_cache(background=False)
    eventually(lambda: cache.sync(5) and (cache.status().next_attempt or 0) > time.time() + 1000)
