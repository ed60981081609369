"""Many writers on one directory, each in its turn, and a writer that is stopped while it holds the lock."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import eventually
from processes import environment

from plexus_tactus_cache import OFFLINE, CacheSettings, ProcedureCache, StoreBusy

SECONDS = 5  # of writing flat out
WRITES = """
import json, sys, threading, time
from plexus_tactus_cache import OFFLINE, ProcedureCache
cache = ProcedureCache(OFFLINE, sys.argv[1])
found = []

def write(name):
    storage, last, worst, number = cache.storage(name), time.monotonic(), 0.0, 0
    while last < end:
        storage.state_set(name, "number", number)
        now = time.monotonic()
        worst, last, number = max(worst, now - last), now, number + 1
    found.append({"name": name, "writes": number, "worst": worst})

print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + float(sys.argv[3])
threads = [threading.Thread(target=write, args=(f"{sys.argv[2]}{number}",)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
cache.close()
print(json.dumps(found), flush=True)
"""
OPENS = """
import os, sys
from plexus_tactus_cache import OFFLINE, ProcedureCache
for number in range(int(sys.argv[2])):
    with ProcedureCache(OFFLINE, sys.argv[1]) as cache:
        if number % 10 == 0:
            cache.storage("opened").state_set("opened", "number", number)
        if number % 20 == 0 and (pid := os.fork()) == 0:
            cache.storage("forked").state_set("forked", "number", number)
            os._exit(0)
    if number % 20 == 0:
        assert os.waitpid(pid, 0)[1] == 0
"""


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def test_writers_of_several_processes_take_turns(tmp_path: Path) -> None:
    """While others open, close and fork beside them. What one writer waits is judged by what a turn costs here."""
    with ProcedureCache(OFFLINE, tmp_path) as cache:
        cache.storage("first").state_set("first", "number", 0)
    writers = [python(WRITES, tmp_path, f"writer {number}.", SECONDS) for number in range(4)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    opener = python(OPENS, tmp_path, 100)
    said = [writer.communicate()[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4
    assert opener.wait() == 0
    found = [one for text in said for one in json.loads(text)]
    writes = [one["writes"] for one in found]
    assert min(writes) >= statistics.median(writes) / 4, found
    turn = SECONDS / sum(writes)
    assert max(one["worst"] for one in found) < max(1.0, 100 * turn), found
    with ProcedureCache(OFFLINE, tmp_path) as cache:
        for one in found:
            assert cache.storage(one["name"]).state_get(one["name"], "number") == one["writes"] - 1


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[int]:
    """A process that was stopped while it was writing in `tmp_path`."""
    with ProcedureCache(OFFLINE, tmp_path) as cache:
        cache.storage("mine").state_set("mine", "before", 1)
    with python(WRITES, tmp_path, "stopped", 600) as writer:
        try:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()

            def stops_inside() -> bool:
                writer.send_signal(signal.SIGCONT)
                time.sleep(0.005)  # lets it get somewhere else
                writer.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
                with ProcedureCache(OFFLINE, tmp_path, read_only=True) as cache:
                    return cache.status().writer == writer.pid

            eventually(stops_inside, 100)
            yield writer.pid
        finally:
            writer.kill()


def test_a_stopped_writer_holds_nobody_up_for_longer_than_said(stopped: int, tmp_path: Path) -> None:
    """Bounds in seconds are this test's subject; they are given ten times what they need here."""
    settings = CacheSettings(lock_timeout=0.5, close_timeout=0.5)
    started = time.monotonic()
    cache = ProcedureCache(OFFLINE, tmp_path, settings)  # opening writes nothing
    assert time.monotonic() - started < 5
    storage = cache.storage("mine")
    assert storage.state_get("mine", "before") == 1

    started = time.monotonic()
    with pytest.raises(StoreBusy, match=f"process {stopped} "):
        storage.state_set("mine", "while", 1)
    assert 0.4 < time.monotonic() - started < 5
    assert storage.state_get("mine", "while") is None

    waiting = threading.Thread(target=lambda: suppressed(lambda: storage.state_set("mine", "other", 1)))
    waiting.start()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert time.monotonic() - started < 5
    os.waitpid(child, 0)
    waiting.join()

    started = time.monotonic()
    cache.close(timeout=1)
    assert time.monotonic() - started < 6

    os.kill(stopped, signal.SIGKILL)
    with ProcedureCache(OFFLINE, tmp_path) as cache:
        cache.storage("mine").state_set("mine", "after", 1)


def suppressed(call: Callable[[], object]) -> None:
    with contextlib.suppress(StoreBusy):
        call()
