"""An HTTP listener whose port can be closed and opened again, and whose connections can be cut.

It stands on the standard library's server because that one keeps connections alive, as AppSync does (werkzeug
closes each), and a connection that is still open when the port closes is where clients go wrong.
"""

import contextlib
import errno
import logging
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.02  # how long closing the port may take; the price is an idle wake-up this often


class Connection:
    """One connection of a client."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._dropped = threading.Event()

    @property
    def dropped(self) -> bool:
        """Whether we cut it."""
        return self._dropped.is_set()

    def drop(self) -> None:
        """Cut the connection from any thread; the thread that serves it closes the socket."""
        self._dropped.set()
        with contextlib.suppress(OSError):  # the client was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def client_gone(self) -> bool:
        """Whether the client has hung up."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


@dataclass(frozen=True)
class Request:
    """An HTTP request, read whole."""

    method: str
    path: str
    headers: Message
    body: bytes
    connection: Connection


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


App = Callable[[Request], Reply | None]
"""Answers a request; None closes the connection without an answer."""


class Listener:
    """Serves `app` on one port. Not thread-safe: its owner calls one method at a time."""

    def __init__(self, host: str, port: int, app: App) -> None:
        self._host = host
        self._app = app
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._held: socket.socket | None = self._bind(port)
        self.port: int = self._held.getsockname()[1]

    def open(self) -> None:
        """Listen. A client can connect as soon as this returns."""
        if self._server is not None:
            return
        self._server = _Server((self._host, self.port), self._app, self._held or self._bind(self.port))
        self._held = None
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(_POLL_SECONDS,),
            name=f"simulator:{self.port}",
            daemon=True,
        )
        self._thread.start()

    def refuse(self) -> None:
        """Close the port and cut every connection. The port stays ours, so that it can be opened again."""
        self._shut()
        # Bound but not listening: connecting is refused, and the system gives the port to nobody else.
        if self._held is None:
            self._held = self._bind(self.port)

    def close(self) -> None:
        """Close for good."""
        self._shut()
        if self._held is not None:
            self._held.close()
            self._held = None

    def _shut(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join(timeout=5)
        self._server.server_close()
        self._server.drop_connections()
        self._server = self._thread = None

    def _bind(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if sys.platform != "win32":  # there it would let two processes share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((self._host, port))
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise OSError(errno.EADDRINUSE, f"port {port} on {self._host} is already in use") from error
        return sock


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a request may hang for as long as its fault is on
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], app: App, bound: socket.socket) -> None:
        super().__init__(address, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.app = app
        self._connections: dict[socket.socket, Connection] = {}
        self._lock = threading.Lock()
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        # Here, in the accepting thread, so that no connection is unknown once that thread has ended.
        with self._lock:
            self._connections[request] = Connection(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def connection(self, request: socket.socket) -> Connection:
        with self._lock:
            return self._connections[request]

    def drop_connections(self) -> None:
        with self._lock:
            # Under the lock: a socket is closed, and its number given away, only after it left the dict.
            for connection in self._connections.values():
                connection.drop()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that hangs up is no error of ours
            _log.exception("a connection of %s failed", client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        server = cast("_Server", self.server)
        connection = server.connection(self.connection)
        if self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            self._send(Reply(411, b'{"message": "Length Required"}'))
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # cut in the middle of the request
            self.close_connection = True
            return
        request = Request(self.command, self.path, self.headers, body, connection)
        try:
            reply = None if connection.dropped else server.app(request)
        except Exception:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the reason
            _log.exception("%s %s failed inside the simulator", self.command, self.path)
            reply = Reply(500, b'{"message": "the simulator failed; see its log"}')
        if reply is None or connection.dropped:
            self.close_connection = True
            connection.drop()
        else:
            self._send(reply)

    do_GET = do_PUT = do_DELETE = do_POST  # noqa: N815 - looked up by these names

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)
