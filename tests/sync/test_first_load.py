"""The first load of a procedure: what the cache does while Plexus does not answer, and clients that are not ours."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clients import DashboardClient
from conftest import OpenCache
from helpers import append, client_of, eventually, parked_reason, remote_results, remote_state

from plexus_tactus_cache import CacheClosed, PlexusStorageAdapter, ProcedureCache, RemoteUnavailable
from plexus_tactus_cache.testing.simulator import Simulator

OUTAGES: list[tuple[str, dict[str, Any]]] = [("refuse", {}), ("status", {"code": 503}), ("hang", {}), ("html", {})]
REMOTE = {"state": {"theirs": 1}, "runtime": "lua"}


# --- empty ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "parameters"), OUTAGES)
def test_empty_starts_at_once_and_merges_later(
    plexus: Simulator,
    open_cache: OpenCache,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    parameters: dict[str, Any],
) -> None:
    plexus.put("p", metadata=REMOTE, status="PENDING")
    plexus.fail(fault, **parameters)
    cache = open_cache(load_timeout=0.5)
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    assert (live.state, live.execution_log) == ({}, [])
    assert "EMPTY" in caplog.text
    storage.state_set("p", "mine", 2)
    append(storage, "one")
    plexus.heal()
    eventually(lambda: remote_state(plexus, "p") == {"theirs": 1, "mine": 2})
    assert remote_results(plexus, "p") == ["one"]
    record = plexus.record("p") or {}
    assert (record["metadata"]["runtime"], record["status"]) == ("lua", "PENDING")
    assert storage.load_procedure_metadata("p") is live
    assert live.state == {"theirs": 1, "mine": 2}


def test_an_empty_load_is_never_written_over_what_plexus_has(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={"state": {"k": "theirs"}, "runtime": "lua"})
    before = plexus.record("p")
    plexus.fail("refuse")
    cache = open_cache()
    storage = cache.storage("p")
    storage.save_procedure_metadata(storage.load_procedure_metadata("p"))
    plexus.heal()
    assert cache.flush(10)
    assert ((plexus.record("p") or {})["metadata"]["state"], (before or {})["metadata"]["state"]) == (
        {"k": "theirs"},
        {"k": "theirs"},
    )
    assert storage.load_procedure_metadata("p").state == {"k": "theirs"}


def test_what_is_stored_here_serves_during_an_outage(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata=REMOTE)
    for behaviour in ("empty", "raise", "wait"):
        with open_cache(on_unreachable=behaviour) as cache:
            assert cache.storage("p").get_state("p") == {"theirs": 1}
    plexus.fail("refuse")
    for behaviour in ("empty", "raise", "wait"):
        with open_cache(on_unreachable=behaviour) as cache:
            assert cache.storage("p").get_state("p") == {"theirs": 1}


# --- raise ------------------------------------------------------------------------------------------------

FIRST_CALLS: dict[str, Callable[[PlexusStorageAdapter], object]] = {
    "load": lambda storage: storage.load_procedure_metadata("p"),
    "get_state": lambda storage: storage.get_state("p"),
    "state_set": lambda storage: storage.state_set("p", "k", 1),
    "checkpoint_save": lambda storage: storage.checkpoint_save("p", "a", 1),
    "status": lambda storage: storage.update_procedure_status("p", "RUNNING"),
}


@pytest.mark.parametrize("call", FIRST_CALLS)
def test_raise(plexus: Simulator, open_cache: OpenCache, call: str) -> None:
    plexus.put("p", metadata=REMOTE)
    plexus.fail("refuse")
    cache = open_cache(on_unreachable="raise")
    storage = cache.storage("p")
    for _ in range(2):
        with pytest.raises(RemoteUnavailable, match=r"'p'.*offline"):
            FIRST_CALLS[call](storage)
    assert cache.procedures() == []
    plexus.heal()
    FIRST_CALLS[call](storage)
    assert storage.get_state("p")["theirs"] == 1


@pytest.mark.parametrize("behaviour", ["raise", "wait"])  # for what would it wait
def test_raise_without_a_client(open_offline: OpenCache, behaviour: str) -> None:
    cache = open_offline(on_unreachable=behaviour)
    with pytest.raises(RemoteUnavailable, match="no client"):
        cache.storage("p").load_procedure_metadata("p")


def test_raise_for_a_record_that_cannot_be_read(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={"state": {"_s3_key": "procedures/p/state.json"}})
    cache = open_cache(on_unreachable="raise")
    with pytest.raises(RemoteUnavailable, match="S3"):
        cache.storage("p").load_procedure_metadata("p")
    assert "S3" in (parked_reason(cache, "p") or "")


# --- wait -------------------------------------------------------------------------------------------------


class Load:
    """A load in a thread of its own."""

    def __init__(self, cache: ProcedureCache) -> None:
        self.found: Any = None
        self.error: Exception | None = None
        self._storage = cache.storage("p")
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def _load(self) -> None:
        try:
            self.found = self._storage.load_procedure_metadata("p")
        except Exception as error:  # noqa: BLE001 - for the test to look at
            self.error = error

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(20)
        assert not self.waits


@pytest.mark.parametrize(("fault", "parameters"), OUTAGES)
def test_wait(plexus: Simulator, open_cache: OpenCache, fault: str, parameters: dict[str, Any]) -> None:
    plexus.put("p", metadata=REMOTE)
    plexus.fail(fault, **parameters)
    cache = open_cache(on_unreachable="wait", load_timeout=0.2)
    load = Load(cache)
    if fault == "refuse":
        until = time.monotonic() + 0.5  # no request arrives that could be counted
        while time.monotonic() < until:
            time.sleep(0.02)
    else:
        eventually(lambda: plexus.requests >= 2)
    assert load.waits
    plexus.heal()
    load.join()
    assert load.error is None
    assert load.found.state == {"theirs": 1}
    assert cache.status().dirty == 0


def test_waiting_ends_when_the_cache_is_closed(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.fail("status", code=503)
    cache = open_cache(on_unreachable="wait")
    load = Load(cache)
    eventually(lambda: plexus.requests >= 2)
    cache.close(timeout=0)
    load.join()
    assert isinstance(load.error, CacheClosed)


# --- clients of other people ------------------------------------------------------------------------------


class Blocking:
    """A client that retries by itself for as long as it likes."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.calls = 0

    def execute(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        self.calls += 1
        self.answer.wait(60)
        raise RuntimeError("gave up")


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    client = Blocking()
    yield client
    client.answer.set()


def test_a_client_that_blocks_holds_up_nobody(blocking: Blocking, open_cache: OpenCache) -> None:
    cache = open_cache(client=blocking, load_timeout=0.3)
    storage = cache.storage("p")
    assert storage.get_state("p") == {}
    assert blocking.calls >= 1
    storage.state_set("p", "k", 1)
    append(storage, "one")
    eventually(lambda: blocking.calls >= 2)  # the push blocks too
    storage.state_set("p", "k", 2)
    assert cache.status().dirty == 1
    cache.close(timeout=0.2)
    assert not blocking.answer.is_set()  # all of that went on while the client was blocked


def test_raise_with_a_client_that_blocks(blocking: Blocking, open_cache: OpenCache) -> None:
    cache = open_cache(client=blocking, load_timeout=0.2, on_unreachable="raise", background=False)
    with pytest.raises(RemoteUnavailable, match=r"did not answer within 0\.2 s"):
        cache.storage("p").load_procedure_metadata("p")
    assert not blocking.answer.is_set()


def test_an_answer_that_comes_too_late_does_no_harm(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata=REMOTE)
    plexus.fail("delay", seconds=0.6, times=1)
    cache = open_cache(load_timeout=0.05)
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    assert live.state == {}
    storage.state_set("p", "mine", 2)
    eventually(lambda: remote_state(plexus, "p") == {"theirs": 1, "mine": 2})
    assert storage.get_state("p") == {"theirs": 1, "mine": 2}


@pytest.fixture
def theirs(plexus: Simulator) -> DashboardClient:
    return DashboardClient(plexus.url, plexus.api_key)


def test_plexus_own_client(plexus: Simulator, open_cache: OpenCache, theirs: DashboardClient) -> None:
    plexus.put("p", metadata=REMOTE)
    cache = open_cache(client=theirs)
    storage = cache.storage("p")
    assert storage.get_state("p") == {"theirs": 1}
    storage.state_set("p", "mine", 2)
    assert cache.flush(10)
    assert remote_state(plexus, "p") == {"theirs": 1, "mine": 2}
    assert cache.status().connection == "online"
    assert cache.status().endpoint == plexus.url


@pytest.mark.parametrize(
    ("fault", "parameters", "connection"),
    [
        ("refuse", {}, "offline"),
        ("status", {"code": 503}, "offline"),
        ("drop_before", {}, "offline"),
        ("html", {}, "offline"),
        ("throttle_200", {}, "throttled"),
        ("throttle_429", {"retry_after": None}, "offline|throttled"),  # its retries leave only a RetryError
        ("expired_key", {}, "unauthorized"),
    ],
)
def test_what_plexus_own_client_raises_is_understood(
    plexus: Simulator,
    open_cache: OpenCache,
    theirs: DashboardClient,
    fault: str,
    parameters: dict[str, Any],
    connection: str,
) -> None:
    plexus.put("p")
    cache = open_cache(client=theirs, max_backoff=0.3)
    storage = cache.storage("p")
    storage.state_set("p", "k", 0)
    assert cache.flush(10)
    plexus.fail(fault, **parameters)
    storage.state_set("p", "k", 1)
    eventually(lambda: cache.status().connection in connection.split("|"), 20)
    assert (cache.status().dirty, cache.status().parked) == (1, 0)
    plexus.heal()
    eventually(lambda: remote_state(plexus, "p") == {"k": 1}, 20)
    assert cache.status().parked == 0


def test_a_conflict_and_a_refusal_through_plexus_own_client(
    plexus: Simulator, open_cache: OpenCache, theirs: DashboardClient
) -> None:
    for procedure_id in ("p", "large", "other"):
        plexus.put(procedure_id, code="c" * 150_000)
    cache = open_cache(client=theirs, background=False, attachments="never")
    for procedure_id in ("p", "large", "other"):
        cache.storage(procedure_id).state_set(procedure_id, "k", 1)
    assert cache.flush(10)
    plexus.put("p", metadata={"state": {"k": 1, "theirs": 1}, "runtime": "lua"})
    cache.storage("p").state_set("p", "mine", 2)
    cache.storage("large").state_set("large", "k", "x" * 300_000)
    cache.storage("other").state_set("other", "k", 2)
    assert not cache.flush(10)
    assert remote_state(plexus, "p") == {"k": 1, "theirs": 1, "mine": 2}
    assert (plexus.record("p") or {})["metadata"]["runtime"] == "lua"
    assert remote_state(plexus, "other") == {"k": 2}
    assert "refused" in (parked_reason(cache, "large") or "")
    assert [one.procedure_id for one in cache.procedures() if one.dirty] == ["large"]


class WithoutUrl:
    """A client that does not say where Plexus is."""

    def __init__(self, plexus: Simulator) -> None:
        self._client = client_of(plexus)

    def execute(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._client.execute(query, variables)


def test_a_client_without_a_url_belongs_to_that_of_the_environment(
    plexus: Simulator, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLEXUS_API_URL", plexus.url)
    plexus.put("p", metadata=REMOTE)
    cache = open_cache(client=WithoutUrl(plexus))
    assert cache.storage("p").get_state("p") == {"theirs": 1}
    assert cache.status().endpoint == plexus.url


@pytest.mark.parametrize("answer", [None, [], "text", {}, {"p0": None}, {"p0": {}}, {"p0": {"updatedAt": 7}}])
def test_a_client_whose_answers_are_odd(open_cache: OpenCache, answer: Any) -> None:
    class Odd:
        def execute(self, query: str, variables: dict[str, Any] | None = None) -> Any:
            return answer

    cache = open_cache(client=Odd(), background=False)
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    cache.sync(5)
    assert storage.get_state("p") == {"k": 1}
    assert cache.status().dirty == 1


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("call", ["flush", "sync"])
def test_the_timeout_of_flush_and_sync_holds_with_a_client_that_blocks(
    blocking: Blocking, open_cache: OpenCache, call: str, background: bool
) -> None:
    cache = open_cache(client=blocking, load_timeout=0.1, background=background)
    cache.storage("p").state_set("p", "k", 1)

    def wait() -> None:
        with contextlib.suppress(Exception):  # what it makes of a cache that was closed meanwhile
            getattr(cache, call)(0.2)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(3)
    assert not thread.is_alive()


def test_an_empty_document_that_was_read_before_is_known(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    with open_cache("known", on_unreachable="raise") as cache:
        cache.storage("p").load_procedure_metadata("p")
        plexus.fail("refuse")
        assert cache.storage("p").load_procedure_metadata("p").state == {}
