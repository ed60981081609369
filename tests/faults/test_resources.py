"""No file descriptors, no threads, no room on the disk, at any moment: the right error, and all is well afterwards."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, eventually, remote_state
from processes import Process, ProcessError, opened, script

from plexus_tactus_cache import OutOfResources, ProcedureCache, RemoteUnavailable
from plexus_tactus_cache.testing.simulator import Simulator

# --- file descriptors -------------------------------------------------------------------------------------

_LIMIT = """
import gc, os, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
def descriptors():
    return len(os.listdir("/proc/self/fd")) - 1
def limit(more):
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + more if more is not None else hard, hard))
"""
_SWEEP = (
    _LIMIT
    + """
import json, logging, sys, tempfile, threading
from pathlib import Path
from plexus_tactus_cache import *

logging.disable()
place, url, new = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "new"
settings = CacheSettings(push_interval=0.05, close_timeout=0, durability="normal")
def open_(directory, client):
    return ProcedureCache(client, directory, settings)
def attempt(call):
    try:
        call()
    except StorageError as error:
        return type(error).__name__, str(error)
    return None
client = PlexusClient(url, "da2-simulator", timeout=2)
open_(place / "warm", client).close()  # what is imported late is imported
gc.collect()
gc.disable()  # nothing may wait for it
threads, found = threading.active_count(), []
def of_stores():
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return [link for link in map(os.path.realpath, links) if link.startswith(str(place))]
for more in range(20):
    directory = place / (str(more) if new else "old")
    if not new:
        with open_(directory, OFFLINE) as cache:
            cache.storage("p").state_set("p", "before", more)
    cache, written = None, None
    limit(more)
    try:
        cache = open_(directory, client)
    except StorageError as error:
        opening = type(error).__name__, str(error)
    else:
        opening = None
        written = attempt(lambda: cache.storage("p").state_set("p", "k", more))
        attempt(cache.status)
    limit(None)
    if cache is not None:
        cache.storage("p").state_set("p", "after", more)  # it recovers by itself
        state = dict(cache.storage("p").get_state("p"))
        assert (written is not None or state["k"] == more) and state["after"] == more, state
        cache.close()
        cache = None
    with open_(directory, OFFLINE) as again:
        state = again.storage("p").get_state("p")
        assert new or state["before"] == more, state
        if opening is None:
            assert (written is not None or state["k"] == more) and state["after"] == more, state
    assert of_stores() == [], (more, opening, written)
    assert threading.active_count() == threads
    found.append((opening, written))
