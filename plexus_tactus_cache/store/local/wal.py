"""SQLite's write-ahead log, read as bytes (sqlite.org/fileformat2.html, §4). Pure.

SQLite believes a log up to its first frame that is not as it was written, and drops whatever is behind it without a
word. That is right for the torn end that a crash leaves: it was never acknowledged. It is damage when transactions
follow that were committed later: none begins before the one before it is on the disk.
"""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple

_HEADER, _FRAME = struct.Struct(">8I"), struct.Struct(">6I")
_MAGIC = 0x377F0682  # in its last bit: whether the checksums are of big-endian numbers
PAGE = 4096  # bytes, where nothing says otherwise
_LARGEST = 65536
_WORD = 0xFFFFFFFF
_Sums = tuple[int, ...]


class Frame(NamedTuple):
    """One version of a page."""

    number: int
    pages: int  # that the database has, if a transaction ends here; else 0
    page: bytes
    sound: bool


class Log(NamedTuple):
    """What is in a log: all frames that were committed, in order."""

    frames: list[Frame]
    damaged: bool  # whether it goes on behind a frame that is not as it was written


def read_log(log: bytes) -> Log:
    """What was committed; behind a damaged frame too, of what is whole in itself."""
    if len(log) < _HEADER.size + _FRAME.size:
        return Log([], damaged=False)
    magic, _, size, _, *salts, first, second = _HEADER.unpack_from(log)
    order = "><"[magic == _MAGIC] if magic | 1 == _MAGIC | 1 else "><"[sys.byteorder == "little"]
    sums: _Sums | None = (first, second)
    believed = magic | 1 == _MAGIC | 1 and is_page_size(size) and _summed(order, (0, 0), log[:24]) == sums
    if not believed:
        size, salts = size if is_page_size(size) else PAGE, list(_FRAME.unpack_from(log, _HEADER.size)[2:4])
    frames: list[Frame] = []
    committed = sound = 0  # how many of the frames
    has_commit = damaged = False  # of the frames that follow each other up to here
    for at in range(_HEADER.size, len(log) - _FRAME.size - size + 1, _FRAME.size + size):
        number, pages, salt, other, first, second = _FRAME.unpack_from(log, at)
        if [salt, other] != salts or number == 0:  # of a log before this one, or damaged
            believed, has_commit, sums = False, False, None
            continue
        page = log[at + _FRAME.size : at + _FRAME.size + size]
        follows = sums is not None and _summed(order, sums, log[at : at + 8] + page) == (first, second)
        sums = first, second
        believed = believed and follows
        damaged = damaged or (not believed and follows and has_commit)
        has_commit = pages > 0 or (follows and has_commit)
        frames.append(Frame(number, pages, page, follows))
        if believed and pages:
            sound = len(frames)
        if follows and pages:
            committed = len(frames)
    return Log(frames[: committed if damaged else sound], damaged)


def is_page_size(size: int) -> bool:
    """Whether SQLite could have pages of so many bytes."""
    return 512 <= size <= _LARGEST and size & (size - 1) == 0


def _summed(order: str, sums: _Sums, content: bytes) -> _Sums:
    """The checksum of what comes after that which has `sums`."""
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(content) // 4}I", content))
    for one, other in zip(words, words, strict=True):
        first = (first + one + second) & _WORD
        second = (second + other + first) & _WORD
    return first, second
