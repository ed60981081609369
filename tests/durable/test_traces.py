"""Runs and breakpoints of Tactus's debugger: the surface of its FileStorage."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from plexus_tactus_cache import PlexusClient, ProcedureCache, RunNotFound
from plexus_tactus_cache.testing.simulator import Simulator

models = pytest.importorskip("tactus.protocols.models")
runtime = pytest.importorskip("tactus.core.runtime")

SOURCE = """
Procedure { output = { n = field.number{} }, function(input)
    state.x = { 1 }
    return { n = Step.checkpoint(function() return { 1, { a = 2.0 } } end)[1] }
end }
"""


def a_run(run_id: str, name: str, day: int) -> Any:
    entry = models.CheckpointEntry(
        position=0,
        type="agent_turn",
        result={"ratio": 1.0, "pair": (1, 2)},
        timestamp=dt.datetime(2026, 1, day, tzinfo=dt.UTC),
        source_location=models.SourceLocation(file="a.tac", line=3),
    )
    start = dt.datetime(2026, 1, day, tzinfo=dt.UTC)
    return models.ExecutionRun(
        run_id=run_id,
        procedure_name=name,
        file_path="a.tac",
        start_time=start,
        status="COMPLETED",
        execution_log=[entry],
    )


def test_runs_and_breakpoints_outlive_the_cache_and_are_not_pushed(tmp_path: Path) -> None:
    marks = [models.Breakpoint(breakpoint_id="b1", file="a.tac", line=3, condition="x > 1")]
    runs = [a_run("one/1", "first", 1), a_run("two", "second", 3), a_run("three", "first", 2)]
    with Simulator() as plexus:
        with ProcedureCache(PlexusClient(plexus.url, plexus.api_key), tmp_path) as cache:
            storage = cache.storage("p1")
            for run in runs:
                storage.save_run(run)
            storage.save_breakpoints("first", marks)
            assert cache.flush(5)
            assert cache.status().procedures == 0
        assert plexus.records() == {}
    with ProcedureCache(None, tmp_path) as cache:
        storage = cache.storage("p1")
        assert storage.load_run("one/1") == runs[0]
        assert [run.run_id for run in storage.list_runs()] == ["two", "three", "one/1"]
        assert storage.list_runs("first") == [runs[2], runs[0]]
        assert storage.load_breakpoints("first") == marks
        assert storage.load_breakpoints("unknown") == []
        for error in (RunNotFound, FileNotFoundError):
            with pytest.raises(error, match="four"):
                storage.load_run("four")


def test_a_run_that_tactus_makes_of_a_log_read_from_the_store(tmp_path: Path) -> None:
    for life in range(2):
        with ProcedureCache(None, tmp_path) as cache:
            made = runtime.TactusRuntime("p1", storage_backend=cache.storage("p1"), run_id="r", hitl_handler=object())
            asyncio.run(made.execute(SOURCE, format="lua"))
            run_id = made.execution_context.save_execution_run("p", "p.tac")
            run = cache.storage("p1").load_run(run_id)
            assert [entry.result for entry in run.execution_log] == [[1, {"a": 2.0}]], life
            assert run.final_state == {"x": [1]}
