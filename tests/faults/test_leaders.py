"""Who syncs a directory: leaders that die, processes that do not lead, and how a process ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import OpenCache
from helpers import append, client_of, eventually, fast, remote_results, remote_state
from processes import Process, opened, script

from plexus_tactus_cache import PlexusClient, ProcedureCache
from plexus_tactus_cache.testing.simulator import Simulator

WRITE = """
storages = {{name: cache.storage(name) for name in ('p', 'q')}}
for number in range({count}):
    for name, storage in storages.items():
        live = storage.load_procedure_metadata(name)
        live.execution_log.append(CheckpointEntry(position=number, type='x', result=[number, name], run_id='run',
            timestamp=dt.datetime(2026, 1, 1, 0, 0, number, tzinfo=dt.UTC)))
        live.replay_index = number + 1
        storage.state_set(name, f'k{{number}}', number)
        storage.save_procedure_metadata(name, live)
"""
LEADS = "cache.status().leader"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def leader(plexus: Simulator, directory: Path) -> Iterator[Process]:
    """Another process, which syncs the directory."""
    for procedure_id in ("p", "q"):
        plexus.put(procedure_id, metadata={"runtime": "lua"})
    with Process(opened(directory, plexus.url)) as process:
        eventually(lambda: process.do(LEADS))
        yield process


# --- a leader that dies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refuse", "hang", "status"])
def test_another_process_takes_over_from_a_leader_that_was_killed(
    plexus: Simulator, directory: Path, leader: Process, fault: str
) -> None:
    leader.do("cache.storage('p').state_set('p', 'before', 1)")
    assert leader.do("cache.flush(20)")
    plexus.fail(fault)
    leader.do(WRITE.format(count=10))
    leader.do("cache.storage('q').update_procedure_status('q', 'WAITING_FOR_HUMAN', 'm1')")
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        cache.storage("p").state_set("p", "from here", True)
        assert not cache.status().leader
        leader.kill()
        eventually(lambda: cache.status().leader)
        assert cache.status().dirty == 2
        plexus.heal()
        eventually(lambda: cache.status().dirty == 0)
        assert cache.status().parked == 0
    wanted = {f"k{number}": number for number in range(10)}
    assert remote_state(plexus, "p") == wanted | {"before": 1, "from here": True}
    assert remote_state(plexus, "q") == wanted
    for name in ("p", "q"):
        assert remote_results(plexus, name) == [[number, name] for number in range(10)]
        assert (plexus.record(name) or {})["metadata"]["runtime"] == "lua"
    assert (plexus.record("q") or {})["waitingOnMessageId"] == "m1"


def test_a_leader_killed_while_its_push_was_being_applied(plexus: Simulator, directory: Path, leader: Process) -> None:
    leader.do("cache.storage('p').state_set('p', 'k', 1)")
    assert leader.do("cache.flush(20)")

    def die(name: str, arguments: object) -> None:
        plexus.before_mutation = None
        leader.kill()

    plexus.before_mutation = die
    leader.tell("cache.storage('p').checkpoint_save('p', 'a', 1)")
    eventually(lambda: plexus.before_mutation is None)
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        assert cache.storage("p").checkpoint_get("p", "a") == 1
        cache.storage("p").checkpoint_save("p", "b", 2)
        assert cache.flush(20)
        assert cache.status().parked == 0
    assert sorted(remote_results(plexus, "p")) == [1, 2]


def test_leaders_killed_one_after_the_other(plexus: Simulator, directory: Path) -> None:
    plexus.put("p")
    plexus.fail("refuse")
    for number in range(4):
        with Process(opened(directory, plexus.url)) as process:
            process.do(f"cache.storage('p').state_set('p', 'k{number}', {number})")
            process.do(f"cache.storage('p').checkpoint_save('p', 'step {number}', {number})")
            eventually(lambda process=process: process.do(LEADS))  # type: ignore[misc]
            process.kill()
    plexus.heal()
    done = script("", "-m", "plexus_tactus_cache", "sync", "--directory", str(directory), **where(plexus))
    assert done.returncode == 0, done.stderr
    assert remote_state(plexus, "p") == {f"k{number}": number for number in range(4)}
    assert sorted(remote_results(plexus, "p")) == list(range(4))


def where(plexus: Simulator) -> dict[str, str]:
    return {"PLEXUS_API_URL": plexus.url, "PLEXUS_API_KEY": plexus.api_key}


# --- a process that does not lead -------------------------------------------------------------------------


@pytest.mark.parametrize("background", [True, False])
def test_sync_and_flush_where_another_process_leads(
    plexus: Simulator, directory: Path, leader: Process, background: bool
) -> None:
    with ProcedureCache(client_of(plexus), directory, fast(), background=background) as cache:
        storage = cache.storage("p")
        for number in range(3):
            storage.state_set("p", "k", number)
            assert cache.flush(20)
            assert remote_state(plexus, "p") == {"k": number}
        append(storage, "one")
        report = cache.sync(20)
        assert (report.pending, report.errors) == ((), ())
        assert remote_results(plexus, "p") == ["one"]
        assert not cache.status().leader
    assert leader.do(LEADS)


def test_sync_where_the_leader_cannot_reach_plexus(plexus: Simulator, directory: Path, leader: Process) -> None:
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        storage = cache.storage("p")
        storage.load_procedure_metadata("p")
        plexus.fail("status", code=503)
        storage.state_set("p", "k", 1)
        assert not cache.flush(0.5)
        assert cache.sync(20).pending == ("p",)
        plexus.heal()
        assert cache.flush(20)
        assert remote_state(plexus, "p") == {"k": 1}


def test_a_leader_that_does_not_answer_is_waited_for_no_longer_than_asked(
    plexus: Simulator, directory: Path, leader: Process
) -> None:
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        storage = cache.storage("p")
        storage.load_procedure_metadata("p")
        leader.suspend()
        try:
            storage.state_set("p", "k", 1)
            report = cache.sync(0.3)
            assert report.pending == ("p",)
            assert "did not answer" in report.errors[0]
            assert not cache.flush(0.3)
            assert cache.status().dirty == 1
        finally:
            leader.resume()
        assert cache.flush(20)
        assert remote_state(plexus, "p") == {"k": 1}


def test_flush_goes_on_when_the_leader_dies(plexus: Simulator, directory: Path, leader: Process) -> None:
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        cache.storage("p").state_set("p", "k", 1)
        leader.suspend()
        cache.storage("p").state_set("p", "k", 2)
        flushed: list[bool] = []
        thread = threading.Thread(target=lambda: flushed.append(cache.flush(20)))
        thread.start()
        eventually(lambda: len(cache._store.requests()) == 1)  # it waits for the leader
        leader.kill()
        thread.join(30)
        assert flushed == [True]
        assert remote_state(plexus, "p") == {"k": 2}
        assert cache.status().leader


def test_a_process_without_a_client_is_synced_by_one_that_has_one(
    plexus: Simulator, directory: Path, leader: Process
) -> None:
    with ProcedureCache(None, directory, fast()) as cache:
        cache.storage("p").state_set("p", "k", 1)
        eventually(lambda: remote_state(plexus, "p") == {"k": 1})
        eventually(lambda: cache.status().dirty == 0)
        assert cache.status().connection == "no client"
        assert "no client" in cache.sync(1).errors[0]


# --- how a process ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["our client", "a client that blocks"])
def test_close_is_bounded_while_plexus_hangs_and_says_what_is_pending(
    plexus: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    plexus.put("p")
    blocked = threading.Event()

    class Blocking(PlexusClient):
        def execute(self, query: str, variables: dict[str, object] | None = None, /) -> dict[str, object]:
            if plexus_hangs.is_set():
                blocked.wait(60)
            return super().execute(query, variables)

    plexus_hangs = threading.Event()
    client = (Blocking if who == "a client that blocks" else PlexusClient)(plexus.url, plexus.api_key, timeout=30)
    cache = ProcedureCache(client, tmp_path / "store", fast(close_timeout=0.5))
    cache.storage("p").state_set("p", "k", 0)
    assert cache.flush(10)
    plexus.fail("hang")
    plexus_hangs.set()
    cache.storage("p").state_set("p", "k", 1)
    closing = threading.Thread(target=cache.close)
    closing.start()
    closing.join(10)  # the client would wait for 30 s or more
    assert not closing.is_alive()
    (said,) = [record for record in caplog.records if "not in Plexus yet" in record.message]
    assert said.levelno == logging.WARNING
    assert "1 procedure(s)" in said.message
    assert str(tmp_path / "store") in said.message
    plexus.heal()
    blocked.set()
    with ProcedureCache(client_of(plexus), tmp_path / "store", fast()) as again:
        assert again.storage("p").get_state("p") == {"k": 1}
        assert again.flush(10)
    assert remote_state(plexus, "p") == {"k": 1}


def test_close_says_nothing_when_nothing_is_pending(
    plexus: Simulator, open_cache: OpenCache, caplog: pytest.LogCaptureFixture
) -> None:
    plexus.put("p")
    cache = open_cache(push_interval=30)
    cache.storage("p").state_set("p", "k", 1)
    cache.close()
    cache.close()
    assert remote_state(plexus, "p") == {"k": 1}
    assert "not in Plexus" not in caplog.text


ENDS = {
    "adapter": "storage = PlexusStorageAdapter(client, 'p', directory=sys.argv[3], settings=settings)",
    "cache": "cache = ProcedureCache(client, sys.argv[3], settings); storage = cache.storage('p')",
    "storage of a cache": "storage = ProcedureCache(client, sys.argv[3], settings).storage('p')",
}
EXIT = """
import logging, sys
logging.basicConfig(level=logging.WARNING)
from plexus_tactus_cache import *
client = PlexusClient(sys.argv[1], sys.argv[2], timeout=30)
settings = CacheSettings(push_interval=30, close_timeout=float(sys.argv[4]))
{open}
storage.state_set("p", "k", 1)
storage.checkpoint_save("p", "a", 2)
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError"])
@pytest.mark.parametrize("how", ENDS)
def test_what_is_pending_is_pushed_when_a_process_ends_without_closing(
    plexus: Simulator, directory: Path, how: str, end: str
) -> None:
    plexus.put("p")
    done = script(EXIT.format(open=ENDS[how], end=end), plexus.url, plexus.api_key, str(directory), "20")
    assert done.returncode == {"": 0, "sys.exit(3)": 3, "raise ValueError": 1}[end], done.stderr
    assert (remote_state(plexus, "p"), remote_results(plexus, "p")) == ({"k": 1}, [2])
    assert "not in Plexus" not in done.stderr


