"""A real S3 API over HTTP, moto's, that can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

BUCKET = "reportblockdetails-test"


class S3Server:
    """An S3 server with one bucket. `down`, `deny` and `slow` last until `heal`."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._status: str | None = None
        self._slow: threading.Event | None = None
        self.requests: list[tuple[str, str, int]] = []  # method, path, bytes of the body
        self._server: BaseWSGIServer = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        size = int(environ.get("CONTENT_LENGTH") or 0)
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], size))
        slow, status = self._slow, self._status
        if slow is not None:
            slow.wait(30)
        if status is not None:
            environ["wsgi.input"].read(size)
            start_response(status, [("Content-Type", "application/xml")])
            code = {"403": "AccessDenied", "503": "SlowDown"}[status[:3]]
            return [f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()]
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def down(self) -> None:
        self._status = "503 Slow Down"

    def deny(self) -> None:
        self._status = "403 Forbidden"

    def slow(self) -> None:
        """Answer nothing until `heal`."""
        self._slow = threading.Event()

    def heal(self) -> None:
        self._status = None
        if self._slow is not None:
            self._slow.set()
            self._slow = None

    def uploaded(self) -> int:
        """Bytes of objects that were written."""
        return sum(size for method, _, size in self.requests if method == "PUT")

    def close(self) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()


class Bucket:
    """What is in the bucket, as Plexus would look."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def all_keys(self) -> set[str]:
        return {one["Key"] for one in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])}

    def read(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def write(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)
