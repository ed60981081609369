"""The simulator as tests use it: start it, write as others would, switch faults, look at what came in."""

import copy
import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from plexus_tactus_cache.testing.simulator import awsjson
from plexus_tactus_cache.testing.simulator.api import PATH, Api
from plexus_tactus_cache.testing.simulator.faults import FAULTS, Fault, FaultBoard, make_fault
from plexus_tactus_cache.testing.simulator.listener import Listener
from plexus_tactus_cache.testing.simulator.table import FIELDS, Record, Table
from plexus_tactus_cache.testing.simulator.traffic import LogEntry, Traffic

_log = logging.getLogger(__name__)

DEFAULT_API_KEY = "da2-simulator"


class Simulator:
    """A Plexus API on a port of this machine. All methods may be called from any thread."""

    def __init__(
        self,
        port: int = 0,
        api_key: str = DEFAULT_API_KEY,
        data_file: str | Path | None = None,
        delay: float = 0.0,
        host: str = "127.0.0.1",
    ) -> None:
        self.api_key = api_key
        self.before_mutation: Callable[[str, dict[str, Any]], object] | None = None
        """Called with the field's name and arguments just before a mutation is applied; no lock is held."""
        self._host = host
        self._port = port
        self._table = Table(Path(data_file) if data_file is not None else None)
        self._faults = FaultBoard()
        self._traffic = Traffic()
        self._api = Api(self._table, self._faults, self._traffic, self._call_hook, api_key=api_key, delay=delay)
        self._switch = threading.RLock()  # guards the fields below, held while the port opens or closes
        self._listener: Listener | None = None
        self._refused = False
        self._outage: threading.Timer | None = None

    def start(self) -> Self:
        """Listen; clients can connect as soon as this returns. Starting twice is harmless."""
        with self._switch:
            if self._listener is None:
                self._listener = Listener(self._host, self._port, self._api)
                self._listener.open()
                self._port = self._listener.port  # kept, so that a second start finds the same address
        return self

    def stop(self) -> None:
        """Switch off all faults, cut every connection and free the port. The records stay."""
        with self._switch:
            self._clear_faults()
            if self._listener is not None:
                self._listener.close()
                self._listener = None
        self._finish_writes()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The GraphQL endpoint."""
        if self._port == 0:
            raise RuntimeError("the simulator has no address before it is started")
        return f"http://{self._host}:{self._port}{PATH}"

    # Records, as other writers see them

    def put(self, id: str, **fields: Any) -> Record:
        """Create or change a record without a condition, as other writers do, and return it.

        Only the fields given change; None removes one. `metadata` is the parsed value. `updatedAt` is stamped
        strictly later than it was.
        """
        if unknown := sorted(fields.keys() - set(FIELDS)):
            raise ValueError(f"a Procedure has no field {', '.join(unknown)}")
        if isinstance(fields.get("metadata"), str):
            raise ValueError("metadata= takes the parsed value, not its JSON text")
        if fields.get("metadata") is not None:
            fields["metadata"] = awsjson.normalise(fields["metadata"])
        return _complete(self._table.put(id, fields, {"name": id, "accountId": "account"}))

    def record(self, id: str) -> Record | None:
        """Return a copy of a record with all its fields (None where not set), or None when there is none."""
        record = self._table.get(id)
        return None if record is None else _complete(record)

    def records(self) -> dict[str, Record]:
        """Return a copy of all records by id."""
        return {record_id: _complete(record) for record_id, record in self._table.snapshot().items()}

    def delete(self, id: str) -> None:
        """Delete a record, if it is there."""
        self._table.discard(id)

    # Faults

    def fail(self, fault: str, times: int | None = None, only: str | None = None, **params: float | None) -> None:
        """Switch a fault on: for `times` requests (None: until heal), for mutations or queries `only`.

        Parameters: `seconds` (delay, outage), `code` (status), `retry_after` (throttle_429; None leaves the
        header out). `refuse` and `outage` close the port, so they take neither `times` nor `only`.
        """
        made = make_fault(fault, times, only, params)
        if FAULTS[fault].counted:
            self._faults.add(made)
        else:
            self._close_port(made)

    def heal(self) -> None:
        """Switch off all faults: the port is open again, delays end, hanging requests are cut."""
        with self._switch:
            self._clear_faults()
            if self._listener is not None:
                self._listener.open()

    # What came in

    @property
    def requests(self) -> int:
        """How many HTTP requests arrived since the start or the last reset_counters()."""
        return self._traffic.requests

    @property
    def bytes_received(self) -> int:
        """The bytes of the requests' bodies."""
        return self._traffic.bytes_received

    @property
    def bytes_sent(self) -> int:
        """The bytes of the answers' bodies."""
        return self._traffic.bytes_sent

    @property
    def operations(self) -> Counter[str]:
        """How often each top-level field was executed."""
        return self._traffic.operations

    @property
    def log(self) -> list[LogEntry]:
        """The requests, in the order of their arrival."""
        return self._traffic.log

    def reset_counters(self) -> None:
        """Forget what came in so far."""
        self._traffic.reset()

    def _close_port(self, fault: Fault) -> None:
        with self._switch:
            if self._listener is None:
                raise RuntimeError(f"fault {fault.name!r} needs a simulator that is started")
            self._listener.refuse()
            if fault.name == "refuse":
                self._refused = True
            else:
                if self._outage is not None:
                    self._outage.cancel()
                self._outage = threading.Timer(fault.seconds, self._end_outage)
                self._outage.daemon = True
                self._outage.start()
        self._finish_writes()

    def _end_outage(self) -> None:
        with self._switch:
            if self._outage is not threading.current_thread():
                return  # healed, or replaced by another outage, while we waited for the lock
            self._outage = None
            if self._listener is not None and not self._refused:
                self._listener.open()

    def _clear_faults(self) -> None:
        if self._outage is not None:
            self._outage.cancel()
            self._outage = None
        self._refused = False
        self._faults.clear()

    def _finish_writes(self) -> None:
        # A write that was being applied when its connection was cut is over once we had the lock; later ones
        # see the cut.
        with self._table.lock:
            pass

    def _call_hook(self, name: str, args: dict[str, Any]) -> None:
        if self.before_mutation is not None:
            try:
                self.before_mutation(name, args)
            except Exception:
                _log.exception("before_mutation failed; the client gets an error without a type")
                raise


def _complete(record: Record) -> Record:
    return {name: copy.deepcopy(record.get(name)) for name in FIELDS}
