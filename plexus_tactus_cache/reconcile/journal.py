"""The conflict journal: what reconciling set aside, as records that can be read and restored. No I/O.

A record holds both sides of one value, and the base's where it is known: of a state key the encoded value, of the
status its unit, of the log the entries from the position where the two logs part, with the variables they refer to.
None means that a side does not have it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import orjson

from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoded import Changes, Document, EntryRecord, Part, Variables, key_value
from plexus_tactus_cache.document.entries import build_log
from plexus_tactus_cache.document.plain import Encoded, digest
from plexus_tactus_cache.document.reports import Conflict
from plexus_tactus_cache.errors import ConflictOutdated
from plexus_tactus_cache.reconcile.decide import PartName, SetAside, Side
from plexus_tactus_cache.reconcile.merge import difference
from plexus_tactus_cache.reconcile.snapshot import Digests, Remote, log_digests


class ConflictRecord(NamedTuple):
    """One conflict as it is stored. As a row it is a JSON list."""

    procedure_id: str
    part: PartName
    key: str | int | None  # text of a state key; position in the log
    kept: Side | None
    reason: str
    at: float  # seconds since the epoch
    local: Any
    remote: Any
    base: Any = None
    prefix: str | None = None  # digest of the log before `key`: a tail belongs to one beginning only
    resolved: Side | None = None

    def to_bytes(self) -> bytes:
        return orjson.dumps(_plain([*self]))

    @staticmethod
    def from_bytes(payload: bytes) -> ConflictRecord:
        return ConflictRecord(*orjson.loads(payload))


# --- making records ---------------------------------------------------------------------------------------


def record_of(
    aside: SetAside,
    procedure_id: str,
    local: Document,
    remote: Remote,
    base: Digests | None,
    old: Mapping[str, Part],
    now: float,
) -> ConflictRecord:
    """The record of what a plan sets aside. `old`: see LocalStore.old."""
    there = remote.document
    record = ConflictRecord(procedure_id, aside.part, aside.key, aside.kept, aside.reason, now, None, None)
    if aside.part == "execution_log":
        there = dataclasses.replace(there, log=[*there.log, *remote.envelope.beyond.values()])
        return log_record(record, local, there)
    return record._replace(local=_stored(record, local), remote=_stored(record, there), base=_before(record, base, old))


def _stored(record: ConflictRecord, document: Document) -> Any:
    """The value that the record is about, as a document has it."""
    if record.part == "execution_log":
        return _tail(document, int(record.key or 0))
    if record.part == "status":
        return document.status_unit
    if record.part == "async_procedures":
        return document.extras
    return _part(record.part, document).get(str(record.key))


def _part(name: Literal["state", "lua_state"], document: Document) -> Part:
    return document.state if name == "state" else document.lua_state


def _before(record: ConflictRecord, base: Digests | None, old: Mapping[str, Part]) -> Any:
    """The base's value; digests tell whether what is remembered of a key is that."""
    if base is None:
        return None
    if record.part == "status":
        return [base.status, base.waiting_on_message_id]
    value = old.get(record.part, {}).get(str(record.key))
    confirmed = base.state if record.part == "state" else base.lua_state
    return value if value is not None and digest(value.plain) == confirmed.get(str(record.key)) else None


def log_record(record: ConflictRecord, local: Document, remote: Document) -> ConflictRecord:
    """The record with the tails of two logs, from position `key` on."""
    position = int(record.key or 0)
    common = local if len(local.log) >= position else remote
    return record._replace(
        key=position,
        local=_tail(local, position),
        remote=_tail(remote, position),
        prefix=_prefix(common.log, position),
    )


def _tail(document: Document, position: int) -> dict[str, Any]:
    entries = document.log[position:]
    used = {reference for entry in entries for reference in (entry.captured or {}).values()}
    variables = {key: value for key, value in document.variables.items() if key in used}
    return {"entries": entries, "variables": variables}


def _prefix(log: list[EntryRecord], position: int) -> str:
    return digest(list(log_digests(log)[:position]))


