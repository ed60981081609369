"""Segments: how a long log is cut up, so that one more entry costs one more entry. Pure.

A log that has outgrown its record is kept as sealed *segments* in S3, each a range of entries, and a short *tail*
in the record. When the tail has grown to `SEAL_BYTES` it becomes a segment; `FAN_OUT` segments of about one size are
merged into one, so an entry is uploaded a few times in all, and the record points to a few dozen segments at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

SEAL_BYTES = 16_384
FAN_OUT = 8


class Range(NamedTuple):
    """Entries `start` to `end` of a log, the latter not included."""

    start: int
    end: int


def cut(sizes: Sequence[int], sealed: Sequence[Range], still_holds: Callable[[Range], bool]) -> list[Range]:
    """The segments of a log; what is behind the last is its tail.

    Args:
        sizes: bytes of each entry.
        sealed: the segments that there were, in order, from 0 on.
        still_holds: whether a segment still is what it was.
    """
    ranges: list[Range] = []
    for one in sealed:
        if one.start != _end(ranges) or one.end > len(sizes) or not still_holds(one):
            break
        ranges.append(one)
    if sum(sizes[_end(ranges) :]) >= SEAL_BYTES:
        ranges.append(Range(_end(ranges), len(sizes)))
    while _mergeable(ranges, sizes):
        merged = Range(ranges[-FAN_OUT].start, ranges[-1].end)
        ranges[-FAN_OUT:] = [merged]
    return ranges


def _end(ranges: list[Range]) -> int:
    return ranges[-1].end if ranges else 0


def _mergeable(ranges: list[Range], sizes: Sequence[int]) -> bool:
    last = ranges[-FAN_OUT:]
    return len(last) == FAN_OUT and len({_tier(sum(sizes[one.start : one.end])) for one in last}) == 1


def _tier(size: int) -> int:
    """How often `SEAL_BYTES` has been multiplied by `FAN_OUT` to reach about this size."""
    tier = 0
    while size >= SEAL_BYTES * FAN_OUT:
        size //= FAN_OUT
        tier += 1
    return tier
