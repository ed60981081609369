"""What is sent when nothing needs to be, and when nothing can be."""

from __future__ import annotations

import time
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, client_of, eventually, remote_results, remote_state

from plexus_tactus_cache import PlexusClient, ProcedureCache
from plexus_tactus_cache.testing.simulator import Simulator


def quiet_for(seconds: float) -> None:
    """Let the cache's thread do what it does when nobody asks."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)


def test_an_idle_cache_sends_nothing(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    plexus.put("q")
    cache = open_cache()
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    storage.state_set("p", "k", 1)
    append(cache.storage("q"), "one")
    assert cache.flush(10)
    plexus.reset_counters()
    storage.load_procedure_metadata("p")
    storage.get_state("p")
    storage.save_procedure_metadata(live)  # nothing is new in it
    cache.status()
    cache.procedures()
    assert cache.flush(1)
    quiet_for(1.0)
    assert plexus.requests == 0


def test_an_idle_cache_with_a_parked_procedure_sends_nothing(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={"state": {"_s3_key": "procedures/p/state.json"}})
    cache = open_cache()
    cache.storage("p").state_set("p", "k", 1)
    cache.storage("nobody").state_set("nobody", "k", 1)
    assert not cache.flush(10)
    assert cache.status().parked == 2
    plexus.reset_counters()
    quiet_for(1.0)
    assert plexus.requests == 0


def check_that_nothing_is_lost(cache: ProcedureCache, values: int) -> None:
    storage = cache.storage("p")
    assert storage.state_get("p", "k") == values - 1
    assert [entry.result for entry in storage.load_procedure_metadata("p").execution_log] == list(range(values))
    status = cache.status()
    assert (status.dirty, status.parked) == (1, 0)
    assert status.problem
    assert status.next_attempt is not None


@pytest.mark.parametrize(
    ("fault", "connection", "words"),
    [
        ("expired_key", "unauthorized", "Unauthorized"),
        ("html", "offline", "captive portal"),
        ("redirect", "offline", ""),
    ],
)
def test_a_wrong_key_and_a_captive_portal(
    plexus: Simulator,
    open_cache: OpenCache,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    connection: str,
    words: str,
) -> None:
    plexus.put("p")
    plexus.fail(fault)
    cache = open_cache(max_backoff=5)
    storage = cache.storage("p")
    for number in range(5):
        storage.state_set("p", "k", number)
        append(storage, number)
    eventually(lambda: cache.status().connection == connection)
    assert words in (cache.status().problem or "")
    eventually(lambda: "out of reach" in caplog.text)
    plexus.reset_counters()
    processor = time.process_time()
    quiet_for(1.0)
    assert plexus.requests <= 10
    assert time.process_time() - processor < 0.7
    check_that_nothing_is_lost(cache, 5)
    assert remote_state(plexus, "p") == {}
    cache.close(timeout=0.2)
    plexus.heal()
    again = open_cache()
    assert again.flush(20)
    assert (remote_state(plexus, "p"), remote_results(plexus, "p")) == ({"k": 4}, list(range(5)))


def test_a_wrong_key_is_said_to_be_one(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(client=client_of(plexus, "wrong"), max_backoff=60)
    cache.storage("p").state_set("p", "k", 0)
    append(cache.storage("p"), 0)
    eventually(lambda: cache.status().connection == "unauthorized")
    eventually(lambda: not cache.status().leader)  # a process with the right key may have it
    plexus.reset_counters()
    quiet_for(1.0)
    assert plexus.requests == 0
    check_that_nothing_is_lost(cache, 1)
    right = open_cache()
    eventually(lambda: remote_state(plexus, "p") == {"k": 0})
    eventually(lambda: right.status().connection == "online")


class Counting(PlexusClient):
    """Counts what it was asked to send: where nobody is, nothing arrives that could be counted."""

    calls = 0

    def execute(self, query: str, variables: dict[str, Any] | None = None, /) -> dict[str, Any]:
        self.calls += 1
        return super().execute(query, variables)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/graphql", "https://127.0.0.1:1/graphql"])
def test_a_url_where_nobody_is(open_cache: OpenCache, url: str) -> None:
    client = Counting(url, "key", timeout=1)
    cache = open_cache(client=client, max_backoff=5)
    storage = cache.storage("p")
    for number in range(5):
        storage.state_set("p", "k", number)
        append(storage, number)
    eventually(lambda: cache.status().connection == "offline", 20)
    assert "no connection" in (cache.status().problem or "")
    calls, processor = client.calls, time.process_time()
    quiet_for(1.0)
    assert client.calls - calls <= 10
    assert time.process_time() - processor < 0.7
    check_that_nothing_is_lost(cache, 5)


def test_an_outage_with_steady_writes_is_no_busy_loop(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache(max_backoff=5)
    storage = cache.storage("p")
    storage.state_set("p", "k", -1)
    assert cache.flush(10)
    plexus.fail("status", code=503)
    plexus.reset_counters()
    for number in range(50):
        storage.state_set("p", "k", number)
        quiet_for(0.02)
    assert 1 <= plexus.requests <= 12  # a push every push_interval would be more than 20
    plexus.heal()
    eventually(lambda: remote_state(plexus, "p") == {"k": 49})
