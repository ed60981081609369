"""A long log: what it costs to make it longer, and what others find of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, parked_reason

from plexus_tactus_cache import PlexusStorageAdapter, ProcedureCache
from plexus_tactus_cache.envelope.segments import FAN_OUT, SEAL_BYTES, Range, cut
from plexus_tactus_cache.testing.simulator import Simulator, writers
from remote.s3server import Bucket, S3Server


def extend(storage: PlexusStorageAdapter, count: int, size: int = 400) -> None:
    for _ in range(count):
        number = len(storage.load_procedure_metadata("p").execution_log)
        append(storage, {"n": number, "exact": (1.0, b"x"), "text": "x" * size})


def numbers(storage: PlexusStorageAdapter) -> list[int]:
    return [entry.result["n"] for entry in storage.load_procedure_metadata("p").execution_log]


def checkpoints(plexus: Simulator, bucket: Bucket) -> dict[str, Any]:
    """As Plexus's own adapter finds them."""
    part = (plexus.record("p") or {})["metadata"]["checkpoints"]
    found: dict[str, Any] = json.loads(bucket.read(part["_s3_key"])) if "_s3_key" in part else part
    return found


@pytest.fixture
def cache(plexus: Simulator, s3: S3Server, open_cache: OpenCache) -> ProcedureCache:
    plexus.put("p", status="RUNNING", metadata={"runtime": "lua"})
    return open_cache(background=False)


@pytest.fixture
def storage(cache: ProcedureCache) -> PlexusStorageAdapter:
    """With a log that is in segments."""
    storage = cache.storage("p")
    for _ in range(3):
        extend(storage, 70)
        assert cache.flush(10), parked_reason(cache, "p")
    return storage


def test_another_machine_has_it_all(
    plexus: Simulator, storage: PlexusStorageAdapter, cache: ProcedureCache, open_cache: OpenCache
) -> None:
    metadata = (plexus.record("p") or {})["metadata"]
    assert metadata["cache"]["log"]["segments"]
    other = open_cache("other", background=False)
    theirs = other.storage("p").load_procedure_metadata("p")
    assert theirs.model_dump() == storage.load_procedure_metadata("p").model_dump()
    # and it goes on, and so do we
    extend(other.storage("p"), 5)
    assert other.flush(10)
    cache.pull("p")
    extend(storage, 5)
    assert cache.flush(10)
    other.pull("p")
    assert numbers(other.storage("p")) == numbers(storage) == list(range(220))
    assert cache.conflicts() == other.conflicts() == []


def test_another_machine_does_not_upload_it_again(
    s3: S3Server, storage: PlexusStorageAdapter, open_cache: OpenCache
) -> None:
    other = open_cache("other", background=False)
    theirs = other.storage("p")
    theirs.load_procedure_metadata("p")
    s3.requests.clear()
    extend(theirs, 1)
    assert other.flush(10)
    assert s3.uploaded() < 2 * SEAL_BYTES


def test_a_reader_of_the_old_form_finds_all_when_the_procedure_rests(
    plexus: Simulator, bucket: Bucket, storage: PlexusStorageAdapter, cache: ProcedureCache
) -> None:
    found = checkpoints(plexus, bucket)
    assert 0 < len(found) <= 210
    assert found["000000:agent_turn"]["result"]["n"] == 0
    storage.update_procedure_status("p", "WAITING_FOR_HUMAN", "m")
    assert cache.flush(10)
    found = checkpoints(plexus, bucket)
    assert [found[key]["result"]["n"] for key in sorted(found)] == list(range(210))


@pytest.mark.parametrize("clear_state", [True, False])
def test_a_reset_wins_over_the_segments(
    plexus: Simulator, storage: PlexusStorageAdapter, cache: ProcedureCache, open_cache: OpenCache, clear_state: bool
) -> None:
    writers.reset(plexus, "p", clear_state=clear_state)
    cache.pull("p")
    assert numbers(cache.storage("p")) == []
    assert numbers(open_cache("other", background=False).storage("p")) == []
    extend(cache.storage("p"), 1)
    assert cache.flush(10)
    assert "log" not in (plexus.record("p") or {})["metadata"]["cache"]


def shipped_rewrite(plexus: Simulator, bucket: Bucket, keep: int | None = None) -> int:
    """What Plexus's own adapter, or its reset, makes of checkpoints in S3: its own object, with the fields it knows."""
    found = checkpoints(plexus, bucket)
    known = ("name", "result", "completed_at", "run_id")
    kept = {key: {name: found[key][name] for name in known} for key in sorted(found)[:keep]}
    bucket.write("procedures/p/checkpoints.json", json.dumps(kept).encode())
    metadata = (plexus.record("p") or {})["metadata"]
    pointer = {"checkpoints": {"_s3_key": "procedures/p/checkpoints.json"}}
    plexus.put("p", metadata=metadata | pointer, **({} if keep is None else {"status": "PENDING"}))
    return len(kept)


def test_the_shipped_adapters_rewrite_changes_nothing(
    plexus: Simulator, bucket: Bucket, storage: PlexusStorageAdapter, cache: ProcedureCache, open_cache: OpenCache
) -> None:
    before = storage.load_procedure_metadata("p").model_dump()
    assert shipped_rewrite(plexus, bucket) < 210
    cache.pull("p")
    assert cache.storage("p").load_procedure_metadata("p").model_dump() == before
    assert numbers(open_cache("other", background=False).storage("p")) == list(range(210))
    extend(storage, 1)
    assert cache.flush(10)
    assert cache.conflicts() == []


