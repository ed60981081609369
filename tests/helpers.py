"""What tests of more than one folder use."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plexus_tactus_cache import CacheSettings, CheckpointEntry, PlexusClient, ProcedureCache
from plexus_tactus_cache.remote.records import Procedures
from plexus_tactus_cache.store.local import LocalStore
from plexus_tactus_cache.sync.engine import SyncEngine
from plexus_tactus_cache.testing.simulator import Simulator

FAST: dict[str, Any] = {"push_interval": 0.05, "max_backoff": 0.5, "request_timeout": 2, "close_timeout": 2}


def fast(**changes: Any) -> CacheSettings:
    """Settings with which a test need not wait."""
    return CacheSettings(**{**FAST, **changes})


def client_of(plexus: Simulator, key: str | None = None) -> PlexusClient:
    """A client for the simulator."""
    return PlexusClient(plexus.url, key or plexus.api_key, timeout=2)


def eventually(condition: Callable[[], object], seconds: float = 8.0) -> None:
    """Look until `condition` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def append(storage: Any, result: Any, *, run_id: str = "run", kind: str = "agent_turn") -> None:
    """What a Tactus runtime does for one checkpoint."""
    live = storage.load_procedure_metadata(storage.procedure_id)
    log = live.execution_log
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=len(log))
    log.append(CheckpointEntry(position=len(log), type=kind, result=result, timestamp=at, run_id=run_id))
    live.replay_index = len(log)
    storage.save_procedure_metadata(storage.procedure_id, live)


def remote_state(plexus: Simulator, procedure_id: str) -> Any:
    """The state in Plexus; empty where there is none."""
    record = plexus.record(procedure_id) or {}
    return (record.get("metadata") or {}).get("state", {})


def remote_results(plexus: Simulator, procedure_id: str) -> list[Any]:
    """The results of the log in Plexus, by position."""
    record = plexus.record(procedure_id) or {}
    checkpoints = (record.get("metadata") or {}).get("checkpoints", {})
    return [entry["result"] for _, entry in sorted(checkpoints.items())]


def parked_reason(cache: ProcedureCache, procedure_id: str) -> str | None:
    """Why a procedure is parked; None when it is not."""
    return next(one.parked_reason for one in cache.procedures() if one.procedure_id == procedure_id)


def engine_on(directory: Path, client: Any, **changes: Any) -> tuple[SyncEngine, LocalStore]:
    """An engine without a thread, whose time is what the test says; its jitter is none."""
    store = LocalStore(directory)
    return SyncEngine(store, Procedures(client), fast(**changes), jitter=lambda longest: longest), store
