"""`make bench`: what a saved checkpoint costs, as ratios within this one run.

Each figure stands beside a raw SQLite commit of the same bytes with synchronous=FULL on the same disk, the two taken
in turn, so that a busy machine slows both. Medians of single operations; nothing here is a test.
"""

from __future__ import annotations

import datetime as dt
import logging
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from plexus_tactus_cache import OFFLINE, CacheSettings, CheckpointEntry, ProcedureCache, SourceLocation

RESULT = {"text": "x" * 380, "n": 1}  # 400 bytes as JSON
ROUNDS = 300
SHORT, LONG = 10, 10_000
MICRO = 1e6


def _entry(position: int, state: dict[str, Any]) -> CheckpointEntry:
    return CheckpointEntry(
        position=position,
        type="explicit_checkpoint",
        result=dict(RESULT, n=position),
        timestamp=dt.datetime.now(dt.UTC),
        duration_ms=1.5,
        run_id="run-1",
        source_location=SourceLocation(file="/srv/procedures/review.tac", line=12, function="main"),
        captured_vars=dict(state),
    )


def _timed(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


class _RawCommit:
    """One row in one transaction."""

    def __init__(self, directory: Path) -> None:
        self.connection = sqlite3.connect(directory / "raw.db", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = wal")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute("CREATE TABLE entries (position INTEGER PRIMARY KEY, body BLOB)")
        self.body = b"x" * 400

    def step(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("INSERT INTO entries (body) VALUES (?)", (self.body,))
        self.connection.execute("COMMIT")


class _Saves:
    """Checkpoints saved as a Tactus runtime does, through a storage backend that already holds `length` of them."""

    def __init__(self, storage: Any, name: str, length: int) -> None:
        self.storage, self.name = storage, name
        self.metadata = storage.load_procedure_metadata(name)
        self.metadata.state.update({"phase": "exploration", "items": list(range(10))})
        self.metadata.execution_log.extend(_entry(position, self.metadata.state) for position in range(length))
        self.metadata.replay_index = length
        storage.save_procedure_metadata(name, self.metadata)

    def step(self) -> None:
        position = len(self.metadata.execution_log)
        self.metadata.execution_log.append(_entry(position, self.metadata.state))
        self.metadata.replay_index += 1
        self.storage.save_procedure_metadata(self.name, self.metadata)


def _file_storage(directory: Path) -> Any:
    try:
        from tactus.adapters.file_storage import FileStorage
    except ImportError:
        return None
    return FileStorage(str(directory / "files"))


@click.command(help=__doc__)
@click.option("--directory", type=click.Path(path_type=Path), help="where to measure; default: a temporary directory")
@click.option("--durability", type=click.Choice(["full", "normal"]), default="full")
def main(directory: Path | None, durability: str) -> None:
    root = Path(tempfile.mkdtemp(prefix="bench-", dir=directory))
    try:
        _bench(root, durability)
    finally:
        shutil.rmtree(root)


def _bench(root: Path, durability: str) -> None:
    logging.getLogger("plexus_tactus_cache").setLevel(logging.ERROR)  # nothing here is meant to be pushed
    settings = CacheSettings(durability=durability)
    files = _file_storage(root)
    with ProcedureCache(OFFLINE, root / "cache", settings) as cache:
        steps: dict[str, _Saves] = {}
        for length in (SHORT, LONG):
            steps[f"this cache, log of {length:,}"] = _Saves(cache.storage(f"p{length}"), f"p{length}", length)
        raw = _RawCommit(root)
        raws: list[float] = []
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(ROUNDS):
            raws.append(_timed(raw.step))
            for name, saves in steps.items():
                taken[name].append(_timed(saves.step))
        commit = statistics.median(raws)
        print(f"one saved checkpoint, median of {ROUNDS} (durability={durability})")
        print(f"  {'raw SQLite commit, 400 bytes':<34} {commit * MICRO:9.0f} us   1.00x")
        medians = {name: statistics.median(times) for name, times in taken.items()}
        if files is not None:
            for length, rounds in ((SHORT, 30), (LONG, 3)):
                saves = _Saves(files, f"p{length}", length)
                medians[f"Tactus FileStorage, log of {length:,}"] = statistics.median(
                    _timed(saves.step) for _ in range(rounds)
                )
        for name, median in medians.items():
            print(
                f"  {name:<34} {median * MICRO:9.0f} us {median / commit:6.2f}x  (+{(median - commit) * MICRO:,.0f} us)"
            )
        short, long = (medians[f"this cache, log of {length:,}"] for length in (SHORT, LONG))
        print(f"  flat: a log of {LONG:,} costs {long / short:.2f}x of a log of {SHORT}")
    _bench_load(root, files)


def _bench_load(root: Path, files: Any) -> None:
    loads: list[float] = []
    others: list[float] = []
    for _ in range(5):
        with ProcedureCache(OFFLINE, root / "cache") as cache:
            storage = cache.storage(f"p{LONG}")
            loads.append(_timed(lambda: storage.load_procedure_metadata(f"p{LONG}")))  # noqa: B023 - called at once
        if files is not None:
            others.append(_timed(lambda: files.load_procedure_metadata(f"p{LONG}")))
    ours = statistics.median(loads)
    print(f"cold load of {LONG:,} entries, median of 5")
    print(f"  {'this cache':<34} {ours * 1e3:9.1f} ms")
    if others:
        theirs = statistics.median(others)
        print(f"  {'Tactus FileStorage':<34} {theirs * 1e3:9.1f} ms   {theirs / ours:.1f}x slower")
    else:
        print("  (Tactus is not installed: no comparison with its FileStorage)", file=sys.stderr)


if __name__ == "__main__":
    main()
