"""Traces: what Tactus's debugger keeps with a storage backend, runs and breakpoints.

| kind          | name of    | holds                                                        |
|---------------|------------|--------------------------------------------------------------|
| `run`         | the run    | name of the procedure, start time, the encoded ExecutionRun  |
| `breakpoints` | procedure  | the encoded list of its Breakpoint                           |

Developer data: it stays in this store and is never pushed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import orjson

from plexus_tactus_cache.document import checks
from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoded import pack, unpack
from plexus_tactus_cache.document.encoding import encode_leniently
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.errors import RunNotFound, WrongType
from plexus_tactus_cache.store.contract import Store


class Traces:
    """The runs and breakpoints of one store.

    Args:
        transaction: one whose failure shows in the cache's status.
    """

    def __init__(self, store: Store, transaction: Callable[[Callable[[], None]], None]) -> None:
        self._store = store
        self._transaction = transaction

    def save_run(self, run: Any) -> None:
        """Keep `run`, in place of the one with its id; what cannot be stored in it is described. Raises WrongType."""
        # A run is a picture of its log, and may hold what the log itself could not.
        encoded = encode_leniently(run)
        if "" not in encoded.notes:
            raise WrongType("run", f"want an ExecutionRun, a model that its name leads to, not {checks.kind_of(run)}")
        row = [run.procedure_name, run.start_time.isoformat(), [*encoded]]
        payload = orjson.dumps(row)
        self._transaction(lambda: self._store.put_trace("run", run.run_id, payload))

    def load_run(self, run_id: str) -> Any:
        """The run of that id. Raises RunNotFound."""
        row = self._store.trace("run", run_id)
        if row is None:
            raise RunNotFound(run_id)
        return decode(Encoded(*orjson.loads(row)[2]))

    def list_runs(self, procedure_name: str | None = None) -> list[Any]:
        """All runs, or those of one procedure, the newest first."""
        rows = [orjson.loads(row) for row in self._store.traces("run")]
        found = [row for row in rows if procedure_name in (None, row[0])]
        found.sort(key=lambda row: _start(row[1]), reverse=True)
        return [decode(Encoded(*run)) for _, _, run in found]

    def save_breakpoints(self, procedure_name: str, breakpoints: list[Any]) -> None:
        """Keep these breakpoints in place of the procedure's."""
        payload = pack(encode_leniently(list(breakpoints)))
        self._transaction(lambda: self._store.put_trace("breakpoints", procedure_name, payload))

    def load_breakpoints(self, procedure_name: str) -> list[Any]:
        """The breakpoints of the procedure; none if none were saved."""
        row = self._store.trace("breakpoints", procedure_name)
        found: list[Any] = [] if row is None else decode(unpack(row))
        return found


def _start(written: str) -> dt.datetime:
    """When a run started; runs that say it with an offset and without one are in one list."""
    moment = dt.datetime.fromisoformat(written)
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
