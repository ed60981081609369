"""Each class of failures, end to end: what status says, how much is sent meanwhile, and how it ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, client_of, engine_on, eventually, fast, parked_reason, remote_results, remote_state

from plexus_tactus_cache import EndpointMismatch, PlexusClient, ProcedureCache, RemoteUnavailable
from plexus_tactus_cache.testing.simulator import Simulator

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("fault", "parameters", "connection"),
    [
        ("refuse", {}, "offline"),
        ("hang", {}, "offline"),
        ("drop_before", {}, "offline"),
        ("drop_after", {}, "offline"),
        ("status", {"code": 503}, "offline"),
        ("status", {"code": 504}, "offline"),
        ("html", {}, "offline"),
        ("redirect", {}, "offline"),
        ("throttle_429", {"retry_after": None}, "throttled"),
        ("throttle_200", {}, "throttled"),
        ("expired_key", {}, "unauthorized"),
        ("status", {"code": 403}, "unauthorized"),
    ],
)
def test_an_outage(
    plexus: Simulator, open_cache: OpenCache, fault: str, parameters: dict[str, Any], connection: str
) -> None:
    plexus.put("p")
    cache = open_cache(
        max_backoff=0.3, request_timeout=0.5, client=PlexusClient(plexus.url, plexus.api_key, timeout=0.5)
    )
    storage = cache.storage("p")
    storage.state_set("p", "k", 0)
    assert cache.flush(10)
    plexus.reset_counters()
    plexus.fail(fault, **parameters)
    started = time.monotonic()
    storage.state_set("p", "k", 1)
    append(storage, "one")
    assert time.monotonic() - started < 0.4  # writes do not wait
    eventually(lambda: cache.status().connection == connection)
    status = cache.status()
    assert (status.dirty, status.parked, bool(status.problem)) == (1, 0, True)
    assert status.next_attempt is not None
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        time.sleep(0.02)
    assert plexus.requests < 60
    plexus.heal()
    eventually(lambda: remote_state(plexus, "p") == {"k": 1})
    eventually(lambda: cache.status().dirty == 0)
    assert cache.status().connection == "online"
    assert remote_results(plexus, "p") == ["one"]
    assert cache.status().parked == 0


def test_the_key_is_not_sent_to_where_a_redirect_points(plexus: Simulator, open_cache: OpenCache) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    seen: list[str] = []

    class Portal(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append(f"{self.path} {dict(self.headers)}")
            self.send_response(307 if self.path == "/graphql" else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - looked up by this name

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Portal) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/graphql"
            cache = open_cache(client=PlexusClient(url, "the-key", timeout=2), background=False)
            cache.storage("p").state_set("p", "k", 1)
            assert "offline" in cache.sync(5).errors[0]
        finally:
            server.shutdown()
    assert seen
    assert not [line for line in seen if "/elsewhere" in line]


def test_retry_after_is_honoured_even_when_asked_to_sync_now(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache()
    storage = cache.storage("p")
    storage.load_procedure_metadata("p")
    plexus.fail("throttle_429", times=1, retry_after=2)
    storage.state_set("p", "k", 1)
    eventually(lambda: cache.status().connection == "throttled")
    throttled = time.monotonic()
    plexus.reset_counters()
    cpu = time.process_time()
    assert not cache.flush(0.6)
    assert time.process_time() - cpu < 0.4  # it waited, it did not spin
    cache.sync(1)
    assert plexus.requests == 0
    eventually(lambda: remote_state(plexus, "p") == {"k": 1})
    assert time.monotonic() - throttled > 1.5


def test_a_new_key_ends_unauthorized_at_once(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(client=client_of(plexus, "wrong"), max_backoff=60)
    cache.storage("p").state_set("p", "k", 1)
    eventually(lambda: cache.status().connection == "unauthorized")
    eventually(lambda: not cache.status().leader)
    requests = plexus.requests
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        time.sleep(0.02)
    assert plexus.requests == requests
    cache.close()
    again = open_cache(max_backoff=60)
    eventually(lambda: remote_state(plexus, "p") == {"k": 1}, 3)
    eventually(lambda: again.status().connection == "online")


def test_attempts_survive_a_restart(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(background=False, max_backoff=60)
    cache.storage("p").state_set("p", "k", 1)
    plexus.fail("throttle_429", retry_after=30)
    cache.sync(5)
    cache.close()
    plexus.reset_counters()
    again = open_cache(max_backoff=60)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        time.sleep(0.02)
    assert plexus.requests == 0
    assert again.status().dirty == 1
    assert (again.status().next_attempt or 0) > time.time() + 20


def test_delays_grow_up_to_the_limit(plexus: Simulator, open_offline: OpenCache, tmp_path: Path) -> None:
    open_offline().storage("p").state_set("p", "k", 1)
    plexus.put("p")
    engine, store = engine_on(tmp_path / "store", client_of(plexus), max_backoff=8)
    plexus.fail("status", code=503)
    delays = []
    now = NOW + 1e7
    for _ in range(7):
        engine.run_once(now)
        due = store.link().due
        delays.append(round(due - now, 3))
        assert engine.run_once(due - 0.01).errors == ()  # too early: nothing happens
        now = due
    assert delays == [1, 2, 4, 8, 8, 8, 8]
    assert plexus.requests == 7
    plexus.heal()
    assert engine.run_once(now).pushed == ("p",)
    assert (store.link().state, store.link().attempts) == ("online", 0)


class Odd:
    """A client of somebody else's that returns, or raises, what a test says."""

    def __init__(self, plexus: Simulator, answer: Any) -> None:
        self._client, self.answer, self.calls = client_of(plexus), answer, 0
        self.api_url = plexus.url

    def execute(self, query: str, variables: dict[str, Any] | None = None, /) -> Any:
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self._client.execute(query, variables) if self.answer is None else self.answer


