"""What the groups of commands share: options, opening the store, and how things are printed."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import orjson
from pydantic import BaseModel

from plexus_tactus_cache.cache import ProcedureCache
from plexus_tactus_cache.document.encoding import encode_leniently
from plexus_tactus_cache.errors import StoreReadOnly
from plexus_tactus_cache.printable import printable
from plexus_tactus_cache.remote.client import PlexusClient, endpoint_of
from plexus_tactus_cache.settings import default_directory
from plexus_tactus_cache.store.local import holds_store


def common_options() -> argparse.ArgumentParser:
    """The options of every command."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--directory", type=Path, help="the store; default: PLEXUS_CACHE_DIR, else the one of PLEXUS_API_URL"
    )
    common.add_argument("--json", action="store_true", help="print JSON")
    common.set_defaults(open=open_store)
    return common


def open_store(options: argparse.Namespace) -> ProcedureCache:
    """The cache asked for, to work on. One that is not there is not made."""
    # Only `sync` may push.
    return ProcedureCache(directory=directory_of(options), background=False)


def look_at_store(options: argparse.Namespace) -> ProcedureCache:
    """The cache asked for, to be looked at: nothing is changed, and nobody waited for."""
    return ProcedureCache(directory=directory_of(options), read_only=True)


def directory_of(options: argparse.Namespace) -> Path:
    """The directory asked for. Raises StoreReadOnly when no store is in it."""
    directory: Path = options.directory or default_directory(endpoint_of(PlexusClient.from_environment()))
    if not holds_store(directory):
        raise StoreReadOnly(f"there is no store in {directory}: name one with --directory or PLEXUS_CACHE_DIR")
    return directory


def when(moment: float | None) -> str:
    """A time for people."""
    if moment is None:
        return "never"
    return dt.datetime.fromtimestamp(moment).astimezone().isoformat(sep=" ", timespec="seconds")


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count / 2**10:.0f} KB"


def say(*lines: str) -> None:
    """Lines for people, on standard output, with escapes for what would not be seen as it is (`printable`)."""
    _write(sys.stdout, lines)


def complain(*lines: str) -> None:
    """As `say`, on standard error."""
    _write(sys.stderr, lines)


def _write(stream: TextIO, lines: Sequence[str]) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    for line in lines:
        # What the terminal does not have is escaped too, in place of an exception.
        print(printable(line).encode(encoding, "backslashreplace").decode(encoding), file=stream)


def print_json(found: Any, *, other: Callable[[Any], str] = repr) -> None:
    """Reports for programs, or a value, as JSON in ASCII, on which no terminal acts; `other` shows what is not JSON."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS

    def plain(found: Any) -> Any:
        return found.model_dump() if isinstance(found, BaseModel) else other(found)

    try:
        text = orjson.dumps(found, default=plain, option=options)
    except TypeError:  # a key that is a tuple, a lone surrogate: values of conflicts can be anything
        text = orjson.dumps(encode_leniently(found).plain, option=options)
    print(re.sub(r"[^\n -~]", lambda one: json.dumps(one[0])[1:-1], text.decode()))
