"""A real Tactus runtime on the adapter, with Plexus out of reach."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from plexus_tactus_cache import CacheSettings, PlexusClient, PlexusStorageAdapter, ProcedureCache
from plexus_tactus_cache.cli.main import main
from plexus_tactus_cache.testing.simulator import Simulator

runtime = pytest.importorskip("tactus.core.runtime")

STEPS = 50
SOURCE = f"""
Procedure {{
    output = {{ total = field.number{{}} }},
    function(input)
        local total = 0
        for i = 1, {STEPS} do
            local step = Step.checkpoint(function()
                return {{ number = i, squares = {{ i, i * i }}, nested = {{ empty = {{}}, name = "step " .. i }} }}
            end)
            total = total + i
            state.last = i
            state["seen_" .. i] = {{ i, "x" }}
        end
        return {{ total = total }}
    end
}}
"""
FOREIGN = {"runtime": {"version": 3}, "code_s3_key": "procedures/p1/code"}
READ = "query Q($id: ID!) { getProcedure(id: $id) { metadata } }"
RELOAD = """
import json, sys
from plexus_tactus_cache import ProcedureCache
with ProcedureCache(None, sys.argv[1]) as cache:
    found = cache.storage("p1").load_procedure_metadata("p1")
    print(json.dumps([[entry.result for entry in found.execution_log], found.state]))
"""


def expected(number: int) -> dict[str, Any]:
    return {"number": number, "squares": [number, number**2], "nested": {"empty": {}, "name": f"step {number}"}}


def run(storage: PlexusStorageAdapter) -> dict[str, Any]:
    made = runtime.TactusRuntime("p1", storage_backend=storage, run_id="run-1")
    found: dict[str, Any] = asyncio.run(made.execute(SOURCE, format="lua"))
    return found


def test_a_run_with_the_api_down_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Simulator() as plexus:
        plexus.put(id="p1", metadata=FOREIGN)
        plexus.fail("refuse")
        client = PlexusClient(plexus.url, plexus.api_key)
        settings = CacheSettings(push_interval=0.1, max_backoff=0.5)
        with ProcedureCache(client, tmp_path, settings) as cache:
            result = run(cache.storage("p1"))
            assert result["success"], result.get("error")
            assert cache.status().dirty == 1

            done = subprocess.run(
                [sys.executable, "-c", RELOAD, str(tmp_path)], capture_output=True, text=True, check=True
            )
            results, state = json.loads(done.stdout)
            assert results == [expected(number) for number in range(1, STEPS + 1)]
            assert state["last"] == STEPS
            assert state["seen_7"] == [7, "x"]

            plexus.heal()
            assert cache.flush(20)
        answer = requests.post(
            plexus.url,
            json={"query": READ, "variables": {"id": "p1"}},
            headers={"x-api-key": plexus.api_key},
            timeout=10,
        ).json()
        metadata = json.loads(answer["data"]["getProcedure"]["metadata"])
        assert [metadata["checkpoints"][key]["result"] for key in sorted(metadata["checkpoints"])] == results
        assert metadata["state"] == state
        assert {key: metadata[key] for key in FOREIGN} == FOREIGN

        monkeypatch.setenv("PLEXUS_API_URL", plexus.url)
        monkeypatch.setenv("PLEXUS_API_KEY", plexus.api_key)
        for command in ("status", "ls", "sync"):
            assert main([command, "--directory", str(tmp_path)]) == 0
            assert main([command, "--directory", str(tmp_path), "--json"]) == 0
        assert main(["status", "--directory", str(tmp_path / "nothing")]) == 1


def test_fifty_checkpoints_at_50_ms_are_few_requests(tmp_path: Path) -> None:
    with Simulator(delay=0.05) as plexus:
        plexus.put(id="p1")
        with ProcedureCache(PlexusClient(plexus.url, plexus.api_key), tmp_path) as cache:
            assert run(cache.storage("p1"))["success"]
            assert cache.flush(20)
        assert plexus.requests <= 10
        record = plexus.record("p1")
        assert record is not None
        assert len(record["metadata"]["checkpoints"]) == STEPS


def test_every_method_of_the_shipped_adapter(tmp_path: Path) -> None:
    with Simulator() as plexus:
        plexus.put(id="p1")
        storage = PlexusStorageAdapter(PlexusClient(plexus.url, plexus.api_key), "p1", directory=tmp_path)
        storage.checkpoint_save("p1", "a", {"x": (1, 2.0)})
        storage.checkpoint_save("p1", "b", 2)
        assert storage.checkpoint_get("p1", "a") == {"x": (1, 2.0)}
        assert storage.checkpoint_exists("p1", "b")
        storage.checkpoint_clear_after("p1", "b")
        assert not storage.checkpoint_exists("p1", "b")
        storage.set_state("p1", {"k": 1, "l": 2})
        storage.state_set("p1", "m", float("inf"))
        storage.state_delete("p1", "l")
        assert storage.get_state("p1") == {"k": 1, "m": float("inf")}
        assert storage.state_get("p1", "absent", "default") == "default"
        storage.checkpoint_clear_all("p1")
        storage.state_clear("p1")
        storage.update_procedure_status("p1", "WAITING_FOR_HUMAN", "message-1")
        found = storage.load_procedure_metadata("p1")
        storage.save_procedure_metadata(found)
        storage.save_procedure_metadata("p1", found)
        assert (found.execution_log, found.state) == ([], {})
        storage._cache.close()
        record = plexus.record("p1")
        assert record is not None
        assert (record["status"], record["waitingOnMessageId"]) == ("WAITING_FOR_HUMAN", "message-1")
