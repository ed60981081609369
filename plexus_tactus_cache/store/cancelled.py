"""A CANCELLED that came from Plexus: it stays until a new run begins. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from plexus_tactus_cache.document.encoded import Changes
from plexus_tactus_cache.store.contract import Header


def held_back(header: Header, changes: Changes) -> tuple[Header, Changes]:
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


def note_cancelled(header: Header, changes: Changes, runs: Iterable[str]) -> Header:
    """Note a CANCELLED that comes from Plexus, or that another status came after it."""
    if changes.status is None or changes.status[0] == header.status:
        return header
    return header._replace(cancelled=sorted(runs) if changes.status[0] == "CANCELLED" else None, held=None)
