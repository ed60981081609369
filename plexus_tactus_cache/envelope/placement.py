"""Placement: which parts of an envelope stay in the record, and which become attachments in S3. No I/O.

A part in S3 leaves a pointer `{"_s3_key": ...}` behind, which Plexus's own adapter and dashboard follow
(plexus-facts.md §6). What a record can hold is limited: 400 KB for the whole item, 32 levels of nesting (§3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, NamedTuple

from plexus_tactus_cache.document.encoded import Document
from plexus_tactus_cache.document.plain import digest, dumps
from plexus_tactus_cache.envelope.build import write_log
from plexus_tactus_cache.envelope.parts import BOOK, BOOKKEEPING, LOG, PARTS, POINTER, part_of, with_parts
from plexus_tactus_cache.envelope.segments import Range, cut

Policy = Literal["auto", "always", "never"]

ITEM_BYTES = 409_600  # DynamoDB's limit for the whole record
SEGMENTS_FROM = 32_768  # bytes of a log above which it is kept in segments
TAIL = "tail"
MAX_DEPTH = 32  # levels of nesting in an item of DynamoDB, the attribute itself being the first
# In the order in which they leave the record, ties in size aside: what a dashboard reads goes last.
_LAST = ("dashboard_state", "state")
ATTACHABLE = (*PARTS, "dashboard_state", BOOK)


class Attachment(NamedTuple):
    """An object in S3 that a part is kept in; `digest` is of the part, `etag` empty for keys that are never reused."""

    key: str
    digest: str
    etag: str = ""


@dataclass(frozen=True)
class Placement:
    """An envelope as it goes into the record, and what has to be in S3 before."""

    metadata: dict[str, Any]
    attachments: Mapping[str, Attachment] = field(default_factory=dict)  # by part
    uploads: dict[str, bytes] = field(default_factory=dict)  # by key
    over: int = 0  # entries in the object that `checkpoints` points to, of a log in segments

    @property
    def ranges(self) -> list[Range]:
        """The segments among the attachments, in order."""
        found = [name.removeprefix("segment ").split("-") for name in self.attachments if name.startswith("segment ")]
        return sorted(Range(int(start), int(end)) for start, end in found)


class TooLarge(Exception):
    """The envelope does not fit into a record, and nothing may leave it; the message says what is too large."""


def segmented(
    metadata: dict[str, Any],
    document: Document,
    before: Placement,
    stored: Mapping[str, Attachment],
    new_key: Callable[[str], str],
    *,
    compact: bool,
) -> Placement:
    """`metadata` with its log in segments, once that is long: for readers who know of them, under `cache`,

        "log": {"pointer": key, "over": count, "segments": [[key, start, end], ...], "tail": write_log(...)}

    and for all others `checkpoints` as one object, as it was when it was last written (`pointer`, with `over`
    entries): with `compact`, now. Who finds `checkpoints` changed knows that another writer's word counts.

    Args:
        before: the attachments that the record has.
        stored: as for `place`.
    """
    checkpoints = metadata["checkpoints"]
    sizes = [len(dumps(entry)) for entry in checkpoints.values()]
    if sum(sizes) < SEGMENTS_FROM:
        return Placement(metadata)
    written: dict[Range, tuple[dict[str, Any], str]] = {}

    def content(one: Range) -> tuple[dict[str, Any], str]:
        if one not in written:
            found = write_log(document, one.start, one.end)
            written[one] = found, digest(found)
        return written[one]

    ranges = cut(sizes, before.ranges, lambda one: content(one)[1] in stored)
    attachments: dict[str, Attachment] = {}
    uploads: dict[str, bytes] = {}

    def attach(name: str, part: dict[str, Any], mark: str, kind: str) -> Attachment:
        known = stored.get(mark)
        attachments[name] = known or Attachment(new_key(kind), mark)
        if known is None:
            uploads[attachments[name].key] = dumps(part)
        return attachments[name]

    segments = [[attach(segment_name(*one), *content(one), "log").key, one.start, one.end] for one in ranges]
    tail = write_log(document, ranges[-1].end if ranges else 0, len(document.log))
    attachments[TAIL] = Attachment("", digest(tail))
    whole, over = before.attachments.get("checkpoints"), before.over
    if compact or whole is None or not over:
        whole, over = (
            attach("checkpoints", checkpoints, metadata[BOOKKEEPING]["digests"]["checkpoints"], "checkpoints"),
            len(sizes),
        )
    attachments["checkpoints"] = whole
    bookkeeping = {
        **metadata[BOOKKEEPING],
        "digests": {**metadata[BOOKKEEPING]["digests"], "checkpoints": whole.digest},
        BOOK: {name: part for name, part in metadata[BOOKKEEPING][BOOK].items() if name != "checkpoints"},
        LOG: {"pointer": whole.key, "over": over, "segments": segments, "tail": tail},
    }
    metadata = {**metadata, "checkpoints": {POINTER: whole.key}, BOOKKEEPING: bookkeeping}
    return Placement(metadata, attachments, uploads, over)


def segment_name(start: int, end: int) -> str:
    """The name of a segment among the attachments."""
    return f"segment {start}-{end}"


def is_of_segments(name: str) -> bool:
    """Whether an attachment is a part of a log in segments."""
    return name == TAIL or name.startswith("segment ")


def place(
    begun: Placement,
    policy: Policy,
    limit: int,
    stored: Mapping[str, Attachment],
    new_key: Callable[[str], str],
) -> Placement:
    """Decide for each part of the metadata where it is kept.

    Args:
        begun: the metadata, with what of it is in S3 already.
        limit: bytes of JSON that the record may hold.
        stored: objects in S3 that still hold parts, by digest; they are pointed to again.
        new_key: makes the key of a new object for a part.

    Raises TooLarge, with sizes.
    """
    metadata = begun.metadata
    found = {name: part for name in ATTACHABLE if (part := part_of(metadata, name)) and POINTER not in part}
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
    attachments, uploads = dict(begun.attachments), dict(begun.uploads)
    for name in leaving:
        mark = digest(found[name])
        known = stored.get(mark)
        attachments[name] = known or Attachment(new_key(name), mark)
        if known is None:
            uploads[attachments[name].key] = bodies[name]
    moved = {name: {POINTER: attachments[name].key} for name in leaving}
    return Placement(with_parts(metadata, moved), attachments, uploads, begun.over)


def _depth(value: Any) -> int:
    """Levels of nesting, without recursion: what is stored may be deeper than Python's stack."""
    levels = 0
    containers = [value]
    while containers:
        levels += 1
        items = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in containers)
        containers = [item for item in items if isinstance(item, (dict, list))]
    return levels
