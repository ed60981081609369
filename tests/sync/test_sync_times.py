"""Limits that callers set, delays that are lifted, clocks that jump, and answers that nobody expects."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, client_of, engine_on, eventually, parked_reason, remote_results, remote_state

from plexus_tactus_cache import PlexusClient
from plexus_tactus_cache.testing.simulator import Simulator

NOW = 1_800_000_000.0


class Answers:
    """A client of somebody else's: passes requests on, except that it returns or raises `answers` first."""

    def __init__(self, plexus: Simulator, *answers: Any) -> None:
        self._client, self.answers = client_of(plexus), list(answers)
        self.api_url = plexus.url

    def execute(self, query: str, variables: dict[str, Any] | None = None, /) -> Any:
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return self._client.execute(query, variables)


@pytest.mark.parametrize("background", [True, False])
def test_a_timeout_is_kept_while_plexus_hangs(plexus: Simulator, open_cache: OpenCache, background: bool) -> None:
    plexus.put("p")
    client = PlexusClient(plexus.url, plexus.api_key, timeout=20)
    cache = open_cache(client=client, background=background, request_timeout=20, load_timeout=0.2)
    storage = cache.storage("p")
    storage.state_set("p", "k", 0)
    assert cache.flush(10)
    plexus.fail("hang")
    storage.state_set("p", "k", 1)
    started = time.monotonic()
    report = cache.sync(0.3)
    assert report.pending == ("p",)
    assert "0.3 s" in report.errors[0]
    assert not cache.flush(0.3)
    cache.storage("p").load_procedure_metadata("p")
    assert time.monotonic() - started < 8
    plexus.heal()
    assert cache.flush(10)
    assert remote_state(plexus, "p") == {"k": 1}


def test_a_record_just_created_is_not_missed_for_one_stale_read(plexus: Simulator, open_cache: OpenCache) -> None:
    cache = open_cache(background=False)
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    cache.sync(5)
    assert (cache.status().parked, cache.status().dirty) == (0, 1)
    plexus.put("p")
    assert cache.flush(10)
    assert remote_state(plexus, "p") == {"k": 1}


def test_the_first_success_lifts_the_delay_of_all(plexus: Simulator, open_offline: OpenCache, tmp_path: Path) -> None:
    cache = open_offline()
    for procedure_id in ("a", "b"):
        plexus.put(procedure_id)
        cache.storage(procedure_id).state_set(procedure_id, "k", 1)
    client = Answers(plexus)
    engine, store = engine_on(tmp_path / "store", client, max_backoff=60)
    now = time.time() + 10
    odd = {"p0": {"id": "a"}, "p1": {"id": "b"}}  # records that are none
    client.answers = [odd] * 6
    for _ in range(6):
        engine.run_once(now, force=True)
    assert {pending.attempts for pending in store.outbox().values()} == {6}
    assert all(pending.due > now + 20 for pending in store.outbox().values())
    client.answers = [ConnectionError("away")]
    engine.run_once(now, force=True)
    assert store.link().state == "offline"
    cache.storage("c").state_set("c", "k", 1)
    plexus.put("c")
    due = store.link().due
    assert due < now + 5
    assert engine.run_once(max(due, time.time() + 2)).pushed == ("c",)
    assert set(engine.run_once(max(due, time.time() + 2)).pushed) == {"a", "b"}


# --- clocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-1e8, 1e8])
def test_a_clock_that_jumps_during_an_outage(
    plexus: Simulator, open_offline: OpenCache, tmp_path: Path, jump: float
) -> None:
    open_offline().storage("p").state_set("p", "k", 1)
    plexus.put("p")
    engine, store = engine_on(tmp_path / "store", client_of(plexus), max_backoff=8)
    plexus.fail("status", code=503)
    now = time.time() + 10
    engine.run_once(now)
    plexus.heal()
    then = now + jump
    due = engine.next_due(then)
    assert due is not None
    assert due <= then + 8
    assert engine.run_once(due).pushed == ("p",)
    assert store.link().state == "online"


def test_a_write_from_the_future_is_due_now(plexus: Simulator, open_offline: OpenCache, tmp_path: Path) -> None:
    open_offline().storage("p").state_set("p", "k", 1)
    plexus.put("p")
    engine, _ = engine_on(tmp_path / "store", client_of(plexus))
    past = time.time() - 1e7
    assert engine.run_once(past).pushed == ("p",)


# --- answers that nobody expects --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "text",
        {},
        {"p0": None},
        {"p0": {}},
        {"p0": []},
        {"p0": {"id": "p", "updatedAt": None, "metadata": None}},
        {"p0": {"id": "p", "updatedAt": "yesterday", "metadata": "{}"}},
        {"p0": {"id": "p", "updatedAt": 5, "metadata": "{}"}},
        RuntimeError("odd"),
        KeyError("odd"),
        RecursionError(),
    ],
)
@pytest.mark.parametrize("to", ["read", "push"])
def test_answers_that_nobody_expects(plexus: Simulator, open_cache: OpenCache, answer: Any, to: str) -> None:
    """They are failures like others: nothing is lost, nothing overwritten, and it works again afterwards."""
    plexus.put("p", metadata={"state": {"theirs": 1}})
    client = Answers(plexus)
    cache = open_cache(client=client, background=False)
    storage = cache.storage("p")
    if to == "push":  # with a base, a push is one mutation
        storage.state_set("p", "k", 0)
        assert cache.flush(10)
    else:
        client.answers = [answer]
    storage.state_set("p", "k", 1)
    client.answers = [answer]
    cache.sync(5)
    assert cache.status().dirty == 1
    assert cache.flush(10), parked_reason(cache, "p")
    assert remote_state(plexus, "p") == {"theirs": 1, "k": 1}


# --- lost answers, and attempts that were no attempts -----------------------------------------------------


@pytest.mark.parametrize("then", ["refused", "never left", "throttled"])
def test_a_lost_answer_followed_by_an_attempt_that_failed_for_certain(
    plexus: Simulator, open_cache: OpenCache, then: str
) -> None:
    """That the second attempt was not applied says nothing of the first."""
    plexus.put("p")
    cache = open_cache(background=False)
    storage = cache.storage("p")
    storage.state_set("p", "k", 0)
    assert cache.flush(10)
    append(storage, "one")
    plexus.fail("drop_after", times=1, only="mutation")
    cache.sync(5)
    assert remote_results(plexus, "p") == ["one"]
    if then == "refused":
        plexus.fail("status", times=1, code=413)
    elif then == "never left":
        plexus.fail("refuse")
    else:
        plexus.fail("throttle_200", times=1)
    cache.sync(5)
    plexus.heal()
    cache.retry("p")
    append(storage, "two")
    eventually(lambda: cache.flush(10), 15)
    assert cache.status().parked == 0
    assert remote_results(plexus, "p") == ["one", "two"]
