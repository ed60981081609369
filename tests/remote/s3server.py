"""A real S3 API over HTTP, moto's, that can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

BUCKET = "reportblockdetails-test"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class S3Server:
    """An S3 server with one bucket. What it is told lasts until `heal`; what it does not answer itself, moto does."""

    def __init__(self) -> None:
        self._moto: Application = DomainDispatcherApplication(create_backend_app)
        self._application: Application = self._moto
        self._slow: tuple[threading.Event, float] | None = None
        self.requests: list[tuple[str, str, int]] = []  # method, path, bytes of the body
        self._port = 0
        self._listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _listen(self) -> None:
        self._server: BaseWSGIServer | None = make_server("127.0.0.1", self._port, self._serve, threaded=True)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        size = int(environ.get("CONTENT_LENGTH") or 0)
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], size))
        application = self._application
        if self._slow is not None:
            healed, seconds = self._slow
            healed.wait(seconds)
        if application is not self._moto:
            environ["wsgi.input"].read(size)
        return application(environ, start_response)

    def answer(self, status: str, body: str, **headers: str) -> None:
        """Answer every request with this; `status` is such as "503 Slow Down"."""

        def application(_: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response(status, [("Content-Type", "application/xml"), *headers.items()])
            return [body.encode()]

        self._application = application

    def fail(self, status: str, code: str) -> None:
        """Answer every request with an error of S3's."""
        self.answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>")

    def down(self) -> None:
        self.fail("503 Slow Down", "SlowDown")

    def deny(self) -> None:
        self.fail("403 Forbidden", "AccessDenied")

    def slow(self, seconds: float = 30) -> None:
        """Answer nothing for so long, or until `heal`."""
        self._slow = threading.Event(), seconds

    def cut(self) -> None:
        """End the connection inside every body."""
        self.answer("200 OK", "half", **{"Content-Length": "100", "ETag": '"e"'})

    def refuse(self) -> None:
        """Accept no connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def heal(self) -> None:
        self._application = self._moto
        if self._slow is not None:
            self._slow[0].set()
            self._slow = None
        if self._server is None:
            self._listen()

    def uploaded(self) -> int:
        """Bytes of objects that were written."""
        return sum(size for method, _, size in self.requests if method == "PUT")

    def close(self) -> None:
        self.heal()
        self.refuse()


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
