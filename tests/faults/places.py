"""What the tests of directories share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import fast

from plexus_tactus_cache import ProcedureCache

DATABASE, MARKER = "cache.db", "plexus-tactus-cache.json"


def fill(directory: Path, value: Any = 1) -> None:
    with ProcedureCache(None, directory, fast()) as cache:
        cache.storage("p").state_set("p", "k", value)


def state(directory: Path, **options: Any) -> dict[str, Any]:
    with ProcedureCache(None, directory, fast(), **options) as cache:
        return dict(cache.storage("p").get_state("p"))


def files(directory: Path) -> dict[str, tuple[Any, ...]]:
    """Of everything: what, whose and when; of files the bytes, but for SQLite's index of its log."""
    found = {}
    for path in [directory, *directory.rglob("*")]:
        if not path.name.endswith("-shm"):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else None
            found[str(path)] = (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_size, content)
    return found
