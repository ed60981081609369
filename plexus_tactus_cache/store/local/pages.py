"""The rows of a damaged database, read from its pages without SQLite (sqlite.org/fileformat2.html). Pure.

SQLite finds a row by way of other pages; where one of those is damaged, it finds nothing. Here each page is read for
itself, in the version that was committed last. What a row's checksum says counts, not where it was found.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from plexus_tactus_cache.store.local.checksums import MODE_RAW, intact
from plexus_tactus_cache.store.local.wal import PAGE, is_page_size, read_log

_MAGIC = b"SQLite format 3\0"
_INDEX_INTERIOR, _INDEX_LEAF, _TABLE_LEAF = 2, 10, 13  # kinds of pages
_POINTERS = {_INDEX_INTERIOR: 12, _INDEX_LEAF: 8, _TABLE_LEAF: 8}  # where those to the cells begin
_COLUMNS = 12  # of diskcache's table
_KEY, _STORED, _VALUE = 1, 3, 11  # among them
_INDEXED = 3  # columns of its index: key, raw, rowid
_LENGTHS = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)  # bytes of a column of that type; from 12 on, the type says it
_REAL, _BLOB, _TEXT = 7, 12, 13
_FREE = 2  # in the map of pages that an auto-vacuum needs
_MAP_ENTRY = 5  # bytes


class Content(Protocol):
    """bytes, or a file that is mapped."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class Row(NamedTuple):
    """One that was found."""

    key: str
    stored: float = 0.0  # when, in seconds since the epoch
    payload: bytes | None = None  # None: it is not as it was written, or only the index knows of it


class Pages:
    """The pages of a database, with what its log has committed."""

    def __init__(self, file: Content, log: bytes) -> None:
        self._file = file
        header = file[:100]
        size = int.from_bytes(header[16:18], "big") if header.startswith(_MAGIC) else PAGE
        self._size = size if is_page_size(size) else PAGE
        self._usable = self._size - (header[20] if header.startswith(_MAGIC) else 0)
        self._count = len(file) // self._size
        self._newer: dict[int, bytes] = {}
        self._doubtful: dict[int, bytes] = {}  # of which some may be right
        for frame in read_log(log).frames:
            self._doubtful.pop(frame.number, None)
            (self._newer if frame.sound else self._doubtful)[frame.number] = frame.page
            self._count = frame.pages or self._count

    def rows(self) -> Iterator[Row]:
        """All that can be found, each as often as it is; those in pages that are not used any more are not."""
        free = self._free()
        for number in range(1, self._count + 1):
            if number not in free:
                yield from self._rows_on(self._page(number), 100 if number == 1 else 0)
        for page in self._doubtful.values():
            yield from self._rows_on(page, 0)

    def _page(self, number: int) -> bytes:
        newer = self._newer.get(number)
        return self._file[(number - 1) * self._size : number * self._size] if newer is None else newer

    # --- which are used -----------------------------------------------------------------------------------

    def _free(self) -> set[int]:
        """The pages that are not used: what was deleted is still on them."""
        listed = self._listed_free()
        return self._mapped_free() if listed is None else listed

    def _listed_free(self) -> set[int] | None:
        """By the list of them; None where that is damaged."""
        first = self._page(1)
        if not first.startswith(_MAGIC):
            return None
        number, many = struct.unpack_from(">2I", first, 32)
        found: set[int] = set()
        while number:
            page = self._page(number)
            if number > self._count or number in found or len(page) < self._size:
                return None
            found.add(number)
            number, leaves = struct.unpack_from(">2I", page)
            if leaves > self._size // 4 - 2:
                return None
            found.update(struct.unpack_from(f">{leaves}I", page, 8))
        return found if len(found) == many else None

    def _mapped_free(self) -> set[int]:
        """By the map that says of each page what it is; none where there is no such map."""
        found: set[int] = set()
        step = self._usable // _MAP_ENTRY + 1
        for number in range(2, self._count + 1, step):
            kinds = self._page(number)[: self._usable][::_MAP_ENTRY][: min(step - 1, self._count - number)]
            if all(1 <= kind <= 5 for kind in kinds):
                found.update(number + 1 + at for at, kind in enumerate(kinds) if kind == _FREE)
        return found

    # --- what is on them ----------------------------------------------------------------------------------

    def _rows_on(self, page: bytes, start: int) -> Iterator[Row]:
        kind = page[start] if len(page) == self._size else None
        if kind not in _POINTERS:
            return
        pointers = start + _POINTERS[kind]
        (cells,) = struct.unpack_from(">H", page, start + 3)
        for at in range(pointers, min(pointers + 2 * cells, self._size - 1), 2):
            try:
                row = self._row(page, kind, int.from_bytes(page[at : at + 2], "big"))
            except (IndexError, ValueError, struct.error):
                continue  # what makes no sense is no cell
            if row is not None:
                yield row

    def _row(self, page: bytes, kind: int, at: int) -> Row | None:
        if kind == _INDEX_INTERIOR:
            at += 4
        length, at = _varint(page, at)
        if kind == _TABLE_LEAF:
            _, at = _varint(page, at)
        here = self._here(length, kind)
        columns = _columns(page[at : at + here])
        if len(columns) != (_COLUMNS if kind == _TABLE_LEAF else _INDEXED):
            return None
        key = columns[_KEY if kind == _TABLE_LEAF else 0]
        if key.kind < _TEXT or key.kind % 2 == 0 or columns[-1].end != length:
            return None
        payload = page[at : at + here] + self._overflow(page[at + here :], length - here)
        name = payload[key.begin : key.end].decode()
        if kind != _TABLE_LEAF:
            return Row(name)
        stored, value = columns[_STORED], columns[_VALUE]
        moment = struct.unpack_from(">d", payload, stored.begin)[0] if stored.kind == _REAL else 0.0
        blob = payload[value.begin : value.end] if value.kind >= _BLOB else None
        return Row(name, moment, intact(name, MODE_RAW, None, blob))

    def _here(self, length: int, kind: int) -> int:
        """How much of a payload is in its cell."""
        usable = self._usable
        most = usable - 35 if kind == _TABLE_LEAF else (usable - 12) * 64 // 255 - 23
        least = (usable - 12) * 32 // 255 - 23
        if length <= most:
            return length
        here = least + (length - least) % (usable - 4)
        return here if here <= most else least

    def _overflow(self, pointer: bytes, length: int) -> bytes:
        """So many bytes of the pages that follow a cell. Raises ValueError, struct.error."""
        parts: list[bytes] = []
        while length > 0:
            (number,) = struct.unpack_from(">I", pointer)
            if not 1 < number <= self._count or len(parts) >= self._count:
                raise ValueError("the payload goes on nowhere")
            pointer = self._page(number)
            parts.append(pointer[4 : min(self._usable, 4 + length)])
            length -= self._usable - 4
        return b"".join(parts)


class _Column(NamedTuple):
    kind: int
    begin: int
    end: int


def _columns(payload: bytes) -> list[_Column]:
    """Where the columns of a record are. Raises IndexError."""
    begin, at = _varint(payload, 0)
    end, columns = begin, []
    while at < end:
        kind, at = _varint(payload, at)
        length = _LENGTHS[kind] if kind < _BLOB else (kind - _BLOB) // 2
        columns.append(_Column(kind, begin, begin + length))
        begin += length
    return columns


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises IndexError."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | content[place] & 0x7F
        if content[place] < 0x80:
            return value, place + 1
    return value << 8 | content[at + 8], at + 9
