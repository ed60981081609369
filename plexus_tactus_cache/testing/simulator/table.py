"""The Procedure table: records, stamps, compare-and-swap, and the file that they are kept in."""

import copy
import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from plexus_tactus_cache.testing.simulator import awsjson, conditions
from plexus_tactus_cache.testing.simulator.errors import VALIDATION, PlexusError, conditional_check_failed

Record = dict[str, Any]
"""The attributes that are set; `metadata` is parsed."""

FIELDS = (
    "id",
    "name",
    "description",
    "featured",
    "isTemplate",
    "parentProcedureId",
    "code",
    "attachedFiles",
    "category",
    "version",
    "isDefault",
    "status",
    "waitingOnMessageId",
    "metadata",
    "createdAt",
    "updatedAt",
    "accountId",
    "scorecardId",
    "scoreId",
    "scoreVersionId",
    "createdByUserId",
)


class Table:
    """The records by id. One lock makes every write, its condition included, atomic.

    Records are replaced, never changed in place, so that a reader may keep the one it was given.
    """

    def __init__(self, data_file: Path | None = None) -> None:
        self.lock = threading.Lock()
        self._data_file = data_file
        self._records: dict[str, Record] = {}
        self._previous: dict[str, Record | None] = {}
        if data_file is not None and data_file.exists():
            self._records = _read(data_file)

    def get(self, record_id: str, *, stale: bool = False) -> Record | None:
        """Return the record, or when `stale` what it was before its last write."""
        with self.lock:
            if stale and record_id in self._previous:
                return self._previous[record_id]
            return self._records.get(record_id)

    def snapshot(self) -> dict[str, Record]:
        """Return all records by id."""
        with self.lock:
            return dict(self._records)

    def create(self, given: Record, condition: conditions.Condition | None, admit: Callable[[], None]) -> Record:
        """Create a record; fails when the id exists. `admit` may still refuse, under the lock."""
        with self.lock:
            admit()
            record_id = given.get("id") or str(uuid.uuid4())
            if record_id in self._records or not conditions.holds(condition, {}):
                raise conditional_check_failed()
            now = stamp()
            record = {"createdAt": now, "updatedAt": now} | _without_nulls(given) | {"id": record_id}
            _check_size(record, "Item size has exceeded the maximum allowed size")
            return self._replace(record_id, record)

    def update(self, given: Record, condition: conditions.Condition | None, admit: Callable[[], None]) -> Record:
        """Change the fields given; fails when the condition does, or when there is no such record."""
        with self.lock:
            admit()
            record_id = given["id"]
            old = self._records.get(record_id)
            if old is None or not conditions.holds(condition, old):
                raise conditional_check_failed()
            # An explicit null for updatedAt removes it and breaks the record, as it does in Plexus.
            record = _without_nulls(old | {"updatedAt": stamp()} | given)
            _check_size(record, "Item size to update has exceeded the maximum allowed size")
            return self._replace(record_id, record)

    def delete(self, record_id: str, condition: conditions.Condition | None, admit: Callable[[], None]) -> Record:
        """Delete a record and return it; fails when there is none."""
        with self.lock:
            admit()
            old = self._records.get(record_id)
            if old is None or not conditions.holds(condition, old):
                raise conditional_check_failed()
            self._replace(record_id, None)
            return old

    def put(self, record_id: str, given: Record, defaults: Record) -> Record:
        """Write as a foreign writer: no condition, stamped strictly later than before."""
        with self.lock:
            old = self._records.get(record_id)
            now = stamp(after=old.get("updatedAt") if old else None)
            base = old if old is not None else {"createdAt": now} | defaults
            record = _without_nulls(base | {"updatedAt": now} | given | {"id": record_id})
            _check_size(record, "Item size to update has exceeded the maximum allowed size")
            return self._replace(record_id, record)

    def discard(self, record_id: str) -> None:
        """Remove a record, if it is there."""
        with self.lock:
            if record_id in self._records:
                self._replace(record_id, None)

    def _replace(self, record_id: str, record: Record | None) -> Record:
        after = dict(self._records)
        if record is None:
            del after[record_id]
        else:
            after[record_id] = copy.deepcopy(record)
        if self._data_file is not None:  # first the file: what cannot be kept is not applied
            _write(self._data_file, after)
        self._previous[record_id] = self._records.get(record_id)
        self._records = after
        return after.get(record_id, {})


def stamp(*, after: str | None = None) -> str:
    """Return the time as Plexus stamps it, in milliseconds; strictly later than `after` if that is given."""
    now = datetime.now(UTC)
    if after is not None:
        try:
            before = datetime.fromisoformat(after)
        except ValueError:
            pass  # a stamp with odd digits, set by a client: nothing to be later than
        else:
            now = max(now, before.astimezone(UTC) + timedelta(milliseconds=1))
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _without_nulls(record: Record) -> Record:
    return {name: value for name, value in record.items() if value is not None}


def _check_size(record: Record, message: str) -> None:
    # 32 levels of the document as such; whether DynamoDB counts the attribute around it was not seen. [M]
    if awsjson.depth(record.get("metadata")) > awsjson.MAX_DEPTH:
        raise PlexusError(VALIDATION, "Nesting Levels have exceeded supported limits")
    if awsjson.item_size(record) > awsjson.MAX_ITEM_BYTES:
        raise PlexusError(VALIDATION, message)


def _read(data_file: Path) -> dict[str, Record]:
    try:
        loaded = json.loads(data_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{data_file} is not a data file of the simulator: {error}") from error
    if not isinstance(loaded, dict) or not all(
        isinstance(record, dict) and record.get("id") == record_id for record_id, record in loaded.items()
    ):
        raise ValueError(f"{data_file} is not a data file of the simulator: want an object of records by id")
    return loaded


def _write(data_file: Path, records: dict[str, Record]) -> None:
    beside = data_file.with_name(f"{data_file.name}.new")
    beside.write_text(json.dumps(records, indent=1), encoding="utf-8")
    beside.replace(data_file)
