"""A process that forks while its cache is open and busy."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from conftest import OpenCache
from helpers import append, eventually, remote_results, remote_state
from interrupts import at_event

from plexus_tactus_cache import LocalStoreError
from plexus_tactus_cache.testing.simulator import Simulator


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)  # a child that ends badly; nothing of pytest's runs twice
    return pid


def test_children_of_a_busy_process_keep_what_they_saved(plexus: Simulator, open_cache: OpenCache) -> None:
    """Each child goes on with a procedure of its own while the parent's threads write, sync and finally close."""
    names = [f"child{number}" for number in range(4)]
    for name in ("busy", *names):
        plexus.put(name)
    cache = open_cache()
    busy, stop = cache.storage("busy"), threading.Event()

    def work() -> None:
        while not stop.is_set():
            append(busy, "x")

    worker = threading.Thread(target=work)
    worker.start()
    pids = []
    for name in names:
        storage = cache.storage(name)
        append(storage, "before the fork")

        def go_on(name: str = name) -> None:
            append(cache.storage(name), "in the child")
            cache.storage(name).state_set(name, "child", True)

        pids.append(fork(go_on))
    for pid in pids:
        os.waitpid(pid, 0)
    stop.set()
    worker.join()
    length = len(busy.load_procedure_metadata("busy").execution_log)
    cache.close()
    again = open_cache()
    assert again.flush(20)
    for name in names:
        assert remote_results(plexus, name) == ["before the fork", "in the child"]
        assert remote_state(plexus, name) == {"child": True}
    assert len(remote_results(plexus, "busy")) == length


def test_a_child_takes_over_when_the_parent_has_closed(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache()
    append(cache.storage("p"), "parent")
    forked, closed = os.pipe(), os.pipe()

    def child() -> None:
        os.write(forked[1], b"x")
        os.read(closed[0], 1)
        append(cache.storage("p"), "child")
        eventually(lambda: remote_results(plexus, "p") == ["parent", "child"] or not cache.status().dirty)

    pid = fork(child)
    os.read(forked[0], 1)
    cache.close()
    os.write(closed[1], b"x")
    os.waitpid(pid, 0)
    assert remote_results(plexus, "p") == ["parent", "child"]


def test_a_fork_in_a_signal_handler_during_a_write(plexus: Simulator, open_cache: OpenCache) -> None:
    """Nobody waits for it, another thread's write goes on, and its child is told that it cannot use the store."""
    for name in ("main", "thread"):
        plexus.put(name)
    cache = open_cache(lock_timeout=60)
    main, other = cache.storage("main"), cache.storage("thread")
    main.state_set("main", "n", 0)
    other.state_set("thread", "n", 0)
    pids: list[int] = []

    def child() -> None:
        threads = threading.active_count()
        try:
            cache.storage("main").state_get("main", "n")
        except LocalStoreError as error:
            with pytest.raises(LocalStoreError, match="do not fork in a signal handler"):
                cache.sync()
            cache.close()
            os._exit(17 if "do not fork in a signal handler" in str(error) and threads == 1 else 1)
        os._exit(0)

    began = time.monotonic()
    for at in range(20, 400, 20):
        writer = threading.Thread(target=other.state_set, args=("thread", "n", at))
        writer.start()
        at_event(at, lambda: pids.append(fork(child)), partial(main.state_set, "main", "n", at))
        writer.join()
    outcomes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert set(outcomes) <= {0, 17}
    assert outcomes.count(17) > 3
    assert time.monotonic() - began < 50, "a fork has waited for lock_timeout"
    assert cache.flush(60)
    assert (remote_state(plexus, "main"), remote_state(plexus, "thread")) == ({"n": at}, {"n": at})
