"""Reconciling: pure decisions about what to do with one document.

`reconcile(base, local, remote)` compares what Plexus last confirmed with what both sides have now, part by part,
over wire digests (in which `1.0` and `1` are equal), and returns a `Plan`. Nothing here does I/O.

| remote, compared with base | local unchanged | local changed                       |
|----------------------------|-----------------|-------------------------------------|
| unchanged                  | nothing         | push                                |
| changed                    | adopt           | merge: each part from the side that |
|                            |                 | changed it; else park               |
| record gone                | park            | park                                |
| never existed              | park            | park                                |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from plexus_tactus_cache.codec import Encoded, digest
from plexus_tactus_cache.envelope import Envelope, entry_keys
from plexus_tactus_cache.records import Changes, Document, EntryRecord, Part, value_digest


@dataclass(frozen=True)
class Digests:
    """A document, reduced to what comparing with Plexus needs."""

    log: tuple[str, ...] = ()
    replay_index: int = 0
    state: Mapping[str, str] = field(default_factory=dict)
    lua_state: Mapping[str, str] = field(default_factory=dict)
    extras: str | None = None
    status: str | None = None
    waiting_on_message_id: str | None = None

    @staticmethod
    def of(document: Document) -> Digests:
        return Digests(
            log=tuple(
                digest([key, entry.run_id, entry.result])
                for key, entry in zip(entry_keys(document.log), document.log, strict=True)
            ),
            replay_index=document.replay_index,
            state=_part(document.state),
            lua_state=_part(document.lua_state),
            extras=None if document.extras is None else digest(document.extras.plain),
            status=document.status,
            waiting_on_message_id=document.waiting_on_message_id,
        )

    @property
    def blank(self) -> bool:
        """Nothing of ours is in it; a status may be."""
        return not (self.log or self.state or self.lua_state or self.extras)


def _part(part: Part) -> dict[str, str]:
    return {key: digest(value.plain) for key, value in part.items()}


@dataclass(frozen=True)
class Remote:
    """A record as it was read from Plexus."""

    updated_at: str
    status: str | None
    waiting_on_message_id: str | None
    envelope: Envelope

    @property
    def document(self) -> Document:
        found = self.envelope.document
        return Document(
            log=found.log,
            replay_index=found.replay_index,
            state=found.state,
            lua_state=found.lua_state,
            extras=found.extras,
            variables=found.variables,
            status=self.status,
            waiting_on_message_id=self.waiting_on_message_id,
        )


@dataclass(frozen=True)
class Base:
    """The record as Plexus last confirmed it: digests of the document, the token, and the foreign keys."""

    updated_at: str
    digests: Digests
    foreign: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(remote: Remote) -> Base:
        return Base(remote.updated_at, Digests.of(remote.document), remote.envelope.foreign)

    def to_json(self) -> dict[str, Any]:
        return {"updated_at": self.updated_at, "digests": digests_to_json(self.digests), "foreign": self.foreign}

    @staticmethod
    def from_json(stored: dict[str, Any]) -> Base:
        return Base(stored["updated_at"], digests_from_json(stored["digests"]), stored["foreign"])


def digests_to_json(digests: Digests) -> dict[str, Any]:
    return {name: getattr(digests, name) for name in Digests.__dataclass_fields__}


def digests_from_json(stored: dict[str, Any]) -> Digests:
    return Digests(**{**stored, "log": tuple(stored["log"])})


class Action(Enum):
    NOTHING = "nothing"
    PUSH = "push"
    ADOPT = "adopt"  # take the remote document as it is
    MERGE = "merge"  # take the named parts of the remote, keep the others, push
    PARK = "park"


@dataclass(frozen=True)
class Plan:
    """What to do; `take_*` name what a merge takes from the remote."""

    action: Action
    reason: str = ""
    take_log: bool = False  # with the replay index
    take_status: bool = False
    restore_status: tuple[str | None, str | None] | None = None  # what the scanner's STALLED replaced
    take_extras: bool = False
    take_state: frozenset[str] = frozenset()
    take_lua_state: frozenset[str] = frozenset()


GONE = "the record is gone from Plexus; what is here is kept"
NEVER_EXISTED = (
    "Plexus has no such procedure, and it was not created here: create it there under this id, "
    "then `plexus-tactus-cache sync`"
)


def reconcile(base: Base | None, local: Digests, dirty: bool, remote: Remote | None) -> Plan:
    """Decide about one document. `dirty`: whether the local version is ahead of what was pushed."""
    if remote is None:
        return Plan(Action.PARK, GONE if base is not None else NEVER_EXISTED)
    if remote.envelope.problem is not None:
        return Plan(Action.PARK, remote.envelope.problem)
    theirs = Digests.of(remote.document)
    if base is None:
        if local.blank and local.status is None:
            return Plan(Action.ADOPT)
        # Without a base nobody knows what was there when the local document began. A blank record has nothing
        # to lose; with anything else, every part that both sides have is a difference.
        before = (
            theirs
            if theirs.blank
            else Digests(status=theirs.status, waiting_on_message_id=theirs.waiting_on_message_id)
        )
    else:
        before = base.digests
        if remote.envelope.absent and not before.blank:
            return Plan(Action.PARK, "the metadata was removed from the record in Plexus; what is here is kept")
    if theirs == before:
        return Plan(Action.PUSH if dirty else Action.NOTHING)
    if not dirty:
        return Plan(Action.ADOPT)
    return _merge(before, local, theirs)


class _BothChangedError(Exception):
    """Local and remote changed the same thing differently."""


def _merge(base: Digests, local: Digests, remote: Digests) -> Plan:
    try:
        take_log = _log_side(base, local, remote)
        status_before, status_here, status_there = map(_status, (base, local, remote))
        if local.status is None:  # what was never set here is no change
            status_here = status_before
        local_went_on = not take_log and local.log != base.log
        take_status = _side("status", status_before, status_here, status_there)
        overruled = take_status and status_there[0] == "STALLED" and local_went_on  # the scanner was wrong about us
        return Plan(
            Action.MERGE,
            take_log=take_log,
            take_status=take_status and not overruled,
            restore_status=(status_before[0] or "RUNNING", status_before[1]) if overruled else None,
            take_extras=_side("the asynchronous procedures", base.extras, local.extras, remote.extras),
            take_state=_keys("state", base.state, local.state, remote.state),
            take_lua_state=_keys("lua_state", base.lua_state, local.lua_state, remote.lua_state),
        )
    except _BothChangedError as error:
        return Plan(Action.PARK, f"{error} changed here and in Plexus, differently; both are kept as they are")


def _status(digests: Digests) -> tuple[str | None, str | None]:
    return digests.status, digests.waiting_on_message_id


def _side(what: str, base: Any, local: Any, remote: Any) -> bool:
    """Whether to take the remote's: three-way, raising _BothChangedError."""
    if local in (base, remote):
        return bool(remote != base and remote != local)
    if remote == base:
        return False
    raise _BothChangedError(what)


