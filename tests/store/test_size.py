"""What a store takes of the disk: it shrinks with what it holds."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from conftest import OpenCache
from helpers import eventually, fast
from processes import Process

from plexus_tactus_cache import ProcedureCache
from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.testing.simulator import Simulator

MB = 2**20
ENTRY = "x" * 100_000


def fill(cache: ProcedureCache, entries: int = 100) -> None:
    for number in range(entries):
        cache.storage("p").checkpoint_save("p", f"step {number}", ENTRY)


def test_the_file_shrinks_when_the_cache_is_closed(open_offline: OpenCache) -> None:
    cache = open_offline(durability="normal")
    file = cache.directory / DATABASE
    fill(cache)
    cache.storage("other").state_set("other", "k", 1)
    cache.close()
    full = file.stat().st_size
    cache = open_offline(durability="normal")
    cache.storage("p").checkpoint_clear_all("p")
    cache.close()
    assert full > 8 * MB
    assert file.stat().st_size < full / 4
    assert open_offline().storage("other").state_get("other", "k") == 1


def test_the_file_shrinks_while_the_leader_runs_on(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={})
    cache = open_cache(durability="normal")
    eventually(lambda: cache.status().leader)
    fill(cache)
    cache.storage("p").checkpoint_clear_all("p")

    def free() -> int:
        connection = sqlite3.connect(cache.directory / DATABASE)
        try:
            return int(connection.execute("PRAGMA freelist_count").fetchone()[0])
        finally:
            connection.close()

    eventually(lambda: free() <= 256)


def test_nobody_waits_for_a_stopped_writer_to_make_the_file_smaller(open_offline: OpenCache, tmp_path: Path) -> None:
    cache = open_offline("store", durability="normal")
    fill(cache)
    cache.storage("p").checkpoint_clear_all("p")
    with Process(
        "from plexus_tactus_cache.store.local.lock import Ticket, WriterLock; from pathlib import Path; import math\n"
        f"lock = WriterLock(Path({str(cache.directory)!r})); lock.acquire(Ticket(), math.inf)"
    ) as other:
        assert cache.status().writer == other.do("__import__('os').getpid()")
        cache.close()  # it would wait for `lock_timeout`, a minute
    with ProcedureCache(None, cache.directory, fast()) as again:
        again.close()
        assert (cache.directory / DATABASE).stat().st_size < 4 * MB