print(json.dumps(found))
"""
)


@pytest.mark.parametrize("which", ["new", "old"])
def test_opening_with_few_descriptors(plexus: Simulator, tmp_path: Path, which: str) -> None:
    plexus.put("p")
    done = script(_SWEEP, str(tmp_path), plexus.url, which)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    errors = [error for pair in found for error in pair if error]
    assert found[0][0]
    assert found[-1] == [None, None]
    for name, text in errors:
        assert name == "OutOfResources", text
        assert "ulimit -n" in text


@pytest.fixture
def process(plexus: Simulator, tmp_path: Path) -> Any:
    """With a cache on a document, and `limit`: how many more descriptors it may have."""
    plexus.put("p")
    with Process(
        _LIMIT,
        "import threading, logging; logging.disable()",
        opened(tmp_path / "store", plexus.url, close_timeout=0),
        "storage = cache.storage('p')",
        "storage.state_set('p', 'k', 1)",
        "def in_thread(call):\n    found = []\n"
        "    def run():\n"
        "        try:\n            found.append(call())\n"
        "        except Exception as error:\n            found.append(f'{type(error).__name__}: {error}')\n"
        "    thread = threading.Thread(target=run)\n    thread.start()\n    thread.join()\n    return found[0]",
    ) as running:
        yield running


@pytest.mark.parametrize("more", range(4))
def test_a_pass_with_few_descriptors(process: Process, plexus: Simulator, more: int) -> None:
    process.do(f"storage.state_set('p', 'few', {more})")
    process.do(f"limit({more})")
    try:
        process.do("report = cache.sync(2)")
    except ProcessError as error:
        assert error.kind == "OutOfResources"  # noqa: PT017 - an answer is fine too
    process.do("limit(None)")
    assert process.do("cache.flush(60)")
    assert remote_state(plexus, "p")["few"] == more


def test_a_thread_for_whose_connection_there_is_no_descriptor(process: Process, tmp_path: Path) -> None:
    assert process.do("cache.flush(20)")
    process.do("before = storage.load_procedure_metadata('p').model_dump()")
    process.do("limit(0)")
    process.do(  # SQLite keeps descriptors of closed connections for new ones: threads that stay take those
        "stay = threading.Event()\n"
        "for _ in range(50):\n"
        "    done, found = threading.Event(), []\n"
        "    def look():\n"
        "        try:\n            cache.procedures()\n"
        "        except Exception as error:\n            found.append(error)\n"
        "        done.set()\n        stay.wait()\n"
        "    threading.Thread(target=look, daemon=True).start()\n"
        "    done.wait()\n"
        "    if found: break"
    )
    for call in (
        "storage.state_set('p', 'k', 2)",
        "storage.checkpoint_save('p', 'a', 2)",
        "storage.update_procedure_status('p', 'X')",
        "storage.set_state('p', {})",
        "cache.create_procedure(account_id='a', name='n')",
        "storage.save_breakpoints('n', [])",
        "cache.status()",
        "cache.procedures()",
        "cache.flush(0)",
        "cache.sync(0)",
    ):
        answer = str(process.do(f"in_thread(lambda: {call})"))
        assert answer.startswith(("OutOfResources: ", "None", "False", "pushed")), (call, answer)
        if call.startswith("storage"):
            assert "ulimit -n" in answer, (call, answer)
    process.do("limit(None)")
    assert process.do("storage.load_procedure_metadata('p').model_dump() == before")
    assert process.do("in_thread(lambda: storage.state_set('p', 'k', 3))") is None
    assert process.do("storage.state_get('p', 'k')") == 3
    assert process.do("cache.flush(20)")
    with ProcedureCache(None, tmp_path / "store") as cache:
        assert cache.storage("p").get_state("p") == {"k": 3}


def test_syncing_without_descriptors_goes_on_when_there_are_some(process: Process, plexus: Simulator) -> None:
    assert process.do("cache.flush(20)")
    plexus.put("q")
    process.do("other = cache.storage('q')")
    process.do("limit(0)")
    process.do("storage.state_set('p', 'k', 2)")  # what is open suffices
    for number in range(20):  # the sync thread's connection to Plexus may be open as well
        process.do(f"storage.state_set('p', 'n', {number})")
    process.do("limit(None)")
    process.do("other.state_set('q', 'k', 1)")
    assert process.do("cache.flush(20)")
    assert remote_state(plexus, "p") == {"k": 2, "n": 19}
    assert remote_state(plexus, "q") == {"k": 1}
    assert process.do("cache.status().store_problem") is None


# --- threads ----------------------------------------------------------------------------------------------


class NoThreads:
    """While it is entered, the system has no more threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def __enter__(self) -> None:
        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        self._patch.setattr(threading.Thread, "start", start)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


@pytest.fixture
def no_threads() -> NoThreads:
    return NoThreads(pytest.MonkeyPatch())


def test_no_thread_to_sync_with(
    plexus: Simulator, open_cache: OpenCache, no_threads: NoThreads, caplog: pytest.LogCaptureFixture
) -> None:
    plexus.put("p")
    with no_threads:
        cache = open_cache()
        storage = cache.storage("p")
        storage.state_set("p", "k", 1)
        append(storage, "one")
        assert "ulimit -u" in (cache.status().store_problem or "")
        assert sum("nothing is pushed" in record.message for record in caplog.records) == 1
        assert not cache.flush(0.1)
        report = cache.sync(5)
        assert report.pending == ("p",)
        assert "no thread can be started" in report.errors[0]
    with ProcedureCache(None, cache.directory) as other:
        assert other.storage("p").get_state("p") == {"k": 1}
    assert cache.sync(20).errors == ()  # nothing of the attempts is in its way
    eventually(lambda: cache.status().dirty == 0)
    eventually(lambda: cache.status().store_problem is None)  # the thread says that itself
    assert remote_state(plexus, "p") == {"k": 1}
    storage.state_set("p", "k", 2)  # and the thread, there is one now, does it alone
    eventually(lambda: remote_state(plexus, "p") == {"k": 2})
    assert [thread.name for thread in threading.enumerate()].count("plexus-tactus-cache") == 1


def test_closing_a_cache_that_never_had_a_thread(
    plexus: Simulator, open_cache: OpenCache, no_threads: NoThreads
) -> None:
    plexus.put("p")
    with no_threads:
        cache = open_cache(close_timeout=600)
        cache.storage("p").state_set("p", "k", 1)
        cache.close()  # does not wait for what cannot be
    again = open_cache()
    assert again.flush(20)
    assert remote_state(plexus, "p") == {"k": 1}


def test_no_thread_for_the_first_load(plexus: Simulator, open_cache: OpenCache, no_threads: NoThreads) -> None:
    plexus.put("p", metadata={"state": {"theirs": 1}})
    strict, cache = open_cache("strict", on_unreachable="raise"), open_cache()
    with no_threads:
        with pytest.raises(RemoteUnavailable, match="no thread can be started"):
            strict.storage("p").get_state("p")
        storage = cache.storage("p")
        storage.state_set("p", "mine", 2)
    assert strict.storage("p").get_state("p") == {"theirs": 1}
    assert cache.flush(20)
    assert remote_state(plexus, "p") == {"theirs": 1, "mine": 2}


