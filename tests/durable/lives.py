"""Lives of a procedure: processes that run it on a cache and may kill themselves after any of its writes."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import multiprocessing
import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plexus_tactus_cache import CacheSettings, PlexusClient, PlexusStorageAdapter, ProcedureCache

PROCEDURE_ID = "p1"
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["pytest", "tactus.dspy.agent", "plexus_tactus_cache.tactus"]
)  # else seconds for each life


@dataclass(frozen=True)
class Life:
    """One life; `kill_after` counts writes of the log or the state, from 1, and None lets it live to the end."""

    folder: Path  # has `steps.txt`, the side effects, and `outcome.json`
    source: str
    store: str = "store"
    url: str | None = None
    key: str | None = None
    run_id: str = "run-1"
    kill_after: int | None = None
    answer: Any = None  # of the human; None: not yet
    children_done: bool = False
    files: dict[str, str] = field(default_factory=dict)

    def live(self) -> dict[str, Any] | None:
        """Live it in a process: what `execute` returned, or None if it was killed."""
        outcome = self.folder / "outcome.json"
        outcome.unlink(missing_ok=True)
        process = _SERVER.Process(target=_live, args=(self,))
        process.start()
        process.join(60)
        if process.exitcode == -signal.SIGKILL:
            return None
        assert process.exitcode == 0, f"exit status {process.exitcode}"
        found: dict[str, Any] = json.loads(outcome.read_text())
        return found

    def steps(self) -> list[str]:
        """The side effects so far, in order."""
        path = self.folder / "steps.txt"
        return path.read_text().splitlines() if path.exists() else []

    def but(self, **changes: Any) -> Life:
        """The same, with changes."""
        return replace(self, **changes)

    def after_kills_at_every_write(self) -> list[tuple[int, dict[str, Any] | None, list[str], Life]]:
        """For each write in turn, in a folder of its own: killed after it, then resumed in a new process."""
        found: list[tuple[int, dict[str, Any] | None, list[str], Life]] = []
        for count in range(1, 200):
            folder = self.folder / str(count)
            folder.mkdir()
            life = self.but(folder=folder)
            if life.but(kill_after=count).live() is not None:
                return found
            found.append((count, life.live(), life.steps(), life))
        raise AssertionError("the procedure never got to its end")


class Host:
    """What the procedure may call; each call is a side effect."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def perform(self, step: Any) -> None:
        """Add a line that is in the kernel when this returns: it outlives the process."""
        file = os.open(self._folder / "steps.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, f"{step}\n".encode())
        finally:
            os.close(file)

    def python(self, number: int) -> dict[str, Any]:
        """A value of Python's own."""
        self.perform(f"python{number}")
        return {"list": [number, number], "tuple": (1, 2.0)}


class Mortal(PlexusStorageAdapter):
    """Kills the process after so many writes, each of which was acknowledged."""

    def watch(self, cache: ProcedureCache, life: Life) -> None:
        self._left = life.kill_after
        self._flush = cache.flush if life.url else None

    def _written(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                if self._flush is not None and not self._flush(20):
                    os._exit(3)
                os.kill(os.getpid(), signal.SIGKILL)

    def save_procedure_metadata(self, procedure_id: Any = None, metadata: Any = None) -> None:
        super().save_procedure_metadata(procedure_id, metadata)
        self._written()

    def state_set(self, procedure_id: str, key: str, value: Any) -> None:
        super().state_set(procedure_id, key, value)
        self._written()


class Human:
    """A HITL handler whose answer comes between lives."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def request_interaction(self, procedure_id: str, request: Any, execution_context: Any = None) -> Any:
        from tactus.core.exceptions import ProcedureWaitingForHuman
        from tactus.protocols.models import HITLResponse

        if self._answer is None:
            raise ProcedureWaitingForHuman(procedure_id, f"message-{execution_context.next_position()}")
        return HITLResponse(value=self._answer, responded_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))


def _live(life: Life) -> None:
    logging.disable(logging.ERROR)
    from tactus.core.mocking import MockManager

    from plexus_tactus_cache.document.lua import freeze
    from plexus_tactus_cache.tactus import DurableRuntime

    os.chdir(life.folder)
    for name, text in life.files.items():
        Path(name).write_text(text)
    settings = CacheSettings(push_interval=0.05, on_unreachable="empty" if life.url is None else "raise")
    client = PlexusClient(life.url, life.key or "") if life.url else None
    with ProcedureCache(client, life.folder / life.store, settings) as cache:
        storage = Mortal._on(cache, PROCEDURE_ID)
        assert isinstance(storage, Mortal)
        storage.watch(cache, life)
        options: dict[str, Any] = {
            "storage_backend": storage,
            "run_id": life.run_id,
            "hitl_handler": Human(life.answer),
        }
        if "await_children" in life.source:
            options["child_wait_resolver"] = lambda request: {
                "complete": life.children_done,
                "children": [{"id": child["id"], "terminal": life.children_done} for child in request["children"]],
            }
        runtime = DurableRuntime(PROCEDURE_ID, **options)
        runtime.mock_manager = MockManager()
        runtime.register_python_module("host", Host(life.folder))
        outcome = asyncio.run(runtime.execute(f'host = require("host")\n{life.source}', format="lua"))
        (life.folder / "outcome.json").write_text(json.dumps(freeze(outcome), default=str))
