"""The GraphQL endpoint: what AppSync does with one HTTP request, and where the faults strike."""

import json
import math
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from graphql import GraphQLError

from plexus_tactus_cache.testing.simulator.document import Document, read_document, run_document
from plexus_tactus_cache.testing.simulator.errors import ConnectionDroppedError
from plexus_tactus_cache.testing.simulator.faults import Fault, FaultBoard, Met
from plexus_tactus_cache.testing.simulator.listener import Connection, Reply, Request
from plexus_tactus_cache.testing.simulator.schema import Call
from plexus_tactus_cache.testing.simulator.table import Table
from plexus_tactus_cache.testing.simulator.traffic import LogEntry, Traffic

PATH = "/graphql"

_PORTAL_PATH = "/portal"
_PORTAL = b"<!DOCTYPE html><html><body><h1>Welcome to our Wi-Fi</h1><p>Please sign in.</p></body></html>"
_MAX_REQUEST_BYTES = 1024 * 1024  # "about 1 MB", and the status 413: public reports [M], never seen by us
_WAIT_STEP_SECONDS = 0.01


class Api:
    """Answers requests to the endpoint. Called by many threads at a time."""

    def __init__(
        self,
        table: Table,
        faults: FaultBoard,
        traffic: Traffic,
        before_mutation: Callable[[str, dict[str, Any]], None],
        *,
        api_key: str,
        delay: float,
    ) -> None:
        self._table = table
        self._faults = faults
        self._traffic = traffic
        self._before_mutation = before_mutation
        self._api_key = api_key
        self._delay = delay

    def __call__(self, request: Request) -> Reply | None:
        """Answer one request, or return None to close its connection."""
        path = request.path.partition("?")[0]
        if path == _PORTAL_PATH:  # stands for another host: neither counted nor subject to faults
            return _html()
        document = _read(request) if path == PATH else None
        kind = document.kind if document else "query"
        fields = document.fields if document else ()
        met = self._faults.meet(kind, reads_record=any(field.name == "getProcedure" for field in fields))
        entry = LogEntry(fields, met.name)
        self._traffic.arrived(entry, len(request.body))
        reply = self._serve(request, path, document, met)
        if reply is not None:
            self._traffic.answered(entry, reply.status, len(reply.body))
        return reply

    def _serve(self, request: Request, path: str, document: Document | None, met: Met) -> Reply | None:
        connection = request.connection
        # A client that gives up during a delay has its request applied all the same, as from a slow server.
        _wait(connection, self._delay)
        if met.delay is not None:
            _wait(connection, met.delay.seconds, met.delay.cleared)
        fault = met.fault.name if met.fault else None
        match fault:
            case "hang" if met.fault:
                _wait(connection, math.inf, met.fault.cleared, until_client_gone=True)
                return None
            case "drop_before":
                return None
            case "status" | "throttle_429" | "html" | "redirect" if met.fault:
                return _edge_reply(met.fault)
        if path != PATH:
            return _message(404)
        if request.method != "POST":
            return _message(405)
        if fault == "expired_key" or request.headers.get("x-api-key") != self._api_key:
            return _refused(401, "UnauthorizedException", "You are not authorized to make this call.")
        if len(request.body) > _MAX_REQUEST_BYTES:
            return _refused(413, "RequestEntityTooLargeException", "Request body is too large.")
        if document is None:
            return _refused(400, "MalformedHttpRequestException", "Unable to parse GraphQL query.")  # [M]
        call = Call(
            table=self._table,
            executed=self._traffic.executed,
            before_mutation=self._before_mutation,
            admit=lambda: _admit(connection),
            stale=met.stale,
            throttled=fault == "throttle_200",
        )
        reply = _json(200, run_document(document, call))
        return None if fault == "drop_after" or connection.dropped else reply


def _read(request: Request) -> Document | None:
    try:
        return read_document(json.loads(request.body))
    except (ValueError, GraphQLError, RecursionError):
        return None


def _admit(connection: Connection) -> None:
    # Called under the table's lock: once a refused port has cut its connections, nothing more is applied.
    if connection.dropped:
        raise ConnectionDroppedError("the connection was cut before the mutation was applied")


def _wait(
    connection: Connection,
    seconds: float,
    cleared: threading.Event | None = None,
    *,
    until_client_gone: bool = False,
) -> None:
    """Wait, but no longer than the fault lasts and the connection lives."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not connection.dropped:
        if until_client_gone and connection.client_gone():
            return
        step = min(left, _WAIT_STEP_SECONDS)
        if cleared is None:
            time.sleep(step)
        elif cleared.wait(step):
            return


def _edge_reply(fault: Fault) -> Reply:
    """Return what comes from before AppSync, or from somebody in between."""
    match fault.name:
        case "html":
            return _html()
        case "redirect":
            return Reply(302, b"", "text/html", {"Location": _PORTAL_PATH})
        case "throttle_429":
            reply = _refused(429, "TooManyRequestsException", "Rate exceeded")
            if fault.retry_after is not None:
                reply.headers["Retry-After"] = str(math.ceil(fault.retry_after))
            return reply
    return _message(fault.code)


def _html() -> Reply:
    return Reply(200, _PORTAL, "text/html; charset=utf-8")


def _message(status: int) -> Reply:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return _json(status, {"message": phrase})


def _refused(status: int, error_type: str, message: str) -> Reply:
    return _json(status, {"errors": [{"errorType": error_type, "message": message}]})


def _json(status: int, body: dict[str, Any]) -> Reply:
    # A lone surrogate cannot be encoded; like a JVM we send a question mark.
    return Reply(status, json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
