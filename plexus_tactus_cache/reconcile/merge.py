"""Merging: a plan of decide.py, made into documents and into what has to be written. No I/O."""

from __future__ import annotations

from plexus_tactus_cache.document.encoded import Changes, Document, EntryRecord, Part, value_digest
from plexus_tactus_cache.document.plain import Encoded, digest
from plexus_tactus_cache.reconcile.decide import Plan
from plexus_tactus_cache.reconcile.snapshot import log_digests


def merged(local: Document, remote: Document, plan: Plan) -> Document:
    """The local document with what the plan takes from the remote.

    What is equal on both sides stays as it is here: exact values, and fields that other writers drop.
    """
    log = _take_log(local, remote) if plan.take_log else local.log
    replay_index = local.replay_index if plan.replay_index is None else plan.replay_index
    chosen = remote if plan.take_status else local
    status = plan.restore_status or (chosen.status, chosen.waiting_on_message_id)
    return Document(
        log=log,
        replay_index=min(replay_index, len(log)),
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
    ours = dict(zip(log_digests(local.log), local.log, strict=True))
    return [ours.get(mark, entry) for mark, entry in zip(log_digests(remote.log), remote.log, strict=True)]


def difference(current: Document, target: Document) -> Changes:
    """What has to be written to turn the stored `current` into `target`."""
    return Changes(
        entries={
            position: entry
            for position, entry in enumerate(target.log)
            if position >= len(current.log) or current.log[position] != entry
        },
        log_length=len(target.log) if len(target.log) < len(current.log) else None,
        replay_index=target.replay_index if target.replay_index != current.replay_index else None,
        state=_changed(current.state, target.state),
        lua_state=_changed(current.lua_state, target.lua_state),
        variables={key: value for key, value in target.variables.items() if key not in current.variables},
        status=_new_status(current, target),
        extras=(target.extras,) if target.extras != current.extras else None,
    )


def _new_status(current: Document, target: Document) -> tuple[str, str | None] | None:
    if target.status is None or target.status_unit == current.status_unit:
        return None
    return target.status, target.waiting_on_message_id


def _changed(current: Part, target: Part) -> dict[str, Encoded | None]:
    changed: dict[str, Encoded | None] = {key: None for key in current if key not in target}
    changed.update((key, value) for key, value in target.items() if value_digest(value) != _digest_in(current, key))
    return changed


def _digest_in(part: Part, key: str) -> str | None:
    return value_digest(part[key]) if key in part else None
