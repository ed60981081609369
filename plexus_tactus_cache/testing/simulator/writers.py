"""The other writers of `Procedure.metadata`: each reads it whole and writes it whole, without a condition."""

from collections.abc import Iterable
from typing import Any

from plexus_tactus_cache.testing.simulator.simulator import Simulator
from plexus_tactus_cache.testing.simulator.table import Record, stamp

_SHIPPED_FIELDS = ("name", "result", "completed_at", "run_id")


def reset(plexus: Simulator, id: str, *, clear_state: bool = False) -> Record:
    """Plexus's reset service: no checkpoints, PENDING; with `clear_state` the states are emptied too."""
    metadata = _metadata(plexus, id)
    metadata["checkpoints"] = {}
    if clear_state:
        metadata |= {"state": {}, "lua_state": {}}
    return plexus.put(id, metadata=metadata, status="PENDING")


def reset_after(plexus: Simulator, id: str, name: str) -> Record:
    """Plexus's reset service, from a named checkpoint on: it drops those completed at or after that one."""
    metadata = _metadata(plexus, id)
    checkpoints = _checkpoints(metadata)
    if name not in checkpoints:
        raise KeyError(f"procedure {id!r} has no checkpoint {name!r}")
    cut = checkpoints[name]["completed_at"]
    # The service compares the strings, whatever they hold.
    metadata["checkpoints"] = {key: entry for key, entry in checkpoints.items() if entry["completed_at"] < cut}
    return plexus.put(id, metadata=metadata, status="PENDING")


def mark_stalled(plexus: Simulator, id: str) -> Record:
    """Plexus's scanner for stale runs."""
    metadata = _metadata(plexus, id)
    metadata["last_failure"] = {"reason": "no progress; marked as stalled", "at": stamp()}
    return plexus.put(id, metadata=metadata, status="STALLED")


def shipped_adapter_save(plexus: Simulator, id: str) -> Record:
    """Save as the adapter of today does: it knows four fields of a checkpoint and drops the others."""
    metadata = _metadata(plexus, id)
    metadata["checkpoints"] = {
        key: {name: entry[name] for name in _SHIPPED_FIELDS if name in entry}
        for key, entry in _checkpoints(metadata).items()
    }
    return plexus.put(id, metadata=metadata)


def clone(
    plexus: Simulator,
    id: str,
    new_id: str,
    *,
    keep: Iterable[str] | None = None,
) -> Record:
    """Plexus's clone service: a new procedure with a truncated state and no checkpoints.

    `keep` names the keys of the state that are copied; by default the first half by alphabet.
    """
    source = _known(plexus, id)
    metadata = _metadata(plexus, id)
    state = metadata.get("state") or {}
    kept = set(sorted(state)[: len(state) // 2] if keep is None else keep)
    metadata |= {
        "checkpoints": {},
        "state": {key: value for key, value in state.items() if key in kept},
        "lua_state": {},
        "replay_index": 0,
    }
    own = {"id", "name", "metadata", "status", "waitingOnMessageId", "createdAt", "updatedAt"}
    copied = {name: value for name, value in source.items() if name not in own}
    return plexus.put(new_id, name=f"{source['name']} (clone)", metadata=metadata, status="PENDING", **copied)


def _known(plexus: Simulator, record_id: str) -> Record:
    record = plexus.record(record_id)
    if record is None:
        raise KeyError(f"there is no procedure {record_id!r}")
    return record


def _metadata(plexus: Simulator, record_id: str) -> dict[str, Any]:
    metadata = _known(plexus, record_id)["metadata"] or {}
    if not isinstance(metadata, dict):
        raise TypeError(f"the metadata of procedure {record_id!r} is not a JSON object")
    return metadata


def _checkpoints(metadata: dict[str, Any]) -> dict[str, Any]:
    checkpoints = metadata.get("checkpoints") or {}
    if "_s3_key" in checkpoints:
        raise ValueError("the checkpoints are in S3, where this writer does not reach")
    return dict(checkpoints)
