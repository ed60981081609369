"""The conflict journal of a local store.

| row                            | holds                                                                  |
|--------------------------------|------------------------------------------------------------------------|
| `conflict/<n>`, `resolved/<n>` | a `ConflictRecord` (reconcile/journal.py), open or dealt with          |
| `conflicts`                    | the last number                                                        |
| `conflict-of/<id>/<n>`         | nothing: the open ones of a document                                   |
| `same/<digest>`                | the number of the open one that says just that                         |
"""

from __future__ import annotations

import orjson

from plexus_tactus_cache.document.plain import digest
from plexus_tactus_cache.errors import CacheCorrupted
from plexus_tactus_cache.reconcile.journal import ConflictRecord
from plexus_tactus_cache.store.local.parts import OnRows, quoted


class JournalRows(OnRows):
    """See Journal in contract.py."""

    def conflicts(self, *, resolved: bool = False, procedure_id: str | None = None) -> dict[int, ConflictRecord]:
        if procedure_id is None:
            rows = self._scan_what_is_whole("resolved/" if resolved else "conflict/")
            return {int(key): ConflictRecord.from_bytes(payload) for key, payload in rows}
        name = quoted(procedure_id)
        if resolved:
            return {n: one for n, one in self.conflicts(resolved=True).items() if one.procedure_id == procedure_id}

        def work() -> dict[int, ConflictRecord]:
            numbers = map(int, self.rows.keys(f"conflict-of/{name}/"))
            return {number: found for number in numbers if (found := self.conflict(number)) is not None}

        return self.snapshot(work)

    def conflict(self, number: int) -> ConflictRecord | None:
        for folder in ("conflict", "resolved"):
            payload = self.rows.read_row(f"{folder}/{number:09}")
            if payload is not None:
                return ConflictRecord.from_bytes(payload)
        return None

    def open_conflicts(self) -> int:
        return self.rows.count("conflict/")

    def put_conflict(self, record: ConflictRecord, number: int | None = None) -> int:
        of, payload, same = quoted(record.procedure_id), record.to_bytes(), _same(record)  # these raise, if any does
        if number is None and (known := self._json_or_none(same)) is not None:
            return int(known)
        last = self._last_number()
        if number is None or number > last:
            number = last + 1 if number is None else number
            self._put_json("conflicts", number)
        else:
            self._drop_conflict(number)
        if record.resolved is not None:
            self.rows.write_row(f"resolved/{number:09}", payload)
        else:
            self.rows.write_row(f"conflict/{number:09}", payload)
            self.rows.write_row(f"conflict-of/{of}/{number:09}", b"")
            self._put_json(same, number)
        return number

    def _drop_conflict(self, number: int) -> None:
        try:
            before = self.conflict(number)
        except CacheCorrupted:
            before = None  # what is kept besides points to nothing then, and is passed over
        if before is not None and before.resolved is None:
            self.rows.delete_row(f"conflict-of/{quoted(before.procedure_id)}/{number:09}")
            if self._json_or_none(_same(before)) == number:
                self.rows.delete_row(_same(before))
        self.rows.delete_rows((f"conflict/{number:09}", f"resolved/{number:09}"))

    def _last_number(self) -> int:
        last: int | None = self._json_or_none("conflicts")
        if last is None:
            numbers = (int(key) for folder in ("conflict/", "resolved/") for key in self.rows.keys(folder)[-1:])
            last = max(numbers, default=0)
        return last

    def _index_conflicts(self) -> None:
        """Of a store of format 1."""
        for number, record in self.conflicts().items():
            self.put_conflict(record, number)


def _same(record: ConflictRecord) -> str:
    """The row of those that say the same, whenever it was."""
    return f"same/{digest(orjson.loads(record._replace(at=0.0).to_bytes()))}"
