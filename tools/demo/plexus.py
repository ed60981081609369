"""Plexus, as the demo sees it: the simulator in a process of its own, its control port, and plain GraphQL."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

import requests

from plexus_tactus_cache.testing import DEFAULT_API_KEY

_READ = "query Read($id: ID!) { getProcedure(id: $id) { id name accountId status metadata updatedAt } }"
_TIMEOUT = 10


class PlexusProcess:
    """A simulator process; everything asked of it goes over HTTP."""

    key = DEFAULT_API_KEY

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "plexus_tactus_cache.testing", "--port", "0", "--control-port", "0"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.url, self._control = self._printed("Plexus simulator"), self._printed("Control")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _printed(self, label: str) -> str:
        """What it prints after this label, on one of the next lines."""
        for line in self._process.stdout or ():
            found, _, value = line.partition(": ")
            if found == label:
                return value.strip()
        raise RuntimeError("the simulator did not start")

    @property
    def pid(self) -> int:
        return self._process.pid

    def put(self, record_id: str, **fields: Any) -> None:
        """Write a record as another writer would."""
        self._call("PUT", f"records/{record_id}", fields)

    def record(self, record_id: str) -> dict[str, Any]:
        """The record as it is stored, also while the API is away; `metadata` is parsed."""
        return self._call("GET", f"records/{record_id}")

    def read(self, record_id: str) -> dict[str, Any]:
        """The record as the API answers it to anyone, parsed out of its AWSJSON text."""
        body = {"query": _READ, "variables": {"id": record_id}}
        answer = requests.post(self.url, json=body, headers={"x-api-key": self.key}, timeout=_TIMEOUT).json()
        found: dict[str, Any] = answer["data"]["getProcedure"]
        return {**found, "metadata": json.loads(found["metadata"])}

    def go_away(self) -> None:
        """From now on every connection to the API is refused."""
        self._call("POST", "fail", {"fault": "refuse"})

    def come_back(self) -> None:
        """The API answers again."""
        self._call("POST", "heal", {})

    def stats(self) -> dict[str, Any]:
        """How many requests came in, and their bytes."""
        return self._call("GET", "stats")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = requests.request(method, f"{self._control}/{path}", json=body, timeout=_TIMEOUT)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found
