"""LocalStore: the documents of one directory, as rows.

| row                        | holds                                                                     |
|----------------------------|---------------------------------------------------------------------------|
| `store`                    | format, id and API endpoint of the directory                              |
| `doc/<id>`                 | `Header` and the tally of the other rows; rewritten by every write        |
| `log/<id>/<position>`      | one entry of the execution log                                            |
| `state/<id>/<key>`         | one top-level value of state; likewise `lua/<id>/<key>`                   |
| `var/<id>/<digest>`        | one distinct value of captured_vars                                       |
| `extra/<id>`               | async_procedures                                                          |
| `gone/<id>`                | the token of a document that was forgotten, and that Plexus has           |
| `forgotten`                | a version above those of all documents that were forgotten                |

The rows of the outbox, of the books and of the processes are in the modules of those names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from plexus_tactus_cache.document.encoded import Changes, Document, EntryRecord, Part, pack, unpack
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.errors import CacheCorrupted, EndpointMismatch, StoreFull
from plexus_tactus_cache.reconcile.lineage import upgraded
from plexus_tactus_cache.store.cancelled import held_back, note_cancelled
from plexus_tactus_cache.store.contract import Header, Pending
from plexus_tactus_cache.store.local import directory as directories
from plexus_tactus_cache.store.local import forks
from plexus_tactus_cache.store.local.books import BookRows
from plexus_tactus_cache.store.local.journal import JournalRows
from plexus_tactus_cache.store.local.marker import FORMATS
from plexus_tactus_cache.store.local.parts import LOG, REST, check_counted, header_of, quoted
from plexus_tactus_cache.store.local.processes import ProcessRows
from plexus_tactus_cache.store.local.recovery import RecoveryRows
from plexus_tactus_cache.store.local.rows import Rows

log = logging.getLogger("plexus_tactus_cache")

_NEARLY = 0.8  # of what it may hold


class _Encoded(NamedTuple):
    """What a document is changed to, ready to be written."""

    rows: list[tuple[str, str, bytes | None]]  # kind, rest of the key, payload; None: there is to be none
    fields: dict[str, Any]  # of the header

    @classmethod
    def of(cls, changes: Changes) -> _Encoded:
        """Raises TypeError or InvalidArgument for what cannot be stored: before anything of it is."""
        rows: list[tuple[str, str, bytes | None]] = [
            *(("var", digest, pack(value)) for digest, value in changes.variables.items()),
            *(("log", f"{position:09}", entry.to_bytes()) for position, entry in changes.entries.items()),
            *(("state", quoted(key), _packed(value)) for key, value in changes.state.items()),
            *(("lua", quoted(key), _packed(value)) for key, value in changes.lua_state.items()),
            *(("extra", "", _packed(value)) for value in changes.extras or ()),
        ]
        fields: dict[str, Any] = {}
        if changes.status is not None:
            fields["status"], fields["waiting_on_message_id"] = changes.status
        if changes.replay_index is not None:
            fields["replay_index"] = changes.replay_index
        return cls(rows, fields)


def _packed(value: Encoded | None) -> bytes | None:
    return None if value is None else pack(value)


class LocalStore(RecoveryRows, BookRows, JournalRows, ProcessRows):
    """The documents in one directory; a Store.

    Args:
        durability: `full`: a write that returned survives a power cut; `normal`: it survives a crash.
        lock_timeout: seconds that a write waits for others.
        max_bytes: `write` refuses what makes the store hold more; not what takes away, or comes from Plexus.
        clock: seconds that never jump.
        read_only: look at a store, and change nothing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durability: str = "full",
        lock_timeout: float = 60.0,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        read_only: bool = False,
    ) -> None:
        rows = Rows(directory, durability=durability, lock_timeout=lock_timeout, read_only=read_only)
        super().__init__(rows, directory, clock)
        self.directory = directory
        self._max_bytes = max_bytes
        self._warned = False  # that it is nearly full
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def location(self) -> str:
        return str(self.directory)

    @property
    def read_only(self) -> str | None:
        return self.rows.read_only

    @property
    def size(self) -> int:
        self.rows.refuse_when_closed()
        return directories.size(self.directory)

    def writer(self) -> int | None:
        self.rows.refuse_when_closed()
        return self.rows.lock.holder()

    @property
    def store_id(self) -> str:
        return self.rows.store_id

    def tidy(self, seconds: float) -> bool:
        return self.rows.tidy(seconds)

    def is_interrupted(self) -> bool:
        return forks.is_interrupted(self.rows.database.file)

    def release_thread(self) -> None:
        self.rows.release_thread()

    def close(self) -> None:
        self.rows.close()
        self._lease_file.close()

    # --- the directory ------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str | None:
        found: str | None = self._json("store")["endpoint"]
        return found

    def _prepare(self) -> None:
        written: int = self._json("store")["format"]
        if written != FORMATS[-1] and not self.read_only:
            self.transaction(self.procedure_ids(), self._upgrade)
            self.rows.mark()

    def _upgrade(self) -> None:
        """Make a store of an earlier format one of this format."""
        found = self._json("store")
        if found["format"] == 1:
            for procedure_id in self.procedure_ids():
                self._sheet(procedure_id).changed = True  # counts its rows
                self._note_document(quoted(procedure_id), 1)
            self._index_conflicts()
            for procedure_id, pending in self.outbox().items():
                self._drop(procedure_id, "outbox")
                self.put_pending(procedure_id, pending)  # with its place by the time that it is due
        for procedure_id in self.procedure_ids():
            self._remember(procedure_id)
        self._put_json("store", {**found, "format": FORMATS[-1]})

    def _remember(self, procedure_id: str) -> None:
        """Make a history of what formats 1 and 2 kept of a record."""
        try:
            sent = self._json(f"sent/{quoted(procedure_id)}") or {}
            base, history = upgraded(self.base(procedure_id), sent)
        except CacheCorrupted as error:  # the document says so whenever it is read
            log.error("%s", error)
            return
        if base is not None:
            self.put_base(procedure_id, base)
        self.put_history(procedure_id, history)
        self._drop(procedure_id, "sent")

    def check(self, endpoint: str) -> None:
        found = self.endpoint
        if found is not None and found != endpoint:
            raise EndpointMismatch(
                f"{self.directory} belongs to {found}, not to {endpoint}: choose another directory "
                "(argument directory=, or PLEXUS_CACHE_DIR)"
            )

    def bind(self, endpoint: str) -> None:
        def work() -> None:
            found = self._json("store")
            if found["endpoint"] is None:
                self._put_json("store", {**found, "endpoint": endpoint})

        if self.endpoint is None and not self.read_only:
            self.transaction((), work)
        self.check(endpoint)

    # --- documents ----------------------------------------------------------------------------------------

    def headers(self) -> dict[str, Header | str]:
        def work() -> dict[str, Header | str]:
            self._write_sheets()
            try:
                return {unquote(name): header_of(payload) for name, payload in self.rows.scan("doc/")}
            except CacheCorrupted:
                return {procedure_id: self._header_or_damage(procedure_id) for procedure_id in self.procedure_ids()}

        return self.snapshot(work)

    def _header_or_damage(self, procedure_id: str) -> Header | str:
        try:
            return self.header(procedure_id) or Header()
        except CacheCorrupted as error:
            return str(error)

    def procedure_ids(self) -> list[str]:
        self._write_sheets()
        return sorted(map(unquote, self.rows.keys("doc/")))

    def read(self, procedure_id: str, *, log: bool = True) -> tuple[Header, Document] | None:
        return self.snapshot(lambda: self._read(procedure_id, log=log))

    def _read(self, procedure_id: str, *, log: bool) -> tuple[Header, Document] | None:
        header, tally = self._header_and_tally(procedure_id)
        if header is None:
            return None
        name = quoted(procedure_id)
        entries: list[EntryRecord] = []
        variables: Part = {}
        if log:
            rows, summed = self.rows.scan_summed(f"log/{name}/")
            captured, also = self.rows.scan_summed(f"var/{name}/")
            if tally is not None:
                check_counted(procedure_id, tally.log, [len(rows) + len(captured), summed + also])
            entries = [EntryRecord.from_bytes(payload) for _, payload in rows]
            variables = {key: unpack(payload) for key, payload in captured}
        if tally is not None:
            check_counted(procedure_id, tally.rest, self._counted(REST, name, verify=log))
        extras = self.rows.read_row(f"extra/{name}")
        return header, Document(
            log=entries,
            replay_index=header.replay_index,
            state=self._part("state", name),
            lua_state=self._part("lua", name),
            status=header.status,
            waiting_on_message_id=header.waiting_on_message_id,
            extras=None if extras is None else unpack(extras),
            variables=variables,
        )

    def write(self, procedure_id: str, changes: Changes, now: float, delay: float = 0.0) -> Header:
        if changes.adds:
            self._check_room()
        header, changes = held_back(self.header(procedure_id) or self.unknown(), changes)
        encoded = _Encoded.of(changes)
        self.keep_old(procedure_id, changes)
        return self._queue(procedure_id, header, changes, encoded, now, delay)

    def put_creation(self, procedure_id: str, fields: dict[str, Any]) -> None:
        self._check_room()
        super().put_creation(procedure_id, fields)

    def put_trace(self, kind: str, name: str, payload: bytes) -> None:
        self._check_room()
        super().put_trace(kind, name, payload)

    def _check_room(self) -> None:
        most = self._max_bytes
        if most is None:
            return
        used = self.rows.used
        if used > most:
            raise StoreFull(
                f"the store in {self.directory} holds {used} bytes, and the setting max_store_bytes allows {most}: "
                "raise it, `sync`, and let `gc` forget what Plexus has"
            )
        if used > _NEARLY * most and not self._warned:
            self._warned = True
            log.warning("the store in %s holds %d of the %d bytes that it may", self.directory, used, most)

    def merge(self, procedure_id: str, changes: Changes, runs: Iterable[str], now: float) -> Header:
        header = note_cancelled(self.header(procedure_id) or self.unknown(), changes, runs)
        return self._queue(procedure_id, header, changes, _Encoded.of(changes), now, 0.0)

    def _queue(
        self, procedure_id: str, header: Header, changes: Changes, encoded: _Encoded, now: float, delay: float
    ) -> Header:
        version, place = header.version + 1, Pending(since=now, due=now + delay)
        header = self._apply(procedure_id, header, changes, encoded, version)._replace(version=version)
        known = self.pending(procedure_id) if header.queued and header.pushed == version - 1 else None
        if not header.queued or (known is not None and known.look):
            self.put_pending(procedure_id, place)
            header = header._replace(queued=True)
        self.put_header(procedure_id, header)
        return header

    def adopt(self, procedure_id: str, changes: Changes, runs: Iterable[str]) -> Header:
        header = note_cancelled(self.header(procedure_id) or self.unknown(), changes, runs)
        version = header.version + 1 if changes else header.version
        header = self._apply(procedure_id, header, changes, _Encoded.of(changes), version)
        header = header._replace(version=version, pushed=version, queued=False)
        self.forget_old(procedure_id)
        self.put_header(procedure_id, header)
        self.drop_pending(procedure_id)
        return header

    def _apply(self, procedure_id: str, header: Header, changes: Changes, encoded: _Encoded, version: int) -> Header:
        end = f"{header.log_length:09}"
        for kind, rest, payload in encoded.rows:
            if payload is None:
                self._drop(procedure_id, kind, rest)
            else:
                self._put(procedure_id, kind, payload, rest, fresh=kind == "log" and rest >= end)
        length = max(header.log_length, max(changes.entries, default=-1) + 1)
        updated = encoded.fields
        if changes.log_length is not None and changes.log_length < length:
            removed, length = length - changes.log_length, changes.log_length
            self._drop_from(procedure_id, "log", f"{length:09}")
            if removed >= length:  # it reads what is left: not for the few entries of a sub-procedure that is done
                updated["swept"] = header.swept + self._sweep(procedure_id)
        if changes.entries or length != header.log_length:
            updated["log_version"] = version
        return header._replace(log_length=length, **updated)

    def _sweep(self, procedure_id: str) -> int:
        """Delete the variables that no entry refers to any more: how many there were."""
        name = quoted(procedure_id)
        used = {
            reference
            for _, payload in self.rows.scan(f"log/{name}/")
            for reference in (EntryRecord.from_bytes(payload).captured or {}).values()
        }
        unused = [key for key in self.rows.keys(f"var/{name}/") if key not in used]
        for key in unused:
            self._drop(procedure_id, "var", key)
        return len(unused)

    def forget(self, procedure_id: str, *, token: str | None = None) -> None:
        sheet = self._sheet(procedure_id)
        if sheet.tally is not None and sheet.header is None:
            return  # there is nothing of it
        self._move(self._place_of(procedure_id), None)
        for kind in (*LOG, *REST):
            self._drop_from(procedure_id, kind)
        if self.rows.checksum_of(f"doc/{sheet.name}") is not None:
            self._note_document(sheet.name, -1)
            self.rows.delete_row(f"doc/{sheet.name}")
        last = int(time.time()) if sheet.header is None else sheet.header.version
        if token is None:
            self.rows.delete_row(f"gone/{sheet.name}")
        else:
            self._put_json(f"gone/{sheet.name}", token)
        self._put_json("forgotten", max(self.unknown().version, last + 1))
        del self._current.sheets[procedure_id]

    def forgotten(self, procedure_id: str) -> str | None:
        found: str | None = self._json(f"gone/{quoted(procedure_id)}")
        return found

    def idle(self, before: float) -> list[str]:
        def work() -> list[str]:
            self._write_sheets()
            names = self.rows.written_before(before, "doc/")
            return [name for name in map(unquote, names) if self._is_clean(name)]

        return self.snapshot(work)

    def _is_clean(self, procedure_id: str) -> bool:
        try:
            header = self.header(procedure_id)
        except CacheCorrupted:
            return False
        return header is not None and not header.dirty and not header.queued

    def sweep(self, procedure_id: str) -> Header | None:
        header = self.header(procedure_id)
        if header is not None and (swept := self._sweep(procedure_id)):
            header = header._replace(swept=header.swept + swept)
            self.put_header(procedure_id, header)
        return header
