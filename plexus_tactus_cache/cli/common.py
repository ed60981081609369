"""What the groups of commands share: options, opening the store, and how things are printed."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import orjson
from pydantic import BaseModel

from plexus_tactus_cache.cache import ProcedureCache
from plexus_tactus_cache.errors import StoreReadOnly
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
    return ProcedureCache(directory=_directory(options), background=False)


def look_at_store(options: argparse.Namespace) -> ProcedureCache:
    """The cache asked for, to be looked at: nothing is changed, and nobody waited for."""
    return ProcedureCache(directory=_directory(options), read_only=True)


def _directory(options: argparse.Namespace) -> Path:
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


def print_json(found: BaseModel | Sequence[BaseModel]) -> None:
    """Reports for programs."""
    plain = found.model_dump() if isinstance(found, BaseModel) else [one.model_dump() for one in found]
    # values of conflicts can be anything; here they are to be looked at
    print(orjson.dumps(plain, default=repr, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
