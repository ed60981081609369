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
| `old/<id>/<part>/<key>`    | what a locally changed key was when Plexus last confirmed it |
| `create/<id>`              | a procedure created here that Plexus has not confirmed: the fields of its record |
| `uploads/<id>`             | our objects in S3 that the record, or a push without an answer, may refer to |
| `garbage/<due>/<id>/<key>` | those that nothing refers to any more, by when they may be deleted |
| `inline/<id>`              | how many bytes the record has room for, where that is less than usual |
| `conflict/<n>`, `resolved/<n>` | the conflict journal (journal.py); `conflicts` is its counter |
| `link`                     | state of the connection to Plexus, for status and for the next leader     |
| `request/<name>`           | a foreground sync asked for by a process that does not lead               |
| `run/...`, `breakpoints/...` | developer data, see traces.py                                           |

Ids and keys are percent-encoded. Methods that write expect to be called inside `rows.transaction()`, which is what
makes a write of a document atomic.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

import orjson

from plexus_tactus_cache.document.encoded import Changes, Document, EntryRecord, Part, pack, unpack
from plexus_tactus_cache.errors import CacheCorrupted, EndpointMismatch
from plexus_tactus_cache.reconcile.decide import Side
from plexus_tactus_cache.reconcile.journal import ConflictRecord
from plexus_tactus_cache.store.rows import Rows

