"""LocalStore: the documents of one directory, as rows.

| row                        | holds                                                                    |
|----------------------------|--------------------------------------------------------------------------|
| `store`                    | format and API endpoint of the directory                                 |
| `doc/<id>`                 | `Header`: version, counts, replay index, status; rewritten by every write |
| `log/<id>/<position>`      | one entry of the execution log                                           |
| `state/<id>/<key>`         | one top-level value of state; likewise `lua/<id>/<key>`                  |
| `var/<id>/<digest>`        | one distinct value of captured_vars                                      |
| `extra/<id>`               | async_procedures                                                         |
| `outbox/<id>`              | `Pending`: there while the document is dirty or parked; clean ones are not visited |
| `base/<id>`, `sent/<id>`   | what Plexus last confirmed; what pushes without an answer carried |
| `link`                     | state of the connection to Plexus, for status and for the next leader     |
| `request/<name>`           | a foreground sync asked for by a process that does not lead               |
| `run/...`, `breakpoints/...` | developer data, see traces.py                                           |

Ids and keys are percent-encoded. Methods that write expect to be called inside `rows.transaction()`, which is what
makes a write of a document atomic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

import orjson

from plexus_tactus_cache.errors import CacheCorrupted, EndpointMismatch
from plexus_tactus_cache.records import Changes, Document, EntryRecord, Part, pack, unpack
from plexus_tactus_cache.rows import Rows

FORMAT = 1


class Header(NamedTuple):
    """What is known of a document without reading it."""

    version: int = 0  # raised by every local change
    pushed: int = 0  # the version that Plexus has
    log_version: int = 0  # the version at which the log last changed
    log_length: int = 0
    replay_index: int = 0
    status: str | None = None
    waiting_on_message_id: str | None = None
    queued: bool = False  # whether there is an outbox row
    swept: int = 0  # raised when rows of variables were deleted

    @property
    def dirty(self) -> bool:
        return self.version > self.pushed


class Pending(NamedTuple):
    """Why and when a document will be pushed. Times are seconds since the epoch."""

    since: float
    due: float = 0.0
    attempts: int = 0
    parked: str | None = None
    error: str | None = None
    reread: bool = False  # the record moved: read it before the next push
    doubtful_since: float | None = None  # reads say that the record is older than we know it, or gone


class Link(NamedTuple):
    """What the last exchanges with Plexus said about the connection."""

    state: str = "unknown"  # unknown, online, offline, throttled, unauthorized
    problem: str | None = None
    attempts: int = 0
    due: float = 0.0
    told_to_wait: bool = False  # `due` comes from Retry-After
    last_success: float | None = None
    credentials: str | None = None  # fingerprint of those that were refused


_Record = TypeVar("_Record", Header, Pending, Link)


class LocalStore:
    """The documents in one directory. Raises LocalStoreError and its subclasses, never the database's errors."""

    def __init__(self, directory: Path, *, durability: str = "full", lock_timeout: float = 60.0) -> None:
        self.rows = Rows(directory, durability=durability, lock_timeout=lock_timeout)
        self.directory = directory
        self._bind(None)

    def close(self) -> None:
        self.rows.discard()

    # --- the directory ------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str | None:
        """The API endpoint that the directory belongs to; None until it first met one."""
        found: str | None = self._json("store")["endpoint"]
        return found

    def _bind(self, endpoint: str | None) -> None:
        found = self._json("store")
        if found is not None and found["format"] != FORMAT:
            raise CacheCorrupted(
                f"{self.directory} has format {found['format']}, this version reads {FORMAT}: "
                "use the version that wrote it"
            )
        if found is None or (endpoint is not None and found["endpoint"] is None):
            if self.rows.read_only:
                return
            with self.rows.transaction():
                self._put_json("store", {"format": FORMAT, "endpoint": endpoint})
        elif endpoint is not None and found["endpoint"] != endpoint:
            raise EndpointMismatch(
                f"{self.directory} belongs to {found['endpoint']}, not to {endpoint}: choose another directory "
                "(argument directory=, or PLEXUS_CACHE_DIR)"
            )

    def bind(self, endpoint: str) -> None:
        """Give the directory to `endpoint`. Raises EndpointMismatch when it has another one."""
        self._bind(endpoint)

    # --- documents ----------------------------------------------------------------------------------------

    def header(self, procedure_id: str) -> Header | None:
        """The header, or None for a procedure that is not stored."""
        return self._load(Header, f"doc/{_quoted(procedure_id)}")

    def procedure_ids(self) -> list[str]:
        """All stored procedures, sorted."""
        return [unquote(key) for key, _ in self.rows.scan("doc/")]

    def read(self, procedure_id: str) -> tuple[Header, Document] | None:
        """The whole document as it is at one moment, or None."""
        name = _quoted(procedure_id)
        with self.rows.snapshot():
            header = self.header(procedure_id)
            if header is None:
                return None
            log = [EntryRecord.from_bytes(payload) for _, payload in self.rows.scan(f"log/{name}/")]
            if len(log) != header.log_length:
                raise CacheCorrupted(
                    f"procedure {procedure_id!r} has {len(log)} log entries stored, expected {header.log_length}"
                )
            extras = self.rows.read_row(f"extra/{name}")
            return header, Document(
                log=log,
                replay_index=header.replay_index,
                state=self._part("state", name),
                lua_state=self._part("lua", name),
                status=header.status,
                waiting_on_message_id=header.waiting_on_message_id,
                extras=None if extras is None else unpack(extras),
                variables={key: unpack(payload) for key, payload in self.rows.scan(f"var/{name}/")},
            )

    def read_state(self, procedure_id: str) -> Part:
        """All of the state."""
        return self._part("state", _quoted(procedure_id))

    def _part(self, part: str, name: str) -> Part:
        return {unquote(key): unpack(payload) for key, payload in self.rows.scan(f"{part}/{name}/")}

    def write(self, procedure_id: str, changes: Changes, now: float) -> Header:
        """Apply a local change: raises the version and queues the document for a push."""
        header = self.header(procedure_id) or Header()
        version = header.version + 1
        header = self._apply(procedure_id, header, changes, version)._replace(version=version)
        if not header.queued:
            self.put_pending(procedure_id, Pending(since=now))
            header = header._replace(queued=True)
        self.put_header(procedure_id, header)
        return header

    def adopt(self, procedure_id: str, changes: Changes) -> Header:
        """Apply a change that came from Plexus: the document stays or becomes clean."""
        header = self.header(procedure_id) or Header()
        version = header.version + 1 if changes else header.version
        header = self._apply(procedure_id, header, changes, version)
        header = header._replace(version=version, pushed=version, queued=False)
        self.put_header(procedure_id, header)
        self.drop_pending(procedure_id)
        return header

    def _apply(self, procedure_id: str, header: Header, changes: Changes, version: int) -> Header:
        name = _quoted(procedure_id)
        for digest, value in changes.variables.items():
            self.rows.write_row(f"var/{name}/{digest}", pack(value))
        for position, entry in changes.entries.items():
            self.rows.write_row(f"log/{name}/{position:09}", entry.to_bytes())
        for part, values in (("state", changes.state), ("lua", changes.lua_state)):
            for key, changed in values.items():
                row = f"{part}/{name}/{_quoted(key)}"
                if changed is None:
                    self.rows.delete_row(row)
                else:
                    self.rows.write_row(row, pack(changed))
        if changes.extras is not None:
            (extras,) = changes.extras
            if extras is None:
                self.rows.delete_row(f"extra/{name}")
            else:
                self.rows.write_row(f"extra/{name}", pack(extras))
        length = max(header.log_length, max(changes.entries, default=-1) + 1)
        updated: dict[str, Any] = {}
        if changes.log_length is not None and changes.log_length < length:
            removed, length = length - changes.log_length, changes.log_length
            self.rows.delete_range(f"log/{name}/", f"{length:09}")
            if removed >= length:  # it reads what is left: not for the few entries of a sub-procedure that is done
                updated["swept"] = header.swept + self._sweep(name)
        if changes.entries or length != header.log_length:
            updated["log_version"] = version
        if changes.status is not None:
            updated["status"], updated["waiting_on_message_id"] = changes.status
        if changes.replay_index is not None:
            updated["replay_index"] = changes.replay_index
        return header._replace(log_length=length, **updated)

    def _sweep(self, name: str) -> int:
        """Delete the variables that no entry refers to any more: how many there were."""
        used = {
            reference
            for _, payload in self.rows.scan(f"log/{name}/")
            for reference in (EntryRecord.from_bytes(payload).captured or {}).values()
        }
        unused = [key for key, _ in self.rows.scan(f"var/{name}/") if key not in used]
        self.rows.delete_rows(f"var/{name}/{key}" for key in unused)
        return len(unused)

    def sweep(self, procedure_id: str) -> Header | None:
        """Free what replaced entries left behind; to be called now and then, it reads the whole log."""
        header = self.header(procedure_id)
        if header is not None and (swept := self._sweep(_quoted(procedure_id))):
            header = header._replace(swept=header.swept + swept)
            self.put_header(procedure_id, header)
        return header

    def put_header(self, procedure_id: str, header: Header) -> None:
        self._save(f"doc/{_quoted(procedure_id)}", header)

    # --- what is to be pushed -----------------------------------------------------------------------------

    def pending(self, procedure_id: str) -> Pending | None:
        return self._load(Pending, f"outbox/{_quoted(procedure_id)}")

    def outbox(self) -> dict[str, Pending]:
        """Every dirty or parked document; clean ones are not visited."""
        return {unquote(key): Pending(*orjson.loads(payload)) for key, payload in self.rows.scan("outbox/")}

    def put_pending(self, procedure_id: str, pending: Pending) -> None:
        self._save(f"outbox/{_quoted(procedure_id)}", pending)

    def drop_pending(self, procedure_id: str) -> None:
        self.rows.delete_row(f"outbox/{_quoted(procedure_id)}")

    # --- bookkeeping of the sync engine -------------------------------------------------------------------

    def base(self, procedure_id: str) -> Any:
        return self._json(f"base/{_quoted(procedure_id)}")

    def put_base(self, procedure_id: str, base: Any) -> None:
        self._put_json(f"base/{_quoted(procedure_id)}", base)

    def sent(self, procedure_id: str) -> dict[str, Any]:
        """Pushes whose answer has not come, by push id."""
        return self._json(f"sent/{_quoted(procedure_id)}") or {}

    def put_sent(self, procedure_id: str, sent: dict[str, Any]) -> None:
        if sent:
            self._put_json(f"sent/{_quoted(procedure_id)}", sent)
        else:
            self.rows.delete_row(f"sent/{_quoted(procedure_id)}")

    def link(self) -> Link:
        return self._load(Link, "link") or Link()

    def put_link(self, link: Link) -> None:
        self._save("link", link)

    def requests(self) -> list[str]:
        """Foreground passes that other processes wait for."""
        return [key for key, _ in self.rows.scan("request/")]

    def put_request(self, name: str) -> None:
        self.rows.write_row(f"request/{name}", b"")

    def drop_request(self, name: str) -> None:
        self.rows.delete_row(f"request/{name}")

    # --- rows as JSON -------------------------------------------------------------------------------------

    def _json(self, key: str) -> Any:
        payload = self.rows.read_row(key)
        return None if payload is None else orjson.loads(payload)

    def _put_json(self, key: str, value: Any) -> None:
        self.rows.write_row(key, orjson.dumps(value))

    def _load(self, kind: type[_Record], key: str) -> _Record | None:
        payload = self.rows.read_row(key)
        return None if payload is None else kind(*orjson.loads(payload))

    def _save(self, key: str, record: Header | Pending | Link) -> None:
        self.rows.write_row(key, orjson.dumps([*record]))


def _quoted(text: str) -> str:
    return quote(text, safe="")