def test_a_record_that_somebody_broke_does_not_stop_others(plexus: Simulator, open_cache: OpenCache) -> None:
    for procedure_id in ("a", "p", "z"):
        plexus.put(procedure_id)
    cache = open_cache(background=False)
    for procedure_id in ("a", "p", "z"):
        cache.storage(procedure_id).state_set(procedure_id, "k", 0)
    assert cache.flush(10)
    plexus.put("p", updatedAt=None)
    for procedure_id in ("a", "p", "z"):
        cache.storage(procedure_id).state_set(procedure_id, "k", 1)
    for _ in range(3):
        cache.sync(5)
    assert (remote_state(plexus, "a"), remote_state(plexus, "z")) == ({"k": 1}, {"k": 1})
    assert cache.status().dirty == 1


@pytest.mark.parametrize("stamp", ["2026-11-23T23:40:33.157123Z", "2099-01-01T00:00:00Z", "2020-01-01T00:00:00.000Z"])
def test_stamps_that_other_clients_set(plexus: Simulator, open_cache: OpenCache, stamp: str) -> None:
    plexus.put("p", updatedAt=stamp)
    cache = open_cache(background=False)
    storage = cache.storage("p")
    for value in range(3):
        storage.state_set("p", "k", value)
        assert cache.flush(10)
    assert remote_state(plexus, "p") == {"k": 2}


# --- records that are not there ---------------------------------------------------------------------------


def test_a_record_that_never_existed_is_parked_with_advice(plexus: Simulator, open_cache: OpenCache) -> None:
    cache = open_cache()
    storage = cache.storage("nobody")
    storage.state_set("nobody", "k", 1)
    append(storage, "one")
    eventually(lambda: cache.status().parked == 1)
    assert "create it" in (parked_reason(cache, "nobody") or "")
    assert not cache.flush(10)
    assert plexus.records() == {}
    plexus.reset_counters()
    storage.state_set("nobody", "k", 2)
    cache.sync(5)
    assert plexus.operations["updateProcedure"] == 0
    plexus.put("nobody")
    cache.retry("nobody")
    eventually(lambda: remote_state(plexus, "nobody") == {"k": 2})
    assert remote_results(plexus, "nobody") == ["one"]
    eventually(lambda: cache.status().parked == 0)


def test_a_missing_record_without_writes_leaves_nothing(plexus: Simulator, open_cache: OpenCache) -> None:
    cache = open_cache(background=False)
    assert cache.storage("nobody").load_procedure_metadata("nobody").state == {}
    assert cache.status().parked == cache.status().procedures == 0


