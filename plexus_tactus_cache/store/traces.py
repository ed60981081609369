"""Traces: what Tactus's debugger keeps with a storage backend, runs and breakpoints.

| row                  | holds                                                            |
|----------------------|------------------------------------------------------------------|
| `run/<id>`           | name of the procedure, start time, the encoded ExecutionRun      |
| `breakpoints/<name>` | the encoded list of Breakpoint of the procedure of that name     |

Developer data: it stays in this directory and is never pushed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote

import orjson

from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoded import pack, unpack
from plexus_tactus_cache.document.encoding import encode_leniently
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.errors import RunNotFound
from plexus_tactus_cache.store.rows import Rows


class Traces:
    """The runs and breakpoints of one directory.

    Args:
        writing: a local transaction whose failure shows in the cache's status.
    """

    def __init__(self, rows: Rows, writing: Callable[[], AbstractContextManager[None]]) -> None:
        self._rows = rows
        self._writing = writing

    def save_run(self, run: Any) -> None:
        """Keep `run`, in place of the one with its id; what cannot be stored in it is described."""
        # A run is a picture of its log, and may hold what the log itself could not.
        row = [run.procedure_name, run.start_time.isoformat(), [*encode_leniently(run)]]
        with self._writing():
            self._rows.write_row(f"run/{quote(run.run_id, safe='')}", orjson.dumps(row))

    def load_run(self, run_id: str) -> Any:
        """The run of that id. Raises RunNotFound."""
        row = self._rows.read_row(f"run/{quote(run_id, safe='')}")
        if row is None:
            raise RunNotFound(run_id)
        return decode(Encoded(*orjson.loads(row)[2]))

    def list_runs(self, procedure_name: str | None = None) -> list[Any]:
        """All runs, or those of one procedure, the newest first."""
        rows = [orjson.loads(row) for _, row in self._rows.scan("run/")]
        runs = [decode(Encoded(*run)) for name, _, run in rows if procedure_name in (None, name)]
        return sorted(runs, key=_start, reverse=True)

    def save_breakpoints(self, procedure_name: str, breakpoints: list[Any]) -> None:
        """Keep these breakpoints in place of the procedure's."""
        with self._writing():
            self._rows.write_row(
                f"breakpoints/{quote(procedure_name, safe='')}", pack(encode_leniently(list(breakpoints)))
            )

    def load_breakpoints(self, procedure_name: str) -> list[Any]:
        """The breakpoints of the procedure; none if none were saved."""
        row = self._rows.read_row(f"breakpoints/{quote(procedure_name, safe='')}")
        found: list[Any] = [] if row is None else decode(unpack(row))
        return found


def _start(run: Any) -> Any:
    """When a run started: a field of Tactus's model, or of the dict that it is where Tactus is not loaded."""
    return run["start_time"] if isinstance(run, dict) else run.start_time
