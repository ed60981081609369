"""The record of what a process did to the files below a directory; made by shim.c."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import ROOT, environment

HERE = Path(__file__).parent
STORE = "store"  # what the directory of the writer is called, below the one that is recorded
_HEAD = struct.Struct("=IIIIQq")  # struct head


class Kind(IntEnum):
    """What was done; see enum kind."""

    CREATE = ord("C")
    MKDIR = ord("D")
    WRITE = ord("W")
    TRUNCATE = ord("T")
    SYNC = ord("S")
    RENAME = ord("R")
    UNLINK = ord("U")
    MARK = ord("M")


class Event(NamedTuple):
    """One thing done. `offset`: where a write begins, or the size of what was truncated."""

    kind: Kind
    path: str
    inode: int
    offset: int
    data: bytes


def read(file: Path) -> list[Event]:
    """All of a record."""
    content, events, at = file.read_bytes(), [], 0
    while at < len(content):
        kind, path, data, _, inode, offset = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        name = content[at : at + path].decode()
        at += path
        events.append(Event(Kind(kind), name, inode, offset, content[at : at + data]))
        at += data
    return events


@cache
def compiled(directory: Path) -> Path:
    """The shim, compiled. Skips the test where that cannot be done; in CI it can."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        why = "power cuts need Linux and a C compiler, `cc`"
        if "CI" in os.environ:
            pytest.fail(why)
        pytest.skip(why)
    shim = directory / "shim.so"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Werror",
        "-o",
        str(shim),
        str(HERE / "shim.c"),
        "-pthread",
    ]
    subprocess.run(command, check=True)
    return shim


def recorded(directory: Path, shim: Path, durability: str, steps: int) -> list[Event]:
    """What writer.py does with this durability in so many steps; its files stay, below `directory`/disk."""
    disk, record = directory / "disk", directory / "record"
    disk.mkdir(parents=True)
    variables = environment(LD_PRELOAD=str(shim), POWER_ROOT=str(disk.resolve()), POWER_RECORD=str(record))
    variables["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    command = [sys.executable, str(HERE / "writer.py"), str(disk / STORE), durability, str(steps)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return read(record)
