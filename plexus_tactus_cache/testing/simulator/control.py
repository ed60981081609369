"""The control port: the simulator's faults and records over HTTP, reachable while the API is not."""

import json
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from plexus_tactus_cache.testing.simulator.errors import PlexusError
from plexus_tactus_cache.testing.simulator.faults import FAULTS
from plexus_tactus_cache.testing.simulator.listener import Listener, Reply, Request
from plexus_tactus_cache.testing.simulator.simulator import Simulator

ROUTES = {
    "GET /": "this list",
    "POST /fail": 'switch a fault on: {"fault": NAME, PARAMETER: VALUE, ...}',
    "POST /heal": "switch all faults off",
    "GET /stats": "the requests that came in, their bytes, and how often each field was executed",
    "POST /reset-counters": "forget what came in so far",
    "GET /records": "all records by id",
    "GET /records/ID": "one record",
    "PUT /records/ID": "create or change a record as another writer would: the fields to change",
}


class ControlServer:
    """Serves the control of one simulator on a port of its own."""

    def __init__(self, plexus: Simulator, port: int = 0, host: str = "127.0.0.1") -> None:
        self._plexus = plexus
        self._listener = Listener(host, port, self._answer)
        self.url = f"http://{host}:{self._listener.port}"

    def __enter__(self) -> Self:
        self._listener.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _answer(self, request: Request) -> Reply:
        try:
            found = self._route(request.method, request.path, request.body)
        except (ValueError, TypeError, PlexusError) as error:
            return _json(400, {"error": str(error)})
        return _json(404, {"error": f"no {request.method} {request.path}"}) if found is None else _json(200, found)

    def _route(self, method: str, path: str, body: bytes) -> dict[str, Any] | None:
        match method, path.strip("/").split("/"):
            case "GET", [""]:
                faults = {
                    name: {"description": kind.description, "parameters": kind.parameters}
                    for name, kind in FAULTS.items()
                }
                return {"faults": faults, "routes": ROUTES}
            case "POST", ["fail"]:
                given = _object(body)
                self._plexus.fail(given.pop("fault", ""), **given)
                return {"ok": True}
            case "POST", ["heal"]:
                self._plexus.heal()
                return {"ok": True}
            case "POST", ["reset-counters"]:
                self._plexus.reset_counters()
                return {"ok": True}
            case "GET", ["stats"]:
                return {
                    "requests": self._plexus.requests,
                    "bytes_received": self._plexus.bytes_received,
                    "bytes_sent": self._plexus.bytes_sent,
                    "operations": self._plexus.operations,
                }
            case "GET", ["records"]:
                return self._plexus.records()
            case "GET", ["records", record_id]:
                return self._plexus.record(unquote(record_id))
            case "PUT", ["records", record_id]:
                return self._plexus.put(**_object(body) | {"id": unquote(record_id)})
        return None


def _object(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("want a JSON object")
    return value


def _json(status: int, body: dict[str, Any]) -> Reply:
    return Reply(status, json.dumps(body).encode())
