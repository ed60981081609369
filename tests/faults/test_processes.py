"""Processes that die, and processes that share a directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from plexus_tactus_cache import CacheSettings, PlexusClient, ProcedureCache
from plexus_tactus_cache.testing.simulator import Simulator

SAVES = """
import datetime as dt, itertools, sys
from plexus_tactus_cache import CheckpointEntry, ProcedureCache
storage = ProcedureCache(None, sys.argv[1]).storage("p1")
live = storage.load_procedure_metadata("p1")
for number in itertools.count(len(live.execution_log)):
    storage.state_set("p1", "last", number)
    live.execution_log.append(CheckpointEntry(position=number, type="x", result=number, timestamp=dt.datetime.now(dt.UTC)))
    storage.save_procedure_metadata("p1", live)
    print(number, flush=True)
"""
KEYS = """
import sys
from plexus_tactus_cache import ProcedureCache
with ProcedureCache(None, sys.argv[1]) as cache:
    for number in range(40):
        cache.storage("shared").state_set("shared", f"{sys.argv[2]}{number}", number)
        cache.storage(sys.argv[2]).checkpoint_save(sys.argv[2], f"step {number}", number)
"""


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


def test_what_a_save_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acknowledged = -1
    for wanted in (1, 5, 2, 9, 3):
        with python(SAVES, str(tmp_path)) as worker:
            assert worker.stdout is not None
            for _ in range(wanted):
                acknowledged = int(worker.stdout.readline())
            worker.kill()
            acknowledged = max([acknowledged, *map(int, worker.stdout.read().split())])
        with ProcedureCache(None, tmp_path) as cache:
            found = cache.storage("p1").load_procedure_metadata("p1")
            assert [entry.result for entry in found.execution_log] == list(range(len(found.execution_log)))
            assert len(found.execution_log) > acknowledged
            assert found.state["last"] >= acknowledged


def test_two_processes_write_and_one_syncs(tmp_path: Path) -> None:
    with Simulator() as plexus:
        for procedure_id in ("shared", "left", "right"):
            plexus.put(id=procedure_id)
        settings = CacheSettings(push_interval=0.05)
        with ProcedureCache(PlexusClient(plexus.url, plexus.api_key), tmp_path, settings) as cache:
            writers = [python(KEYS, str(tmp_path), name) for name in ("left", "right")]
            assert [writer.wait(60) for writer in writers] == [0, 0]
            for writer in writers:
                if writer.stdout is not None:
                    writer.stdout.close()
            assert cache.flush(20)
            assert cache.status().parked == 0
        records = plexus.records()
        wanted = {f"{name}{number}": number for name in ("left", "right") for number in range(40)}
        assert records["shared"]["metadata"]["state"] == wanted
        for name in ("left", "right"):
            results = {key: entry["result"] for key, entry in records[name]["metadata"]["checkpoints"].items()}
            assert results == {f"step {number}": number for number in range(40)}