def test_a_partial_reset_of_the_object_wins(
    plexus: Simulator, bucket: Bucket, storage: PlexusStorageAdapter, cache: ProcedureCache
) -> None:
    shipped_rewrite(plexus, bucket, keep=20)
    cache.pull("p")
    assert numbers(cache.storage("p")) == list(range(20))
    (archived,) = cache.conflicts()
    assert [entry.result["n"] for entry in archived.local] == list(range(20, 210))
    cache.resolve(archived.id, "local")
    assert cache.flush(10)
    assert numbers(cache.storage("p")) == list(range(210))
    found = checkpoints(plexus, bucket)
    assert len(found) == 210  # it is not the log that was there before: written anew


def test_an_entry_replaced_in_place(
    storage: PlexusStorageAdapter, cache: ProcedureCache, open_cache: OpenCache, bucket: Bucket, plexus: Simulator
) -> None:
    live = storage.load_procedure_metadata("p")
    live.execution_log[3] = live.execution_log[3].model_copy(update={"result": {"n": -3}})
    storage.save_procedure_metadata("p", live)
    assert cache.flush(10)
    wanted = [-3 if number == 3 else number for number in range(210)]
    assert numbers(open_cache("other", background=False).storage("p")) == wanted
    assert checkpoints(plexus, bucket)["000003:agent_turn"]["result"]["n"] == -3


def test_a_lost_answer(
    plexus: Simulator, s3: S3Server, storage: PlexusStorageAdapter, cache: ProcedureCache, open_cache: OpenCache
) -> None:
    extend(storage, 60)
    plexus.fail("drop_after", times=1, only="mutation")
    cache.sync(5)
    extend(storage, 1)
    s3.requests.clear()
    assert cache.flush(10)
    assert [one for one in s3.requests if one[0] == "GET"] == []
    assert cache.conflicts() == []
    assert numbers(open_cache("other", background=False).storage("p")) == list(range(271))


def test_a_missing_segment_is_not_an_empty_one(
    plexus: Simulator, bucket: Bucket, storage: PlexusStorageAdapter, open_cache: OpenCache
) -> None:
    segments = (plexus.record("p") or {})["metadata"]["cache"]["log"]["segments"]
    bucket.delete(segments[0][0])
    other = open_cache("other", background=False)
    other.storage("p").state_set("p", "k", 1)
    assert not other.flush(10)
    assert "the log is kept in S3" in (parked_reason(other, "p") or "")


def test_what_an_entry_costs_does_not_grow_with_the_log(plexus: Simulator, s3: S3Server, open_cache: OpenCache) -> None:
    costs = {}
    for length in (10, 1000, 10_000):
        plexus.put("p", status="RUNNING", metadata=None)
        cache = open_cache(f"log of {length}", background=False)
        storage = cache.storage("p")
        live = storage.load_procedure_metadata("p")
        one = _entry
        live.execution_log.extend(one(number) for number in range(length))
        live.replay_index = length
        storage.save_procedure_metadata("p", live)
        assert cache.flush(60), parked_reason(cache, "p")
        plexus.reset_counters()
        s3.requests.clear()
        rounds = 40 if length > 10 else 10
        for _ in range(rounds):
            number = len(live.execution_log)
            live.execution_log.append(one(number))
            live.replay_index = number + 1
            storage.save_procedure_metadata("p", live)
            assert cache.flush(20)
        costs[length] = (plexus.bytes_received + s3.uploaded()) / rounds
        cache.close()
        plexus.delete("p")
    assert costs[1000] < 2 * costs[10]
    assert costs[10_000] < 2 * costs[10]


def _entry(number: int) -> Any:
    import datetime as dt

    from plexus_tactus_cache import CheckpointEntry

    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=number)
    return CheckpointEntry(position=number, type="agent_turn", result="r" * 400, timestamp=at, run_id="r")


# --- how a log is cut ----------------------------------------------------------------------------------------


def test_cutting() -> None:
    sizes: list[int] = []
    ranges: list[Range] = []
    uploaded = 0
    for _ in range(20_000):
        sizes.append(700)
        before = ranges
        ranges = cut(sizes, ranges, lambda one: True)
        uploaded += sum(sum(sizes[one.start : one.end]) for one in ranges if one not in before)
        assert [one.start for one in ranges] == [0, *(one.end for one in ranges)][: len(ranges)]
        assert sum(sizes[ranges[-1].end if ranges else 0 :]) < SEAL_BYTES
    assert len(ranges) <= 4 * FAN_OUT
    assert uploaded < 5 * sum(sizes)
    # one that does not hold any more takes those behind it along
    assert cut(sizes, ranges, lambda one: one.start < ranges[2].start)[:2] == ranges[:2]
    assert cut([700] * 10, ranges, lambda one: True) == []
    assert cut([], ranges, lambda one: True) == []


@pytest.mark.parametrize("fault", ["none configured", "down", "deny"])
def test_without_s3_a_log_stays_in_its_record_as_long_as_it_fits(
    plexus: Simulator, s3: S3Server, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plexus.put("p", status="RUNNING")
    if fault == "none configured":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        getattr(s3, fault)()
    cache = open_cache(background=False)
    storage = cache.storage("p")
    for _ in range(2):
        extend(storage, 100)
        assert cache.flush(20), parked_reason(cache, "p")
    metadata = (plexus.record("p") or {})["metadata"]
    assert len(metadata["checkpoints"]) == 200
    extend(storage, 400)
    cache.sync(10)
    status = cache.procedures()[0]
    assert status.dirty
    assert "have to go to S3" in (status.parked_reason or status.last_error or "")
    assert len((plexus.record("p") or {})["metadata"]["checkpoints"]) == 200