# --- reading them -----------------------------------------------------------------------------------------


def conflict_of(number: int, record: ConflictRecord) -> Conflict:
    """The record with its values as they were, for a person."""
    sides: dict[str, Any] = {}
    for name in ("local", "remote", "base"):
        stored = getattr(record, name)
        sides[name] = None if stored is None else _value(record.part, stored)
    return Conflict(
        id=str(number),
        procedure_id=record.procedure_id,
        part=record.part,
        key=key_value(record.key) if isinstance(record.key, str) else record.key,
        absent=tuple(name for name in sides if getattr(record, name) is None),
        kept=record.kept,
        reason=record.reason,
        at=record.at,
        resolved=record.resolved,
        **sides,
    )


def _value(part: PartName, stored: Any) -> Any:
    if part == "execution_log":
        return build_log(*_entries(stored))
    if part == "status":
        return tuple(stored)
    return decode(Encoded(*stored))


def _entries(stored: Any) -> tuple[list[EntryRecord], Variables]:
    if stored is None:
        return [], {}
    variables = {key: Encoded(*value) for key, value in stored["variables"].items()}
    return [EntryRecord(*entry) for entry in stored["entries"]], variables


# --- restoring --------------------------------------------------------------------------------------------


def restore(
    number: int, record: ConflictRecord, keep: Side, current: Document, now: float
) -> tuple[Changes, ConflictRecord | None]:
    """What has to be written so that `current` has the value of one side, and a record of what that replaces.

    No record where the conflict itself holds what is replaced. Raises ConflictOutdated for a tail whose beginning is
    gone.
    """
    target = _with(number, record, keep, current)
    given, replaced = getattr(record, keep), _stored(record, current)
    if _plain(replaced) in (_plain(record.local), _plain(record.remote)):
        return difference(current, target), None
    local, remote = (given, replaced) if keep == "local" else (replaced, given)
    reason = f"replaced by resolving conflict {number}"
    return difference(current, target), record._replace(
        kept=keep, reason=reason, at=now, local=local, remote=remote, base=None, resolved=keep
    )


def _plain(stored: Any) -> Any:
    """As it is after a round trip through a row; orjson takes no named tuples."""
    if isinstance(stored, dict):
        return {key: _plain(value) for key, value in stored.items()}
    return [_plain(value) for value in stored] if isinstance(stored, (list, tuple)) else stored


def _with(number: int, record: ConflictRecord, keep: Side, current: Document) -> Document:
    stored = getattr(record, keep)
    if record.part == "execution_log":
        position = int(record.key or 0)
        if len(current.log) < position or _prefix(current.log, position) != record.prefix:
            raise ConflictOutdated(
                f"conflict {number} holds the log of procedure {record.procedure_id!r} from position {position} on, "
                "and what was before that has changed since: it stays in the journal, to be read"
            )
        entries, variables = _entries(stored)
        tail = [entry._replace(position=position + index) for index, entry in enumerate(entries)]
        log = [*current.log[:position], *tail]
        return dataclasses.replace(
            current, log=log, replay_index=len(log), variables={**current.variables, **variables}
        )
    if record.part == "status":
        status, waiting_on_message_id = stored or (None, None)
        return dataclasses.replace(current, status=status, waiting_on_message_id=waiting_on_message_id)
    if record.part == "async_procedures":
        return dataclasses.replace(current, extras=None if stored is None else Encoded(*stored))
    part = {key: value for key, value in _part(record.part, current).items() if key != record.key}
    if stored is not None:
        part[str(record.key)] = Encoded(*stored)
    if record.part == "state":
        return dataclasses.replace(current, state=part)
    return dataclasses.replace(current, lua_state=part)


def open_fork(conflicts: Iterable[tuple[int, ConflictRecord]], procedure_id: str) -> int | None:
    """The number of the fork of that procedure that nobody has decided yet."""
    return next((number for number, one in conflicts if one.procedure_id == procedure_id and one.kept is None), None)
