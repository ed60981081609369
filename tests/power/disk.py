"""A disk that the power is cut from: what was synced is there; of the rest, whatever a disk may have kept."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from power.record import Event, Kind

BLOCKS = (512, 4096)  # bytes that a disk writes wholly or not at all


class Fate(Enum):
    """What became of that which was not synced, of one file or directory."""

    LOST = "nothing of it was written"
    KEPT = "all of it was"
    CUT = "it was written in order, up to some moment: the write of that moment is torn"
    MIXED = "each block, each entry of a directory, was written at some moment of its own, or never"


class Write(NamedTuple):
    """Bytes written."""

    offset: int
    data: bytes


class Resize(NamedTuple):
    """A file cut off, or grown."""

    size: int


class File:
    """A file's bytes when it was last synced, and all that was done to it since."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.since: list[Write | Resize] = []

    def sync(self) -> None:
        self.synced = self.whole()
        self.since.clear()

    def whole(self) -> bytearray:
        """As a reader sees it, while there is power."""
        count = len(self.since)
        return self._after(lambda block: count, count, BLOCKS[-1])

    def cut(self, dice: random.Random) -> bytearray:
        """As it may be after a power cut."""
        count = len(self.since)
        fate, size = dice.choice(list(Fate)), dice.choice(BLOCKS)
        if fate is Fate.LOST or not count:
            return self.synced
        if fate is Fate.KEPT:
            return self.whole()
        if fate is Fate.MIXED:
            moments: defaultdict[int, int] = defaultdict(
                dice.choice([lambda: dice.randint(0, count), lambda: dice.choice((0, count))])
            )
            return self._after(moments.__getitem__, dice.randint(0, count), size)
        moment, tear = dice.randrange(count), 0  # blocks before the tear have that moment's write
        torn = self.since[moment]
        if isinstance(torn, Write):
            tear = dice.randint(torn.offset // size, (torn.offset + len(torn.data)) // size)
        return self._after(lambda block: moment + (block < tear), moment + dice.randint(0, 1), size)

    def _after(self, done: Callable[[int], int], resized: int, block: int) -> bytearray:
        """The bytes, when of a block so many of the changes were written, and the size is that after `resized`."""
        content, size = bytearray(self.synced), len(self.synced)
        for number, change in enumerate(self.since):
            if isinstance(change, Resize):
                if number < resized:
                    size = change.size
                    del content[size:]
                continue
            end = change.offset + len(change.data)
            if number < resized:
                size = max(size, end)
            if len(content) < end:
                content.extend(bytes(end - len(content)))
            at = change.offset
            while at < end:
                until = min(end, (at // block + 1) * block)
                if number < done(at // block):
                    content[at:until] = change.data[at - change.offset : until - change.offset]
                at = until
        del content[size:]
        content.extend(bytes(size - len(content)))
        return content


class Folder:
    """A directory's entries when it was last synced, and what was done to them since."""

    def __init__(self) -> None:
        self.synced: dict[str, File | Folder] = {}
        self.now: dict[str, File | Folder] = {}
        self.since: list[dict[str, File | Folder | None]] = []  # each done at once; None: taken away

    def change(self, entries: dict[str, File | Folder | None]) -> None:
        self.since.append(entries)
        _change(self.now, entries)

    def sync(self) -> None:
        self.synced = dict(self.now)
        self.since.clear()

    def cut(self, dice: random.Random) -> dict[str, File | Folder]:
        """The entries as they may be after a power cut."""
        kept: dict[str, File | Folder] = dict(self.synced)
        fate = dice.choice([*Fate, Fate.MIXED])  # there are few changes, and POSIX promises no order
        moment = dice.randint(0, len(self.since))
        for number, entries in enumerate(self.since):
            done = {Fate.LOST: False, Fate.KEPT: True, Fate.CUT: number < moment, Fate.MIXED: dice.random() < 0.5}
            if done[fate]:
                _change(kept, entries)
        return kept


def _change(entries: dict[str, File | Folder], changes: dict[str, File | Folder | None]) -> None:
    for name, found in changes.items():
        if found is None:
            entries.pop(name, None)
        else:
            entries[name] = found


class Disk:
    """What is below a directory, by a record of what was done to it from the beginning."""

    def __init__(self) -> None:
        self.root = Folder()
        self._nodes: dict[int, File | Folder] = {}

    def take(self, event: Event) -> None:
        """What was done next."""
        match event.kind:
            case Kind.CREATE | Kind.MKDIR:
                folder, name = self._place(event.path)
                made = self._nodes[event.inode] = File() if event.kind is Kind.CREATE else Folder()
                folder.change({name: made})
            case Kind.UNLINK:
                folder, name = self._place(event.path)
                folder.change({name: None})
            case Kind.RENAME:
                (folder, old), (other, new) = self._place(event.path), self._place(event.data.decode())
                if folder is not other:
                    raise NotImplementedError("moved between directories")
                folder.change({new: folder.now[old], old: None})
            case Kind.SYNC:
                (self._nodes[event.inode] if event.path else self.root).sync()
            case Kind.WRITE:
                self._file(event).since.append(Write(event.offset, event.data))
            case Kind.TRUNCATE:
                self._file(event).since.append(Resize(event.offset))

    def _place(self, path: str) -> tuple[Folder, str]:
        """The directory that a path is in, and the name there."""
        folder = self.root
        *above, name = path.split("/")
        for one in above:
            found = folder.now[one]
            if not isinstance(found, Folder):
                raise NotADirectoryError(path)
            folder = found
        return folder, name

    def _file(self, event: Event) -> File:
        found = self._nodes[event.inode]
        if not isinstance(found, File):
            raise IsADirectoryError(event.path)
        return found

    def whole(self) -> dict[str, bytearray]:
        """The files by their paths, while there is power."""
        return dict(_files(self.root))

    def cut(self, directory: Path, dice: random.Random) -> None:
        """Write down what may be there after a power cut."""
        _write(self.root, directory, dice)


def _files(folder: Folder) -> Iterator[tuple[str, bytearray]]:
    for name, node in folder.now.items():
        if isinstance(node, File):
            yield name, node.whole()
        else:
            yield from ((f"{name}/{path}", content) for path, content in _files(node))


def _write(folder: Folder, directory: Path, dice: random.Random) -> None:
    directory.mkdir(mode=0o700)
    for name, node in folder.cut(dice).items():
        place = directory / name
        if isinstance(node, Folder):
            _write(node, place, dice)
        else:
            place.write_bytes(node.cut(dice))
            place.chmod(0o600)