@pytest.mark.parametrize("how", ENDS)
def test_a_process_ends_while_plexus_hangs(plexus: Simulator, directory: Path, how: str) -> None:
    plexus.put("p")
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:  # so that the process need not load it first
        cache.storage("p").state_set("p", "k", 0)
        assert cache.flush(10)
    plexus.fail("hang")
    started = time.monotonic()
    done = script(EXIT.format(open=ENDS[how], end=""), plexus.url, plexus.api_key, str(directory), "0.5")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 25  # the client alone waits 30 s for an answer
    assert "1 procedure(s) are not in Plexus yet" in done.stderr
    assert "Traceback" not in done.stderr
    plexus.heal()
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        assert cache.flush(10)
    assert (remote_state(plexus, "p"), remote_results(plexus, "p")) == ({"k": 1}, [2])


def test_a_leader_answers_at_once_however_long_its_push_interval(plexus: Simulator, directory: Path) -> None:
    plexus.put("p")
    with (
        Process(opened(directory, plexus.url, push_interval=60)) as leader,
        ProcedureCache(client_of(plexus), directory, fast()) as cache,
    ):
        eventually(lambda: leader.do(LEADS))
        eventually(lambda: leader.do("cache.flush(1)"))
        cache.storage("p").state_set("p", "k", 1)
        assert cache.flush(5)


def test_a_foreground_sync_does_not_keep_others_from_syncing(plexus: Simulator, directory: Path) -> None:
    plexus.put("p")
    with ProcedureCache(client_of(plexus), directory, fast(), background=False) as one:
        one.sync(5)
        with ProcedureCache(client_of(plexus), directory, fast()) as other:
            other.storage("p").state_set("p", "k", 1)
            eventually(lambda: remote_state(plexus, "p") == {"k": 1}, 3)
