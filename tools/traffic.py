"""Part of `make bench`: what one more checkpoint sends, to Plexus (the simulator) and to S3 (only counted)."""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from plexus_tactus_cache import OFFLINE, CacheSettings, CheckpointEntry, PlexusClient, ProcedureCache
from plexus_tactus_cache.remote.records import Procedures
from plexus_tactus_cache.store.local.store import LocalStore
from plexus_tactus_cache.sync.engine import SyncEngine
from plexus_tactus_cache.testing.simulator import Simulator

LENGTHS = (10, 1_000, 10_000)
ROUNDS = 40  # pushes of one more entry each, so that sealing and merging of segments has its share


class _Counted:
    """Attachments in memory: what would go to S3."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.bytes = 0

    def get(self, key: str) -> tuple[bytes, str]:
        return self.objects[key], key

    def etag(self, key: str) -> str:
        return key

    def put(self, key: str, body: bytes) -> str:
        self.objects[key] = body
        self.bytes += len(body)
        return key

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)


def _entry(position: int) -> CheckpointEntry:
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=position)
    return CheckpointEntry(position=position, type="agent_turn", result="x" * 400, timestamp=at, run_id="run-1")


def _sent(plexus: Simulator, directory: Path, length: int) -> tuple[float, float]:
    """Bytes to Plexus and to S3 for each further checkpoint."""
    procedure_id = f"p{length}"
    plexus.put(procedure_id, status="RUNNING")
    attachments = _Counted()
    with ProcedureCache(OFFLINE, directory / procedure_id) as cache:
        storage = cache.storage(procedure_id)
        live = storage.load_procedure_metadata(procedure_id)
        procedures = Procedures(PlexusClient(plexus.url, plexus.api_key), attachments)
        engine = SyncEngine(LocalStore(cache.directory), procedures, CacheSettings())

        def extend(count: int) -> None:
            first = len(live.execution_log)
            live.execution_log.extend(_entry(number) for number in range(first, first + count))
            live.replay_index = first + count
            storage.save_procedure_metadata(procedure_id, live)
            report = engine.run_once(time.time(), force=True)
            if report.pushed != (procedure_id,):
                raise RuntimeError(f"not pushed: {report}")

        extend(length)
        plexus.reset_counters()
        attachments.bytes = 0
        for _ in range(ROUNDS):
            extend(1)
        return plexus.bytes_received / ROUNDS, attachments.bytes / ROUNDS


def main() -> None:
    logging.disable(logging.WARNING)
    print(f"bytes sent for one more checkpoint of 400 bytes, each pushed alone, mean of {ROUNDS}")
    with tempfile.TemporaryDirectory() as directory, Simulator() as plexus:
        base = 0.0
        for length in LENGTHS:
            to_plexus, to_s3 = _sent(plexus, Path(directory), length)
            base = base or to_plexus + to_s3
            total = to_plexus + to_s3
            print(
                f"  log of {length:<8,} {total:9,.0f}  {total / base:5.2f}x"
                f"   ({to_plexus:,.0f} to Plexus, {to_s3:,.0f} to S3)"
            )


if __name__ == "__main__":
    main()