log = logging.getLogger("plexus_tactus_cache")

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
    cancelled: list[str] | None = None  # Plexus's CANCELLED was adopted: the runs that it ended
    held: list[str | None] | None = None  # the status, with its message, that such a run set since

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
    fork: Side | None = None  # how a person decided about a log that went two ways

    def again(self) -> Pending:
        """To be tried now, from the beginning: the record is read first."""
        return self._replace(parked=None, attempts=0, due=0.0, error=None, reread=True, doubtful_since=None)


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
        self._prepare()

    def close(self) -> None:
        self.rows.discard()

    # --- the directory ------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str | None:
        """The API endpoint that the directory belongs to; None until it first met one."""
        found = self._json("store")
        return None if found is None else found["endpoint"]

    def _prepare(self) -> None:
        found = self._json("store")
        if found is None and not self.rows.read_only:
            with self.rows.transaction():
                if self._json("store") is None:
                    self._put_json("store", {"format": FORMAT, "endpoint": None})
        elif found is not None and found["format"] != FORMAT:
            raise CacheCorrupted(
                f"{self.directory} has format {found['format']}, this version reads {FORMAT}: "
                "use the version that wrote it"
            )

    def check(self, endpoint: str) -> None:
        """Raises EndpointMismatch when the directory belongs to another endpoint."""
        found = self.endpoint
        if found is not None and found != endpoint:
            raise EndpointMismatch(
                f"{self.directory} belongs to {found}, not to {endpoint}: choose another directory "
                "(argument directory=, or PLEXUS_CACHE_DIR)"
            )

    def bind(self, endpoint: str) -> None:
        """Give the directory to `endpoint`. Raises EndpointMismatch when it has another one."""
        if self.endpoint is None and not self.rows.read_only:
            with self.rows.transaction():
                if self.endpoint is None:
                    self._put_json("store", {"format": FORMAT, "endpoint": endpoint})
        self.check(endpoint)

    # --- documents ----------------------------------------------------------------------------------------

    def header(self, procedure_id: str) -> Header | None:
        """The header, or None for a procedure that is not stored."""
        return self._load(Header, f"doc/{_quoted(procedure_id)}")

    def procedure_ids(self) -> list[str]:
        """All stored procedures, sorted."""
        return [unquote(key) for key, _ in self.rows.scan("doc/")]

    def read(self, procedure_id: str, *, log: bool = True) -> tuple[Header, Document] | None:
        """The whole document (or, without `log`, all but its log) as it is at one moment; or None."""
        name = _quoted(procedure_id)
        with self.rows.snapshot():
            header = self.header(procedure_id)
            if header is None:
                return None
            rows = self.rows.scan(f"log/{name}/") if log else []
            entries = [EntryRecord.from_bytes(payload) for _, payload in rows]
            if log and len(entries) != header.log_length:
                raise CacheCorrupted(
                    f"procedure {procedure_id!r} has {len(entries)} log entries stored, expected {header.log_length}"
                )
            extras = self.rows.read_row(f"extra/{name}")
            return header, Document(
                log=entries,
                replay_index=header.replay_index,
                state=self._part("state", name),
                lua_state=self._part("lua", name),
                status=header.status,
                waiting_on_message_id=header.waiting_on_message_id,
                extras=None if extras is None else unpack(extras),
                variables={key: unpack(payload) for key, payload in self.rows.scan(f"var/{name}/")} if log else {},
            )

    def _part(self, part: str, name: str) -> Part:
        return {unquote(key): unpack(payload) for key, payload in self.rows.scan(f"{part}/{name}/")}

    def write(self, procedure_id: str, changes: Changes, now: float) -> Header:
        """Apply a change made here: raises the version and queues the document for a push."""
        header, changes = _held_back(self.header(procedure_id) or Header(), changes)
        self._keep_old(procedure_id, changes)
        return self._queue(procedure_id, header, changes, now)

    def merge(self, procedure_id: str, changes: Changes, runs: Iterable[str], now: float) -> Header:
        """Apply what a merge, or a person, decided about a document that has to be pushed."""
        header = _cancelled(self.header(procedure_id) or Header(), changes, runs)
        return self._queue(procedure_id, header, changes, now)

    def _queue(self, procedure_id: str, header: Header, changes: Changes, now: float) -> Header:
        version = header.version + 1
        header = self._apply(procedure_id, header, changes, version)._replace(version=version)
        if not header.queued:
            self.put_pending(procedure_id, Pending(since=now))
            header = header._replace(queued=True)
        self.put_header(procedure_id, header)
        return header

    def adopt(self, procedure_id: str, changes: Changes, runs: Iterable[str]) -> Header:
        """Apply a change that came from Plexus: the document stays or becomes clean.

        `runs`: the run ids in the log as it was here, for a CANCELLED that comes with it.
        """
        header = _cancelled(self.header(procedure_id) or Header(), changes, runs)
        version = header.version + 1 if changes else header.version
        header = self._apply(procedure_id, header, changes, version)
        header = header._replace(version=version, pushed=version, queued=False)
        self.forget_old(procedure_id)
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

    def update_pending(self, procedure_id: str, now: float, **changes: Any) -> None:
        """Change some of a pending push, queued now if it was not."""
        with self.rows.transaction():
            pending = self.pending(procedure_id) or Pending(since=now)
            self.put_pending(procedure_id, pending._replace(**changes))

    def park(self, procedure_id: str, reason: str, now: float) -> None:
        """Leave the document as it is until a person has done something about `reason`."""
        log.error("procedure %s is parked, nothing of it is lost: %s", procedure_id, reason)
        with self.rows.transaction():
            header = self.header(procedure_id)
            if header is not None and not header.queued:
                self.put_header(procedure_id, header._replace(queued=True))
            self.update_pending(procedure_id, now, parked=reason, reread=True)

    # --- bookkeeping of the sync engine -------------------------------------------------------------------

    def base(self, procedure_id: str) -> Any:
        return self._json(f"base/{_quoted(procedure_id)}")

    def put_base(self, procedure_id: str, base: Any) -> None:
        self._put_json(f"base/{_quoted(procedure_id)}", base)

    def sent(self, procedure_id: str) -> dict[str, Any]:
        """Pushes whose answer has not come, by push id."""
        return self._json(f"sent/{_quoted(procedure_id)}") or {}

    def _keep_old(self, procedure_id: str, changes: Changes) -> None:
        """Before keys change for the first time since a push: keep what Plexus has, for the conflict journal."""
        name = _quoted(procedure_id)
        for part, values in (("state", changes.state), ("lua", changes.lua_state)):
            for key in map(_quoted, values):
                current = self.rows.read_row(f"{part}/{name}/{key}")
                if current is not None and self.rows.read_row(f"old/{name}/{part}/{key}") is None:
                    self.rows.write_row(f"old/{name}/{part}/{key}", current)

    def old(self, procedure_id: str) -> dict[str, Part]:
        """What keys of `state` and `lua_state` were before they were changed here; some may be newer than the base."""
        name = _quoted(procedure_id)
        return {"state": self._part("old", f"{name}/state"), "lua_state": self._part("old", f"{name}/lua")}

    def forget_old(self, procedure_id: str) -> None:
        self.rows.delete_range(f"old/{_quoted(procedure_id)}/")

    def creation(self, procedure_id: str) -> dict[str, Any] | None:
        """The fields of a record that is still to be created; None for any other procedure."""
        found: dict[str, Any] | None = self._json(f"create/{_quoted(procedure_id)}")
        return found

    def put_creation(self, procedure_id: str, fields: dict[str, Any]) -> None:
        self._put_json(f"create/{_quoted(procedure_id)}", fields)

    def drop_creation(self, procedure_id: str) -> None:
        self.rows.delete_row(f"create/{_quoted(procedure_id)}")

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

    # --- attachments --------------------------------------------------------------------------------------

    def uploads(self, procedure_id: str) -> dict[str, str]:
        """Our objects in S3 by key: the digest of what they hold, empty until the upload is known to be complete."""
        return self._json(f"uploads/{_quoted(procedure_id)}") or {}

    def put_uploads(self, procedure_id: str, uploads: dict[str, str]) -> None:
        if uploads:
            self._put_json(f"uploads/{_quoted(procedure_id)}", uploads)
        else:
            self.rows.delete_row(f"uploads/{_quoted(procedure_id)}")

    def put_garbage(self, procedure_id: str, keys: Iterable[str], due: float) -> None:
        for key in keys:
            self.rows.write_row(f"garbage/{due:020.3f}/{_quoted(procedure_id)}/{_quoted(key)}", b"")

    def garbage_due(self) -> float | None:
        """When the first object may be deleted; None while there is none."""
        first = self.rows.first("garbage/")
        return None if first is None else float(first.split("/")[0])

    def garbage(self, now: float) -> dict[str, list[str]]:
        """The keys that may be deleted at `now`, by procedure."""
        found: dict[str, list[str]] = {}
        for row, _ in self.rows.scan("garbage/"):
            due, procedure_id, key = row.split("/")
            if float(due) > now:
                break
            found.setdefault(unquote(procedure_id), []).append(unquote(key))
        return found

    def drop_garbage(self, procedure_id: str, keys: Iterable[str]) -> None:
        gone = {f"{_quoted(procedure_id)}/{_quoted(key)}" for key in keys}
        rows = [row for row, _ in self.rows.scan("garbage/") if row.partition("/")[2] in gone]
        self.rows.delete_rows(f"garbage/{row}" for row in rows)

    def inline_limit(self, procedure_id: str) -> int | None:
        """Bytes that the record was found to have room for; None: as usual."""
        found: int | None = self._json(f"inline/{_quoted(procedure_id)}")
        return found

    def put_inline_limit(self, procedure_id: str, limit: int) -> None:
        self._put_json(f"inline/{_quoted(procedure_id)}", limit)

    # --- the conflict journal -----------------------------------------------------------------------------

    def conflicts(self, *, resolved: bool = False) -> dict[int, ConflictRecord]:
        """The open conflicts, or those that were resolved, by number."""
        rows = self.rows.scan("resolved/" if resolved else "conflict/")
        return {int(key): ConflictRecord.from_bytes(payload) for key, payload in rows}

    def put_conflict(self, record: ConflictRecord, number: int | None = None) -> int:
        """Store a conflict, by default under a new number; one that is open already is not stored again."""
        if number is None:
            for known, other in self.conflicts().items():
                if other._replace(at=record.at).to_bytes() == record.to_bytes():
                    return known
            number = (self._json("conflicts") or 0) + 1
            self._put_json("conflicts", number)
        self.rows.delete_rows((f"conflict/{number:09}", f"resolved/{number:09}"))
        folder = "conflict" if record.resolved is None else "resolved"
        self.rows.write_row(f"{folder}/{number:09}", record.to_bytes())
        return number

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


def _held_back(header: Header, changes: Changes) -> tuple[Header, Changes]:
    """A CANCELLED that came from Plexus stays until a new run begins: what the old one says meanwhile waits."""
    if header.cancelled is None:
        return header, changes
    ended = {None, *header.cancelled}
    if any(entry.run_id not in ended for entry in changes.entries.values()):
        held = (str(header.held[0]), header.held[1]) if header.held is not None else None
        return header._replace(cancelled=None, held=None), replace(changes, status=changes.status or held)
    if changes.status is not None:
        return header._replace(held=list(changes.status)), replace(changes, status=None)
    return header, changes


def _cancelled(header: Header, changes: Changes, runs: Iterable[str]) -> Header:
    """Note a CANCELLED that comes from Plexus, or that another status came after it."""
    if changes.status is None or changes.status[0] == header.status:
        return header
    return header._replace(cancelled=sorted(runs) if changes.status[0] == "CANCELLED" else None, held=None)


def _quoted(text: str) -> str:
    return quote(text, safe="")
