"""Layout: which parts of an envelope stay in the record, and which become attachments in S3. No I/O.

A part in S3 leaves a pointer `{"_s3_key": ...}` behind, which Plexus's own adapter and dashboard follow
(plexus-facts.md §6). What a record can hold is limited: 400 KB for the whole item, 32 levels of nesting (§3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, NamedTuple

from plexus_tactus_cache.codec import digest, dumps
from plexus_tactus_cache.envelope import BOOK, BOOKKEEPING, POINTER

Policy = Literal["auto", "always", "never"]

MAX_DEPTH = 32  # levels of nesting in an item of DynamoDB, the attribute itself being the first
# In the order in which they leave the record, ties in size aside: what a dashboard reads goes last.
_LAST = ("dashboard_state", "state")
PARTS = ("checkpoints", "state", "lua_state", "dashboard_state", BOOK)


class Attachment(NamedTuple):
    """An object in S3 that a part is kept in; `digest` is of the part, `etag` empty for keys that are never reused."""

    key: str
    digest: str
    etag: str = ""


@dataclass(frozen=True)
class Layout:
    """An envelope as it goes into the record, and what has to be in S3 before."""

    metadata: dict[str, Any]
    attachments: dict[str, Attachment] = field(default_factory=dict)  # by part
    uploads: dict[str, bytes] = field(default_factory=dict)  # by key


class TooLarge(Exception):
    """The envelope does not fit into a record, and nothing may leave it; the message says what is too large."""


def lay_out(
    metadata: dict[str, Any],
    policy: Policy,
    limit: int,
    stored: Mapping[str, Attachment],
    new_key: Callable[[str], str],
) -> Layout:
    """Decide for each part of `metadata` where it is kept.

    Args:
        limit: bytes of JSON that the record may hold.
        stored: objects in S3 that still hold parts, by digest; they are pointed to again.
        new_key: makes the key of a new object for a part.

    Raises TooLarge, with sizes.
    """
    found = {name: part for name in PARTS if (part := part_of(metadata, name)) and POINTER not in part}
    bodies = {name: dumps(part) for name, part in found.items()}
    rest = len(dumps(metadata)) - sum(map(len, bodies.values()))
    depths = {name: _depth(part) + (2 if name == BOOK else 1) for name, part in found.items()}
    leaving = {name for name, depth in depths.items() if depth > MAX_DEPTH}
    if leaving and policy == "never":
        deep = ", ".join(f"{name} is nested {depths[name]} levels deep" for name in sorted(leaving))
        raise TooLarge(f"{deep}, and a record holds {MAX_DEPTH}")
    if policy == "always":
        leaving |= found.keys() - {BOOK}
    order = sorted(found, key=lambda name: (_LAST.index(name) if name in _LAST else -1, -len(bodies[name])))
    staying = {name: len(bodies[name]) for name in order if name not in leaving}
    while staying and rest + sum(staying.values()) > limit:
        name = next(iter(staying))
        del staying[name]
        leaving.add(name)
    if leaving and policy == "never":
        sizes = ", ".join(f"{name} {len(body):,} bytes" for name, body in bodies.items())
        raise TooLarge(f"it is too large for its record ({sizes}; at most {limit:,} bytes together)")
    attachments: dict[str, Attachment] = {}
    uploads: dict[str, bytes] = {}
    for name in leaving:
        mark = digest(found[name])
        known = stored.get(mark)
        attachments[name] = known or Attachment(new_key(name), mark)
        if known is None:
            uploads[attachments[name].key] = bodies[name]
    return Layout(
        with_parts(metadata, {name: {POINTER: one.key} for name, one in attachments.items()}), attachments, uploads
    )


def part_of(metadata: Mapping[str, Any], name: str) -> Any:
    """A part of the metadata; None where there is none."""
    if name != BOOK:
        return metadata.get(name)
    book = metadata.get(BOOKKEEPING)
    return book.get(BOOK) if isinstance(book, dict) else None


def with_parts(metadata: dict[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with other values of some of its parts."""
    changed = {**metadata, **{name: part for name, part in parts.items() if name != BOOK}}
    if BOOK in parts:
        changed[BOOKKEEPING] = {**metadata[BOOKKEEPING], BOOK: parts[BOOK]}
    return changed


def pointers(metadata: Any) -> dict[str, str]:
    """The keys in S3 that parts of a document point to, by part. The dashboard's is not one: nobody reads it back."""
    if not isinstance(metadata, dict):
        return {}
    found = {name: part_of(metadata, name) for name in PARTS if name != "dashboard_state"}
    return {
        name: part[POINTER]
        for name, part in found.items()
        if isinstance(part, dict) and isinstance(part.get(POINTER), str)
    }


def _depth(value: Any) -> int:
    """Levels of nesting, without recursion: what is stored may be deeper than Python's stack."""
    levels = 0
    containers = [value]
    while containers:
        levels += 1
        items = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in containers)
        containers = [item for item in items if isinstance(item, (dict, list))]
    return levels