def test_no_thread_for_a_pass_of_a_cache_without_one(
    plexus: Simulator, open_cache: OpenCache, no_threads: NoThreads
) -> None:
    plexus.put("p")
    cache = open_cache(background=False)
    cache.storage("p").state_set("p", "k", 1)
    with no_threads:
        assert "ulimit -u" in cache.sync(5).errors[0]
        assert not cache.status().leader  # others may
    assert cache.sync(20).pushed == ("p",)


def test_the_error_is_one_of_the_store() -> None:
    assert issubclass(OutOfResources, Exception)


# --- a disk that is full ----------------------------------------------------------------------------------

_GROW = """
import json, logging, resource, signal, sys
from pathlib import Path
import datetime as dt
from pydantic import BaseModel
from plexus_tactus_cache import *

logging.disable()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
UNLIMITED = resource.RLIM_INFINITY
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, UNLIMITED))
class Run(BaseModel):
    run_id: str
    procedure_name: str = "n"
    start_time: dt.datetime = dt.datetime(2026, 1, 1)
    log: str = ""
def picture(cache):
    storage = cache.storage("p")
    return (
        storage.load_procedure_metadata("p").model_dump(),
        {one.procedure_id: (one.version, one.status, one.dirty) for one in cache.procedures()},
        storage.load_breakpoints("n"),
        len(storage.list_runs()),
    )
def save(storage, number):
    live = storage.load_procedure_metadata("p")
    at = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    position = len(live.execution_log)
    if live.replay_index == position:
        live.execution_log.append(CheckpointEntry(position=position, type="t", result=LARGE, timestamp=at, run_id="r"))
    live.state["saved"] = number
    storage.save_procedure_metadata(live)
LARGE = "x" * 9000
CALLS = {
    "state_set": lambda c, s, n: s.state_set("p", "k", [n, LARGE]),
    "set_state": lambda c, s, n: s.set_state("p", {"k": [n, LARGE], f"k{n}": LARGE}),
    "state_delete": lambda c, s, n: s.state_delete("p", "k"),
    "checkpoint_save": lambda c, s, n: s.checkpoint_save("p", f"c{n}", LARGE),
    "checkpoint_clear_all": lambda c, s, n: s.checkpoint_clear_all("p"),
    "update_procedure_status": lambda c, s, n: s.update_procedure_status("p", f"S{n}", LARGE[:1000]),
    "save_procedure_metadata": lambda c, s, n: save(s, n),
    "create_procedure": lambda c, s, n: c.create_procedure(account_id="a", name="n", description=LARGE),
    "save_breakpoints": lambda c, s, n: s.save_breakpoints("n", [n, LARGE]),
    "save_run": lambda c, s, n: s.save_run(Run(run_id=f"r{n}", log=LARGE)),
}
"""
_FULL = (
    _GROW
    + """
call = CALLS[sys.argv[2]]
settings = CacheSettings(durability="normal", close_timeout=0)
failures = 0
for number in range(60):
    directory = Path(sys.argv[1])
    cache = ProcedureCache(OFFLINE, directory, settings)
    storage = cache.storage("p")
    if number == 0:
        storage.state_set("p", "k", "before")
        save(storage, -1)
    if sys.argv[2] == "save_procedure_metadata":  # the caller's change is in the live object before the call
        live = storage.load_procedure_metadata("p")
    log = directory / "cache.db-wal"
    before = picture(cache)
    limit((log.stat().st_size if log.exists() else 0) + number * 1030)
    try:
        call(cache, storage, number)
        error = None
    except LocalStoreError as raised:
        error = raised
    limit(UNLIMITED)
    if error is not None:
        failures += 1
        with ProcedureCache(OFFLINE, directory, settings) as other:
            assert picture(other) == before, number
        if sys.argv[2] != "save_procedure_metadata":
            assert picture(cache) == before, number
        assert cache.status().store_problem, number
        call(cache, storage, number)
    assert cache.status().store_problem is None
    storage.state_set("p", "next", number)
    after = picture(cache)
    if number % 2:
        cache.close()
    with ProcedureCache(OFFLINE, directory, settings) as other:
        assert picture(other) == after, number
    cache.close()
print(failures)
"""
)
_NAMES = (
    "state_set set_state state_delete checkpoint_save checkpoint_clear_all update_procedure_status "
    "save_procedure_metadata create_procedure save_breakpoints save_run"
)


@pytest.mark.parametrize("call", _NAMES.split())
def test_no_room_at_any_moment_of_a_write(tmp_path: Path, call: str) -> None:
    """The files may grow by so many bytes, then by some more: the write fails at each of its own writes in turn."""
    done = script(_FULL, str(tmp_path), call)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 60, "both happened"