def test_a_deleted_record_is_believed_only_after_a_while(
    plexus: Simulator, open_offline: OpenCache, tmp_path: Path
) -> None:
    storage = open_offline().storage("p")
    storage.state_set("p", "k", 1)
    plexus.put("p")
    engine, store = engine_on(tmp_path / "store", client_of(plexus))
    now = time.time() + 10
    assert engine.run_once(now).pushed == ("p",)
    plexus.delete("p")
    storage.state_set("p", "k", 2)
    now += 10
    for seconds in (0.0, 1.1, 2.2, 3.3, 4.4):
        assert engine.run_once(now + seconds).parked == (), seconds
    assert engine.run_once(now + 5.6).parked == ("p",)
    assert "gone" in ((store.pending("p") or [None] * 4)[3] or "")
    assert storage.load_procedure_metadata("p").state == {"k": 2}
    assert plexus.records() == {}
    assert plexus.requests < 20


def test_waiting_for_a_deleted_record_does_not_hammer(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(background=False, push_interval=0.1)
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    assert cache.flush(10)
    plexus.delete("p")
    storage.state_set("p", "k", 2)
    plexus.reset_counters()
    assert not cache.flush(1)
    assert plexus.requests <= 40
    assert cache.status().parked == 0


def test_a_record_that_comes_back_while_in_doubt(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(background=False)
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    assert cache.flush(10)
    storage.state_set("p", "k", 2)
    plexus.put("p", name="renamed")  # the token moved: a read is needed
    plexus.fail("stale", times=2, only="query")
    assert cache.flush(10)
    assert remote_state(plexus, "p") == {"k": 2}
    assert (plexus.record("p") or {})["name"] == "renamed"


def test_stale_reads_never_lose_or_overwrite(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={"state": {"theirs": 0}})
    cache = open_cache(background=False)
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    for value in range(1, 6):
        storage.state_set("p", "k", value)
        assert cache.flush(10)
        plexus.fail("stale", times=1, only="query")
        assert cache.storage("p").load_procedure_metadata("p") is live
        assert live.state == {"theirs": value - 1, "k": value}, value
        metadata = (plexus.record("p") or {})["metadata"]
        plexus.put("p", metadata=metadata | {"state": {"theirs": value, "k": value}})
        storage.state_set("p", "k", value + 100)
        plexus.fail("stale", times=1, only="query")
        assert cache.flush(10)
        assert remote_state(plexus, "p") == {"theirs": value, "k": value + 100}
        plexus.heal()
        cache.pull("p")


# --- reports and configuration ----------------------------------------------------------------------------


def test_reports(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(background=False)
    assert cache.sync(5) == cache.sync(5)
    assert cache.flush(5)
    cache.storage("p").state_set("p", "k", 1)
    plexus.fail("status", code=503)
    report = cache.sync(5)
    assert (report.pushed, report.pending) == ((), ("p",))
    assert "503" in report.errors[0]
    started = time.monotonic()
    assert not cache.flush(0.5)
    assert time.monotonic() - started < 3
    with pytest.raises(RemoteUnavailable, match="503"):
        cache.pull("p")
    plexus.heal()
    report = cache.sync(5)
    assert (report.pushed, report.pending, report.errors) == (("p",), (), ())


def test_a_directory_belongs_to_one_endpoint(plexus: Simulator, open_cache: OpenCache, tmp_path: Path) -> None:
    plexus.put("p")
    cache = open_cache()
    cache.storage("p").state_set("p", "k", 1)
    assert cache.flush(10)
    cache.close()
    other = PlexusClient("https://production.example/graphql", "key")
    with pytest.raises(EndpointMismatch, match="another directory"):
        ProcedureCache(other, tmp_path / "store", fast())
    with ProcedureCache(None, tmp_path / "store", fast()) as offline:  # none is fine
        assert offline.storage("p").state_get("p", "k") == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/graphql", "https://no.such.host.invalid/"])
def test_an_api_url_where_nobody_is(open_cache: OpenCache, url: str) -> None:
    cache = open_cache(client=PlexusClient(url, "key", timeout=2), load_timeout=0.5)
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    eventually(lambda: cache.status().connection == "offline", 20)
    status = cache.status()
    assert status.problem
    assert (status.dirty, status.parked) == (1, 0)
    assert storage.state_get("p", "k") == 1