def _log_side(base: Digests, local: Digests, remote: Digests) -> bool:
    shorter = min(len(local.log), len(remote.log))
    both_changed = local.log != base.log and remote.log != base.log
    # Both went on from the base with equal entries: the longer contains the other. A log cut short of the base
    # is a reset, which no prefix explains.
    if both_changed and shorter >= len(base.log) and local.log[:shorter] == remote.log[:shorter]:
        return len(remote.log) > len(local.log)
    return _side("the execution log", base.log, local.log, remote.log)


def _keys(part: str, base: Mapping[str, str], local: Mapping[str, str], remote: Mapping[str, str]) -> frozenset[str]:
    return frozenset(
        key
        for key in sorted({*base, *local, *remote})
        if _side(f"{part} key {key}", base.get(key), local.get(key), remote.get(key))
    )


# --- carrying a plan out, still without I/O ---------------------------------------------------------------


def adopted(local: Document, remote: Document) -> Document:
    """The remote document, with what is equal kept as it is here: exact values, and fields that others drop."""
    return merged(
        local,
        remote,
        Plan(
            Action.ADOPT,
            take_log=True,
            take_status=True,
            take_extras=remote.extras is not None or local.extras is not None,
            take_state=frozenset({*local.state, *remote.state}),
            take_lua_state=frozenset({*local.lua_state, *remote.lua_state}),
        ),
    )


def merged(local: Document, remote: Document, plan: Plan) -> Document:
    """The local document with what the plan takes from the remote."""
    log = _take_log(local, remote) if plan.take_log else local.log
    chosen = remote if plan.take_status else local
    status = plan.restore_status or (chosen.status, chosen.waiting_on_message_id)
    return Document(
        log=log,
        replay_index=(remote if plan.take_log else local).replay_index,
        state=_take(local.state, remote.state, plan.take_state),
        lua_state=_take(local.lua_state, remote.lua_state, plan.take_lua_state),
        status=status[0],
        waiting_on_message_id=status[1],
        extras=remote.extras if plan.take_extras else local.extras,
        variables={**local.variables, **remote.variables},
    )


def _take(local: Part, remote: Part, keys: frozenset[str]) -> Part:
    result = {key: value for key, value in local.items() if key not in keys or key in remote}
    for key in remote:
        if key in keys and (key not in local or digest(local[key].plain) != digest(remote[key].plain)):
            result[key] = remote[key]
    return result


def _take_log(local: Document, remote: Document) -> list[EntryRecord]:
    ours = dict(zip(Digests.of(local).log, local.log, strict=True))
    theirs = Digests.of(remote).log
    return [ours.get(mark, entry) for mark, entry in zip(theirs, remote.log, strict=True)]


def difference(current: Document, target: Document) -> Changes:
    """What has to be written to turn the stored `current` into `target`."""
    return Changes(
        entries={
            position: entry
            for position, entry in enumerate(target.log)
            if position >= len(current.log) or current.log[position] != entry
        },
        log_length=len(target.log),
        replay_index=target.replay_index,
        state=_changed(current.state, target.state),
        lua_state=_changed(current.lua_state, target.lua_state),
        variables={key: value for key, value in target.variables.items() if key not in current.variables},
        status=(target.status, target.waiting_on_message_id) if target.status is not None else None,
        extras=(target.extras,) if target.extras != current.extras else None,
    )


def _changed(current: Part, target: Part) -> dict[str, Encoded | None]:
    changed: dict[str, Encoded | None] = {key: None for key in current if key not in target}
    changed.update((key, value) for key, value in target.items() if value_digest(value) != _digest_in(current, key))
    return changed


def _digest_in(part: Part, key: str) -> str | None:
    return value_digest(part[key]) if key in part else None
