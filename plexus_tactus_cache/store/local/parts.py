"""What the parts of the local store share: transactions on documents that are named, and rows that are counted.

The header of each document, the row `doc/<id>`, carries how many other rows the document has, and the sum of their
checksums, so a row that is missing, or is an older one, is noticed like one that was changed: `tally` below.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from plexus_tactus_cache.document import checks
from plexus_tactus_cache.document.plain import SAFE_INTEGER
from plexus_tactus_cache.errors import CacheCorrupted
from plexus_tactus_cache.store.contract import Header, Lease
from plexus_tactus_cache.store.local.directory import REPAIR
from plexus_tactus_cache.store.local.rows import Rows

Result = TypeVar("Result")
log = logging.getLogger("plexus_tactus_cache")

LOG = ("log", "var")  # kinds of rows that a document can be read without
REST = ("state", "lua", "extra", "outbox", "base", "history", "sent", "old", "create", "uploads", "inline")
OF_DOCUMENTS = frozenset({"doc", "due", *LOG, *REST})
_SEVERAL = frozenset({"log", "var", "state", "lua", "old"})  # of which a document has more than one
_FIELDS = len(Header._fields)


@dataclass
class Tally:
    """How many rows of a document there are, and the sum of their checksums: of its log, and of the rest."""

    log: list[int] = field(default_factory=lambda: [0, 0])
    rest: list[int] = field(default_factory=lambda: [0, 0])

    def of(self, kind: str) -> list[int]:
        return self.log if kind in LOG else self.rest


@dataclass
class Sheet:
    """The header of a document, as a transaction has it so far; it is written when that ends."""

    name: str
    header: Header | None
    tally: Tally | None  # None: the header is damaged, and stays so
    is_new: bool
    changed: bool = False

    def count(self, kind: str, before: int | None, after: int | None) -> None:
        """A row with one checksum was replaced by one with another; None: there is none."""
        if self.tally is not None and before != after:
            counts = self.tally.of(kind)
            counts[0] += (after is not None) - (before is not None)
            counts[1] += (after or 0) - (before or 0)
            self.changed = True


class _Current(threading.local):
    """The transaction that this thread is in."""

    ids: frozenset[str] = frozenset()  # the documents that it is about
    news = False  # whether it wrote what others wait for
    sheets: dict[str, Sheet]


class OnRows:
    """A part of the local store. Ids and keys are percent-encoded in the keys of rows."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._current = _Current()

    # --- transactions -------------------------------------------------------------------------------------

    def transaction(
        self, procedure_ids: str | Collection[str], work: Callable[[], Result], *, lease: Lease | None = None
    ) -> Result:
        """See Transactions in contract.py."""
        named = frozenset({procedure_ids} if isinstance(procedure_ids, str) else procedure_ids)
        for procedure_id in named:
            quoted(procedure_id)  # raises for what is no id
        current = self._current
        if self.rows.database.writing:
            foreign = named - current.ids
            if foreign:
                raise RuntimeError(f"the transaction around this one is not about {sorted(foreign)}")
            self._check_lease(lease)
            return work()

        def run() -> Result:
            current.ids, current.news, current.sheets = named, False, {}
            self._check_lease(lease)
            done = work()
            self._write_sheets()
            return done

        result = self.rows.transaction(run)
        if current.news:
            self._tell()
        return result

    def snapshot(self, work: Callable[[], Result]) -> Result:
        """See Transactions in contract.py."""
        return self.rows.snapshot(work)

    def _check_lease(self, lease: Lease | None) -> None:
        """Raises LeaseLost when somebody took the lease meanwhile."""

    def _tell(self) -> None:
        """There is news for those who wait: it was committed."""

    def _note_news(self) -> None:
        """Inside a transaction: what it writes is news."""
        self._current.news = True

    # --- headers ------------------------------------------------------------------------------------------

    def header(self, procedure_id: str) -> Header | None:
        return self._header_and_tally(procedure_id)[0]

    def unknown(self) -> Header:
        try:
            version = self._json("forgotten") or 0
        except CacheCorrupted:
            version = int(time.time())  # above all that there can have been
        return Header(version=version, pushed=version, log_version=version)

    def _header_and_tally(self, procedure_id: str) -> tuple[Header | None, Tally | None]:
        """As this transaction has them so far."""
        if self.rows.database.writing and procedure_id in self._current.ids:
            sheet = self._sheet_of(procedure_id)
            if sheet.tally is not None:
                return sheet.header, sheet.tally
        return self._read_header(procedure_id)

    def put_header(self, procedure_id: str, header: Header) -> None:
        sheet = self._sheet(procedure_id)
        if sheet.tally is None:
            self._read_header(procedure_id)  # raises: what is damaged is not written over
        sheet.header, sheet.changed = header, True

    def _read_header(self, procedure_id: str) -> tuple[Header | None, Tally | None]:
        """As stored. Raises CacheCorrupted, also for rows that have no header."""
        name = quoted(procedure_id)
        payload = self.rows.read_row(f"doc/{name}")
        if payload is None:
            payload = self.rows.snapshot(lambda: self._no_header(procedure_id))
        if payload is None:
            return None, Tally()
        return header_and_tally_of(payload)

    def _no_header(self, procedure_id: str) -> bytes | None:
        """Looked at again in one state of the store, in which a first write is there wholly or not at all."""
        name = quoted(procedure_id)
        payload = self.rows.read_row(f"doc/{name}")
        if payload is None and any(self._has_rows(kind, name) for kind in (*LOG, *REST)):
            raise CacheCorrupted(
                f"the header of procedure {procedure_id!r} is missing from the store, other rows of it are there; "
                f"other procedures are not affected; {REPAIR}"
            )
        return payload

    def _has_rows(self, kind: str, name: str) -> bool:
        if kind in _SEVERAL:
            return self.rows.first(f"{kind}/{name}/") is not None
        return self.rows.checksum_of(f"{kind}/{name}") is not None

    def _sheet(self, procedure_id: str) -> Sheet:
        """Raises RuntimeError where the transaction is not about this document, or there is none."""
        if not self.rows.database.writing:
            raise RuntimeError("a document is written outside of a transaction")
        if procedure_id not in self._current.ids:
            quoted(procedure_id)  # raises for what is no id
            raise RuntimeError(f"the transaction is not about procedure {procedure_id!r}")
        return self._sheet_of(procedure_id)

    def _sheet_of(self, procedure_id: str) -> Sheet:
        sheet = self._current.sheets.get(procedure_id)
        if sheet is None:
            name = quoted(procedure_id)
            try:
                header, tally = self._read_header(procedure_id)
                if tally is None:
                    tally = self._count(name)
            except CacheCorrupted:
                header = tally = None
            sheet = self._current.sheets[procedure_id] = Sheet(name, header, tally, is_new=header is None)
        return sheet

    def _write_sheets(self) -> None:
        """At the end of a transaction, or where all headers are to be seen as it has them so far."""
        if not self.rows.database.writing:
            return
        for sheet in self._current.sheets.values():
            if sheet.changed and sheet.header is not None and sheet.tally is not None:
                if sheet.is_new:
                    self._note_document(sheet.name, 1)
                self.rows.delete_row(f"gone/{sheet.name}")
                fields = [*sheet.header, [sheet.tally.log, sheet.tally.rest]]
                self.rows.write_row(f"doc/{sheet.name}", orjson.dumps(fields))
                sheet.is_new = sheet.changed = False

    def _note_document(self, name: str, more: int) -> None:
        """There is one document more, or less: their number and the sum of the checksums of their names are kept."""
        number, summed = self._documents_noted() or self._documents_there()
        self._put_json("documents", [number + more, summed + more * zlib.crc32(name.encode())])

    def _documents_there(self) -> tuple[int, int]:
        names = self.rows.keys("doc/")
        return len(names), sum(zlib.crc32(name.encode()) for name in names)

    def _documents_noted(self) -> tuple[int, int] | None:
        found = self._json_or_none("documents")
        return None if found is None else (found[0], found[1])

    def _count(self, name: str) -> Tally:
        """The tally of what is there."""
        return Tally(self._counted(LOG, name), self._counted(REST, name))

    def _counted(self, kinds: Iterable[str], name: str, *, verify: bool = False) -> list[int]:
        """How many rows there are, and the sum of their checksums.

        With `verify`, whether they are right: raises CacheCorrupted. A damaged place in the outbox is none, see there.
        """
        counts = [0, 0]
        for kind in kinds:
            if verify and kind in _SEVERAL:
                self.rows.scan(f"{kind}/{name}/")
            elif verify and kind != "outbox":
                self.rows.read_row(f"{kind}/{name}")
            found = self._checksums(kind, name)
            counts[0] += len(found)
            counts[1] += sum(found)
        return counts

    def _checksums(self, kind: str, name: str) -> list[int]:
        if kind in _SEVERAL:
            return self.rows.checksums(f"{kind}/{name}/")
        found = self.rows.checksum_of(f"{kind}/{name}")
        return [] if found is None else [found]

    # --- the rows of a document ---------------------------------------------------------------------------

    def _put(self, procedure_id: str, kind: str, payload: bytes, rest: str = "", *, fresh: bool = False) -> None:
        """Write a row of a document; `fresh`: there certainly is none yet."""
        sheet = self._sheet(procedure_id)
        key = f"{kind}/{sheet.name}/{rest}" if kind in _SEVERAL else f"{kind}/{sheet.name}"
        if sheet.header is None and sheet.tally is not None:
            sheet.header = self.unknown()  # what is noted is noted of a document
        before = None if fresh else self.rows.checksum_of(key)
        sheet.count(kind, before, self.rows.write_row(key, payload))

    put_row = _put  # for salvage.py, which has the rows of another database

    def _drop(self, procedure_id: str, kind: str, rest: str = "") -> None:
        """Forget a row of a document; an unknown one is fine."""
        sheet = self._sheet(procedure_id)
        key = f"{kind}/{sheet.name}/{rest}" if kind in _SEVERAL else f"{kind}/{sheet.name}"
        before = self.rows.checksum_of(key)
        if before is not None:
            self.rows.delete_row(key)
            sheet.count(kind, before, None)

    def _drop_from(self, procedure_id: str, kind: str, start: str = "") -> None:
        """Forget all rows of a kind from `start` on."""
        if kind not in _SEVERAL:
            self._drop(procedure_id, kind)
            return
        sheet = self._sheet(procedure_id)
        prefix = f"{kind}/{sheet.name}/"
        found = self.rows.checksums(prefix, start)
        if found:
            self.rows.delete_range(prefix, start)
            for checksum in found:
                sheet.count(kind, checksum, None)

    def _scan_what_is_whole(self, prefix: str) -> list[tuple[str, bytes]]:
        """As `Rows.scan`; what is damaged is said, and keeps nobody from the rest."""
        try:
            return self.rows.scan(prefix)
        except CacheCorrupted:
            found = []
            for key in self.rows.keys(prefix):
                try:
                    payload = self.rows.read_row(prefix + key)
                except CacheCorrupted as error:
                    log.error("%s", error)
                    continue
                if payload is not None:
                    found.append((key, payload))
            return found

    # --- rows as JSON -------------------------------------------------------------------------------------

    def _json(self, key: str) -> Any:
        payload = self.rows.read_row(key)
        return None if payload is None else orjson.loads(payload)

    def _json_or_none(self, key: str) -> Any:
        """As `_json`, for what can be done without: a damaged row is as good as none."""
        try:
            return self._json(key)
        except CacheCorrupted as error:
            log.error("%s; it is done without", error)
            return None

    def _put_json(self, key: str, value: Any) -> None:
        self.rows.write_row(key, orjson.dumps(value))


def header_and_tally_of(payload: bytes) -> tuple[Header, Tally | None]:
    """What a row `doc/<id>` holds; no tally: format 1 had none."""
    fields = orjson.loads(payload)
    return Header(*fields[:_FIELDS]), Tally(*fields[_FIELDS]) if len(fields) > _FIELDS else None


def header_of(payload: bytes) -> Header:
    """The header that a row `doc/<id>` holds."""
    return Header(*orjson.loads(payload)[:_FIELDS])


def check_counted(procedure_id: str, counted: list[int], found: list[int]) -> None:
    """Raises CacheCorrupted unless the rows found, counted and summed, are those that were written."""
    if counted != found:
        missing = counted[0] - found[0]
        what = f"{missing} rows are missing" if missing > 0 else "there are other rows than were written"
        raise CacheCorrupted(
            f"procedure {procedure_id!r} is damaged in the store: {what}; other procedures are not affected; {REPAIR}"
        )


@lru_cache(4096)
def quoted(text: str) -> str:
    """Percent-encoded, as a part of a key. Raises WrongType; InvalidArgument for lone surrogates, which are no text."""
    return quote(checks.text(text, "id", SAFE_INTEGER), safe="")
