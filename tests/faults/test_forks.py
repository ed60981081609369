"""A process that forks while its cache is open and busy."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from conftest import OpenCache
from helpers import append, eventually, remote_results, remote_state

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
